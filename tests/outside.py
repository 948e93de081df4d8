"""How tests come by programs that are no Python packages, or that Python packages merely carry.

    carried     hadolint, shellcheck, yamllint ...: in the folder of this interpreter, put there by the extra ``dev``
    kustomize   on the PATH, else built once by ``go install`` from the pinned version and kept in the user's cache
    parser      AsyncAPI's, installed once by ``npm ci`` from ``tests/asyncapi/package-lock.json`` and kept there too

What cannot be had makes a test skip, saying so; under CI it fails, because a skipped proof would go unseen there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The last one that Debian 12's Go can build.
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.0.3"
BRING_TIMEOUT_S = 600.0


def do_without(reason: str) -> NoReturn:
    """Fail under CI, else skip, saying what is missing."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def try_program(name: str) -> str | None:
    """Return the path of a program: this environment's own, else the one on the PATH, else None."""
    return shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))


def program(name: str) -> str:
    """Return the path of a program, or end the test."""
    return try_program(name) or do_without(f"{name} is not installed")


def cache_folder(name: str, content: bytes) -> Path:
    """Return the folder of the user's cache for what ``content`` pins."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liq-engine"
    return caches / f"{name}-{hashlib.sha256(content).hexdigest()[:8]}"


@cache
def kustomize() -> str:
    """Return the path of kustomize, built if need be, or end the test."""
    found = try_program("kustomize")
    if found is not None:
        return found
    kept = cache_folder("kustomize", KUSTOMIZE.encode()) / "kustomize"
    if not kept.is_file():
        go = try_program("go") or do_without("neither kustomize nor Go to build it with is installed")
        bring(kept.parent, [go, "install", KUSTOMIZE], variable="GOBIN")
    return str(kept)


@cache
def asyncapi_parser() -> tuple[str, Path]:
    """Return node and the folder in which the AsyncAPI parser is installed, or end the test."""
    node, npm = try_program("node"), try_program("npm")
    if node is None or npm is None:
        do_without("node and npm are not installed: no AsyncAPI parser")
    source = ROOT / "tests" / "asyncapi"
    kept = cache_folder("asyncapi", (source / "package-lock.json").read_bytes())
    if not kept.is_dir():
        bring(kept, [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], copy=source)
    return node, kept


def bring(folder: Path, command: list[str], *, variable: str = "", copy: Path | None = None) -> None:
    """Run what fills ``folder``, in a draft beside it that takes its name once it is whole; ends the test if it fails.

    ``variable`` tells the command where to put things; ``copy`` is a folder that it starts from.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="bringing-") as draft:
        whole = Path(draft) / "whole"
        if copy is not None:
            shutil.copytree(copy, whole)
        else:
            whole.mkdir()
        environment = {**os.environ, variable: str(whole)} if variable else None
        done = subprocess.run(
            command, cwd=whole, env=environment, capture_output=True, text=True, timeout=BRING_TIMEOUT_S, check=False
        )
        if done.returncode != 0:
            do_without(f"{' '.join(command[1:])}: {done.stderr.strip()[-300:]}")
        try:
            whole.rename(folder)
        except OSError:
            # Another run was faster.
            if not folder.is_dir():
                raise
