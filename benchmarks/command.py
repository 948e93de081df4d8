"""How a benchmark is run from a shell: its options, its tables on a terminal, its figures in a file, its exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import LiqEngineError

BROKEN_SHOWN = 10
Document = TypeVar("Document")


@dataclass(frozen=True, slots=True)
class Found:
    """What a benchmark has found: text for people, a document for programs, a sentence for each promise that broke.

    A document is what JSON holds, and dataclasses.
    """

    text: str
    document: Any
    broken: Sequence[str] = ()


def parser_of(name: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that every benchmark has; the first line of its module says what it does."""
    about = (doc or "").partition("\n")[0].partition("``python")[0].rstrip(" :")
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=about)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    return parser


def told(document: Document, text_of: Callable[[Document], str]) -> Found:
    """Return figures that no promise is made about."""
    return Found(text_of(document), document)


def finish(measure: Callable[[], Found], file: Path | None) -> int:
    """Measure, print and write; return the exit code: 1 where a promise broke, or that of what was in the way."""
    try:
        found = measure()
    except LiqEngineError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(found.text)
    if file is not None:
        file.write_text(json.dumps(found.document, indent=2, default=asdict) + "\n", encoding="utf-8")
    for sentence in found.broken[:BROKEN_SHOWN]:
        print(f"BROKEN: {sentence}", file=sys.stderr)
    if len(found.broken) > BROKEN_SHOWN:
        print(f"{len(found.broken):,} promises broken", file=sys.stderr)
    return 1 if found.broken else 0
