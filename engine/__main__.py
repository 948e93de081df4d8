"""What the command line offers: one verb a command, text for people, ``--json`` for machines, progress on stderr.

Exit codes: 0 done, 1 an invariant broke, 2 bad input or configuration, 3 the broker cannot be reached.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import __version__
from engine.errors import LiqEngineError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = build_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except LiqEngineError as error:
        print(f"liq-engine {options.verb}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough.
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(prog="liq-engine", description=__doc__.split("\n\n")[0] if __doc__ else None)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = add_verb(verbs, "demo", run_demo, "a seeded crash over a synthetic population, through the real core")
    demo.add_argument("--out", type=Path, default=Path("demo-out"), help="where the files go (demo-out)")
    demo.add_argument("--accounts", type=int, default=3000, help="how many accounts (3000)")
    demo.add_argument("--seed", type=int, default=1, help="seed of population and market (1)")
    add_risk(demo)

    replay = add_verb(verbs, "replay", run_replay_verb, "event logs, merged by time, through the core")
    replay.add_argument("events", nargs="+", type=Path, metavar="EVENTS", help="event log, vendor file or folder")
    add_risk(replay)
    replay.add_argument("--book", type=Path, help="book file to start from")
    replay.add_argument("--venue", default="none", choices=["none", "book", "impact"], help="who fills orders (none)")
    replay.add_argument("--out", type=Path, help="folder for outputs, final book, summary and report")
    replay.add_argument("--format", help="name of the files' format, where it is not recognised")
    replay.add_argument("--batch", type=int, default=4096, help="messages a batch; never changes a result (4096)")
    replay.add_argument("--quiet", action="store_true", help="no progress on stderr")

    margin = add_verb(verbs, "margin", run_margin, "margin figures of every account of a book file")
    margin.add_argument("book", type=Path, metavar="BOOK")
    add_risk(margin)

    synth = add_verb(verbs, "synth", run_synth, "a population for a market history, open interest balanced")
    synth.add_argument("--accounts", type=int, required=True)
    synth.add_argument("--seed", type=int, default=1)
    synth.add_argument("--marks", nargs="+", type=Path, required=True, metavar="FILE")
    synth.add_argument("--out", type=Path, required=True, metavar="BOOK")
    synth.add_argument("--format", help="name of the files' format, where it is not recognised")
    add_risk(synth)

    verify = add_verb(verbs, "verify", run_verify, "derive every order of a replay's outputs again, without the core")
    verify.add_argument("out", type=Path, metavar="OUT_DIR", help="folder that demo or replay --out wrote")

    check = add_verb(verbs, "check-config", run_check_config, "read a risk file and say what it means")
    check.add_argument("file", nargs="?", type=Path, metavar="RISK")
    add_risk(check)

    add_verb(verbs, "warmup", run_warmup, "compile and cache all kernels")
    add_verb(verbs, "version", run_version, "versions of the engine and of what shapes its results")
    return parser


def add_verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """Add one verb with the options every verb has."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=run)
    return parser


def add_risk(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the risk file."""
    parser.add_argument("--risk", type=Path, help="risk file (the one shipped as config/risk.toml)")


def say(options: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    """Print a result for machines or for people."""
    print(json.dumps(document) if options.json else text)


def run_demo(options: argparse.Namespace) -> int:
    """``demo``: no server, no data, no network."""
    from engine.tools.demo import run_demo as run
    from engine.tools.summary_text import summary_text

    summary = run(options.out, accounts=options.accounts, seed=options.seed, risk=options.risk)
    say(options, summary, summary_text(summary, options.out))
    return 0


def run_replay_verb(options: argparse.Namespace) -> int:
    """``replay``."""
    from engine.edges.config import default_risk_path, load_risk
    from engine.tools.replay import ReplayOptions, run_replay
    from engine.tools.summary_text import summary_text

    request = ReplayOptions(
        events=options.events,
        risk=load_risk(options.risk),
        risk_name=str(options.risk or default_risk_path().name),
        book=options.book,
        venue=options.venue,
        out=options.out,
        format=options.format,
        title=f"Replay of {', '.join(path.name for path in options.events[:3])}",
        batch=options.batch,
        show_progress=not options.quiet,
    )
    summary = run_replay(request)
    say(options, summary, summary_text(summary, options.out))
    return 0


def run_margin(options: argparse.Namespace) -> int:
    """``margin``."""
    from engine.edges.config import load_risk
    from engine.tools.statements import margin_document, table_text

    document = margin_document(options.book, load_risk(options.risk))
    say(options, document, table_text(document))
    return 0


def run_synth(options: argparse.Namespace) -> int:
    """``synth``."""
    from engine.edges.config import load_risk
    from engine.tools.population import population_for

    document, lines = population_for(
        options.marks,
        risk=load_risk(options.risk),
        accounts=options.accounts,
        seed=options.seed,
        out=options.out,
        format=options.format,
    )
    say(options, document, "\n".join(lines))
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """``verify``."""
    from engine.tools.verify import verdict_document, verdict_text, verify

    verdict = verify(options.out)
    say(options, verdict_document(verdict), verdict_text(verdict))
    return 1 if verdict.differences else 0


def run_check_config(options: argparse.Namespace) -> int:
    """``check-config``."""
    from engine.edges.config import load_risk
    from engine.edges.risk_view import describe_risk, risk_as_json

    risk = load_risk(options.file or options.risk)
    say(options, risk_as_json(risk), describe_risk(risk))
    return 0


def run_warmup(options: argparse.Namespace) -> int:
    """``warmup``."""
    from engine.tools.warmup import warm_up

    document = warm_up()
    say(
        options,
        document,
        f"{document['kernels']} kernels ready in {document['seconds']} s, cached in {document['cache']}",
    )
    return 0


def run_version(options: argparse.Namespace) -> int:
    """``version``."""
    from importlib.metadata import version

    names = ("numba", "numpy", "orjson", "aiokafka")
    document = {"liq-engine": __version__, "python": sys.version.split()[0]} | {name: version(name) for name in names}
    say(options, document, "\n".join(f"{name} {value}" for name, value in document.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
