"""What the command line offers: one verb a command, text for people, ``--json`` for machines, progress on stderr.

Exit codes: 0 done, 1 an invariant broke, 2 bad input or configuration, 3 the broker cannot be reached.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import __version__
from engine.errors import InputError, LiqEngineError

if TYPE_CHECKING:
    from engine.edges.service_config import ServiceConfig


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
    add_alternatives(demo)
    demo.add_argument("--serve", action="store_true", help="show the live page over the crash as it runs, until Ctrl-C")
    demo.add_argument("--port", type=int, help="of the page (that of the service file: 9464; 0: any that is free)")
    demo.add_argument("--speed", type=float, default=30.0, help="of --serve; 60: an hour a minute, 0: at once (30)")
    add_risk(demo)
    add_config(demo)

    replay = add_verb(verbs, "replay", run_replay_verb, "event logs, merged by time, through the core")
    replay.add_argument("events", nargs="+", type=Path, metavar="EVENTS", help="event log, vendor file or folder")
    add_risk(replay)
    replay.add_argument("--book", type=Path, help="book file to start from")
    replay.add_argument("--venue", default="none", choices=["none", "book", "impact"], help="who fills orders (none)")
    replay.add_argument("--out", type=Path, help="folder for outputs, final book, summary and report")
    replay.add_argument("--format", help="name of the files' format, where it is not recognised")
    replay.add_argument("--batch", type=int, default=4096, help="messages a batch; never changes a result (4096)")
    replay.add_argument(
        "--verify",
        type=int,
        default=0,
        metavar="N",
        help="at every N-th message hold the trigger index against a look at everybody; stops at the first difference",
    )
    add_alternatives(replay)
    replay.add_argument("--shard", metavar="K/N", help="be shard K of N: its part of the book, its number in outputs")
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

    compare = add_verb(verbs, "compare", run_compare, "two runs of one log side by side, and for whom they differ")
    compare.add_argument("a", type=Path, metavar="RUN_A", help="folder that replay --out or demo wrote")
    compare.add_argument("b", type=Path, metavar="RUN_B", help="another, of the same log and book")

    check = add_verb(verbs, "check-config", run_check_config, "read a risk (or service) file and say what it means")
    check.add_argument("file", nargs="?", type=Path, metavar="RISK")
    add_risk(check)
    add_config(check)

    run = add_verb(verbs, "run", run_service, "the service on Kafka: read, decide, write, exactly once")
    add_shards(run)
    add_config(run)

    follow = add_verb(verbs, "follow", run_follow, "a hot standby of one shard, which can take it over")
    follow.add_argument("--shard", type=int, default=0, help="which shard (0)")
    follow.add_argument("--take-over-after", type=float, metavar="SECONDS", help="of silence; never without it")
    add_config(follow)

    audit = add_verb(verbs, "audit", run_audit, "fold a shard's journal again and compare every output and hash")
    audit.add_argument("--since", type=Path, metavar="SNAPSHOT", help="begin at a snapshot file, not at the genesis")
    audit.add_argument("--export", type=Path, metavar="LOG", help="write the inputs in the shard's order, for replay")
    add_shards(audit)
    add_config(audit)

    shadow = add_verb(verbs, "shadow", run_shadow, "who would have been treated differently with other parameters")
    shadow.add_argument("--risk", type=Path, required=True, metavar="CANDIDATE", help="the other risk file")
    shadow.add_argument("--shard", type=int, default=0, help="which shard (0)")
    add_config(shadow)

    topics = add_verb(verbs, "topics", run_topics, "create the topics, or check them against the declaration")
    topics.add_argument("action", choices=["show", "create", "check"], help="show needs no broker")
    add_config(topics)

    play = add_verb(verbs, "play", run_play, "produce any log that replay reads to the input topics")
    play.add_argument("events", nargs="+", type=Path, metavar="EVENTS", help="event log, vendor file or folder")
    play.add_argument("--speed", type=float, default=1.0, help="1: as it happened, 60: an hour a minute, 0: at once")
    play.add_argument("--format", help="name of the files' format, where it is not recognised")
    add_config(play)

    dev = add_verb(verbs, "dev", run_dev, "the service with a Kafka of its own and a crash to watch, on this machine")
    dev.add_argument("events", nargs="*", type=Path, metavar="EVENTS", help="what to play (the market of demo)")
    dev.add_argument(
        "--out", type=Path, default=Path("dev-out"), help="where broker, market and snapshots go (dev-out)"
    )
    dev.add_argument("--accounts", type=int, default=1000, help="of the market of demo (1000)")
    dev.add_argument("--speed", type=float, default=60.0, help="1: as it happened, 60: an hour a minute, 0: at once")
    dev.add_argument("--stay", action="store_true", help="go on after the log is played, until Ctrl-C")
    add_config(dev)

    add_verb(verbs, "warmup", run_warmup, "compile and cache all kernels")
    add_verb(verbs, "version", run_version, "versions of the engine and of what shapes its results")
    return parser


def add_verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """Add one verb with the options every verb has."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=run)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the service file."""
    parser.add_argument("--config", type=Path, help="service file (the one shipped as config/service.toml)")


def add_shards(parser: argparse.ArgumentParser) -> None:
    """Add the options that name shards."""
    parser.add_argument("--shards", help="numbers with commas between, as in 0,3 (all)")
    parser.add_argument("--instance", metavar="I/N", help="the shards k with k mod N = I")


def service_config(options: argparse.Namespace) -> ServiceConfig:
    """Return the configuration that a command names."""
    from engine.edges.service_file import default_service_path, load_service

    return load_service(options.config or default_service_path(), os.environ)


def add_risk(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the risk file."""
    parser.add_argument("--risk", type=Path, help="risk file (the one shipped as config/risk.toml)")


def add_alternatives(parser: argparse.ArgumentParser) -> None:
    """Add the option that has the report compare policies."""
    text = "the report compares other policies on this log: a run for each"
    parser.add_argument("--alternatives", action="store_true", help=text)


def say(options: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    """Print a result for machines or for people."""
    print(json.dumps(document) if options.json else text)


def say_at_once(line: str) -> None:
    """Print a line that somebody is watching for."""
    print(line, flush=True)


def say_beside(line: str) -> None:
    """Print a line that is not part of the result."""
    print(line, file=sys.stderr, flush=True)


def make_ready(say: Callable[[str], None]) -> None:
    """Have all kernels compiled at once, where they would else be one after the other as they are needed."""
    from engine.edges.warmup import is_cold, warm_up

    if is_cold():
        warm_up(say)


def run_demo(options: argparse.Namespace) -> int:
    """``demo``: no server (but for the page of ``--serve``), no data, no network."""
    if options.serve:
        return serve_demo(options)
    from engine.tools.demo import run_demo as run
    from engine.tools.summary_text import summary_text

    make_ready(say_beside)
    summary = run(
        options.out,
        accounts=options.accounts,
        seed=options.seed,
        risk=options.risk,
        alternatives=options.alternatives,
    )
    say(options, summary, summary_text(summary, options.out))
    return 0


def serve_demo(options: argparse.Namespace) -> int:
    """``demo --serve``: host, token and port of the page are those of ``[admin]`` of the service file."""
    from engine.edges.config import default_risk_path, load_risk
    from engine.edges.warmup import warm_up
    from engine.shell.demo import serve
    from engine.shell.play import open_all
    from engine.tools.demo import write_market

    config = service_config(options)
    if options.port is not None and not 0 <= options.port <= 65_535:
        raise InputError(f"--port {options.port}: must be from 0 to 65535")
    port = config.admin.port if options.port is None else options.port
    # Nobody trades here: whoever looks may take all the time that the crash leaves.
    admin = config.admin.model_copy(update={"port": port, "loop_percent": 100})
    risk_path = options.risk or default_risk_path()
    risk = load_risk(risk_path)
    book, log = write_market(options.out, risk, accounts=options.accounts, seed=options.seed)
    messages = open_all(risk, [log], format=None, speed=options.speed)
    # Cached ones are loaded too: no tick of a running crash is to wait for them.
    warm_up(say_beside)
    own = {"cluster": "demo", "shards": 1, "risk": risk_path, "book": book, "admin": admin}
    serve(config.model_copy(update=own), risk, messages, speed=options.speed, say=say_at_once)
    return 0


def run_replay_verb(options: argparse.Namespace) -> int:
    """``replay``."""
    from engine.edges.config import default_risk_path, load_risk
    from engine.tools.replay import ReplayOptions, run_replay
    from engine.tools.summary_text import summary_text

    if options.batch < 1:
        raise InputError(f"--batch {options.batch}: must be at least 1")
    shard, shards = shard_of(options.shard)
    request = ReplayOptions(
        events=options.events,
        risk=load_risk(options.risk),
        risk_name=str(options.risk or default_risk_path().name),
        book=options.book,
        venue=options.venue,
        out=options.out,
        format=options.format,
        title=f"Replay of {replayed(options.events)}",
        batch=options.batch,
        verify_every=max(options.verify, 0),
        show_progress=not options.quiet,
        shard=shard,
        shards=shards,
        partition_of=partitioner() if shards > 1 else None,
        alternatives=options.alternatives,
    )
    make_ready((lambda _: None) if options.quiet else say_beside)
    summary = run_replay(request)
    say(options, summary, summary_text(summary, options.out))
    return 0


def partitioner() -> Callable[[str, int], int]:
    """Return the function that says which shard an account belongs to."""
    from engine.shell.kafka import partition_of

    return partition_of


def shard_of(text: str | None) -> tuple[int, int]:
    """Return number and count of ``--shard K/N``."""
    if text is None:
        return 0, 1
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise InputError(f"--shard {text}: must be K/N with K below N, as in 0/4")
    return int(number), int(count)


def replayed(paths: Sequence[Path]) -> str:
    """Return what is replayed for a heading: one or two names, of more the folder they are all in, or how many."""
    if len(paths) <= 2:
        return " and ".join(path.name for path in paths)
    folders = {path.parent.name for path in paths}
    return f"{len(paths)} files of {folders.pop()}" if len(folders) == 1 and folders != {""} else f"{len(paths)} files"


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


def run_compare(options: argparse.Namespace) -> int:
    """``compare``."""
    from engine.tools.compare import compare
    from engine.tools.compare_text import compare_text

    document = compare(options.a, options.b)
    say(options, document, compare_text(document))
    return 0


def run_service(options: argparse.Namespace) -> int:
    """``run``."""
    from engine.shell.service import serve, shards_of

    config = service_config(options)
    return serve(config, shards_of(config, shards=options.shards, instance=options.instance))


def run_follow(options: argparse.Namespace) -> int:
    """``follow``."""
    from engine.shell.follow import follow
    from engine.shell.service import shards_of

    config = service_config(options)
    (shard,) = shards_of(config, shards=str(options.shard), instance=None)
    return follow(config, shard, take_over_after=options.take_over_after)


def run_audit(options: argparse.Namespace) -> int:
    """``audit``."""
    from dataclasses import asdict

    from engine.shell.audit import audit, findings_text
    from engine.shell.kafka import Kafka
    from engine.shell.service import origins_of, shards_of

    config = service_config(options)
    shards = shards_of(config, shards=options.shards, instance=options.instance)
    if (options.export or options.since) is not None and len(shards) != 1:
        raise InputError("--export and --since: name the one shard with --shards")
    _, origins = origins_of(config, shards)
    findings = audit(Kafka(config), origins, since=options.since, export=options.export)
    say(options, {"shards": [asdict(one) for one in findings]}, findings_text(findings))
    return 1 if any(one.difference is not None for one in findings) else 0


def run_shadow(options: argparse.Namespace) -> int:
    """``shadow``."""
    from engine.edges.config import load_risk
    from engine.shell.kafka import Kafka
    from engine.shell.service import book_source, origins_of, shards_of
    from engine.shell.shadow import shadow, shadow_text

    config = service_config(options)
    (shard,) = shards_of(config, shards=str(options.shard), instance=None)
    candidate = book_source(config).new_shard(load_risk(options.risk), shard)
    _, (origin,) = origins_of(config, [shard])
    document = shadow(Kafka(config), origin, candidate)
    say(options, document, shadow_text(document))
    return 0


def run_topics(options: argparse.Namespace) -> int:
    """``topics``."""
    from engine.edges.topics import topics_document, topics_text

    config = service_config(options)
    if options.action == "show":
        say(options, topics_document(config), topics_text(config))
        return 0
    from engine.shell.topics import check, create

    problems = (create if options.action == "create" else check)(config)
    text = "\n".join(problems) or f"all topics are as declared at {config.kafka.bootstrap_servers}"
    say(options, {"ok": not problems, "problems": problems}, text)
    return 2 if problems else 0


def run_play(options: argparse.Namespace) -> int:
    """``play``."""
    from engine.edges.config import load_risk
    from engine.shell.play import play_logs, play_text

    config = service_config(options)
    counts = play_logs(config, load_risk(config.risk), options.events, format=options.format, speed=options.speed)
    say(options, counts, play_text(counts))
    return 0


def run_dev(options: argparse.Namespace) -> int:
    """``dev``: the broker of KAFKA_BOOTSTRAP_SERVERS, or one that is brought by Maven and ends with the command."""
    from engine.edges.config import load_risk
    from engine.edges.service_file import BOOTSTRAP_VARIABLE
    from engine.shell.dev import dev
    from engine.shell.play import open_all
    from engine.tools.demo import write_market
    from engine.tools.kafka_broker import Broker

    config = service_config(options)
    risk = load_risk(config.risk)
    events: list[Path] = options.events
    if not events:
        book, log = write_market(options.out, risk, accounts=options.accounts, seed=1)
        config, events = config.model_copy(update={"book": book.resolve()}), [log]
    snapshots = config.snapshots.model_copy(update={"folder": options.out / "snapshots"})
    config = config.model_copy(update={"snapshots": snapshots})
    messages = open_all(risk, events, format=None, speed=options.speed)
    if BOOTSTRAP_VARIABLE in os.environ:
        return dev(config, messages, speed=options.speed, stay=options.stay, say=say_at_once)
    with Broker((options.out / "kafka").resolve()) as broker:
        kafka = config.kafka.model_copy(update={"bootstrap_servers": broker.bootstrap})
        config = config.model_copy(update={"kafka": kafka})
        return dev(config, messages, speed=options.speed, stay=options.stay, say=say_at_once)


def run_check_config(options: argparse.Namespace) -> int:
    """``check-config``."""
    from engine.edges.config import load_risk
    from engine.edges.risk_view import describe_risk, risk_as_json

    if options.config is not None:
        from engine.edges.service_view import describe_service, service_document

        config = service_config(options)
        say(options, service_document(config), describe_service(config))
        return 0
    risk = load_risk(options.file or options.risk)
    say(options, risk_as_json(risk), describe_risk(risk))
    return 0


def run_warmup(options: argparse.Namespace) -> int:
    """``warmup``."""
    from engine.edges.warmup import warm_up

    document = warm_up(say_beside)
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
