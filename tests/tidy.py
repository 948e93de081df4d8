"""What shape the project keeps: who imports whom, which library lives where, and what no file may hold.

Each rule is a function from one source file to the problems it finds there; ``RULES`` says which files it is for and
``EXEMPT`` which of them may break it, and why. ``test_tidy.py`` runs them over the project.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property

ENGINE_LINES_MAX = 500

# ring -> the rings it may import. The root package holds the version and nothing else.
RINGS = {
    "ground": {"ground"},
    "core": {"ground", "core"},
    "edges": {"ground", "core", "edges"},
    "shell": {"ground", "core", "edges", "shell"},
    "tools": {"ground", "core", "edges", "tools"},
    "main": {"ground", "core", "edges", "shell", "tools"},
}
GROUND = ("engine", "engine.errors", "engine.units")

# library -> the only files of the engine that may import it, so that it can be replaced in one place.
LIBRARIES = {
    "aiohttp": ("engine/shell/admin/*.py",),
    "aiokafka": ("engine/shell/kafka*.py",),
    "orjson": ("engine/edges/codec*.py", "engine/edges/snapshot.py"),
    "prometheus_client": ("engine/edges/metrics/*.py",),
    "pyarrow": ("engine/edges/readers/*.py",),
    "pydantic": ("engine/edges/config.py", "engine/edges/service_*.py"),
    "rich": ("engine/tools/progress.py",),
    "uvloop": ("engine/shell/*.py",),
}

# What the core would need to read a clock, roll dice, log, or reach a file, a thread or a socket.
CLOCKS_AND_DICE = {"datetime", "random", "secrets", "time", "uuid"}
FILES_AND_SOCKETS = {"io", "logging", "os", "pathlib", "shutil", "socket", "subprocess", "tempfile", "urllib"}
THREADS_AND_SIGNALS = {"asyncio", "concurrent", "multiprocessing", "queue", "signal", "threading"}
IMPURE = CLOCKS_AND_DICE | FILES_AND_SOCKETS | THREADS_AND_SIGNALS
FILE_METHODS = {"open", "read_bytes", "read_text", "write_bytes", "write_text"}
FLOAT_NAMES = {"float", "float16", "float32", "float64", "longdouble"}
BLIND = {"Exception", "BaseException"}

# Spelled in parts: this file is itself under the rules.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:" + "|".join(("work", "root", "tmp", "home/[a-z]+")) + r")/")
UNFINISHED = re.compile(
    r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")) + r")\b"
)
PUBLIC_HOSTS = {"pypi.org", "files.pythonhosted.org"}

KEYS = "keys decide when a row is looked at, never what comes of it"
# (rule, file) -> why the file may break it. An entry that is no longer needed fails the tests.
EXEMPT = {
    ("core_is_pure", "engine/core/kernels/cache.py"): "finds where compiled code is cached; no output depends on it",
    ("core_opens_nothing", "engine/core/kernels/cache.py"): "hashes the kernels' sources to name that cache",
    ("core_is_integer", "engine/core/kernels/cache.py"): "joins the parts of that cache's path",
    ("core_is_integer", "engine/core/kernels/follow.py"): "bounds that say which marks are left to exact arithmetic",
    ("core_is_integer", "engine/core/kernels/limits.py"): "bounds that say where exact sums are to be made",
    ("core_is_integer", "engine/core/kernels/segments.py"): KEYS,
    ("core_is_integer", "engine/core/kernels/tables.py"): KEYS,
    ("core_is_integer", "engine/core/kernels/shares.py"): KEYS,
    ("core_is_integer", "engine/core/tables.py"): KEYS,
    ("core_is_integer", "engine/core/params.py"): "divisions only word the message of a value already refused",
}


@dataclass(frozen=True)
class Source:
    """One file: its path from the root, with forward slashes, and its text."""

    path: str
    text: str

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(ast.parse(self.text, self.path)))

    @cached_property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def ring(self) -> str | None:
        return ring_of(self.module)

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """(line, absolute dotted name) of all imports, those inside functions too; ``from a import b`` is ``a.b``."""
        package = self.module if self.path.endswith("/__init__.py") else self.module.rpartition(".")[0]
        found = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        return found


def ring_of(module: str) -> str | None:
    """Return the ring of a module or of a name in it, None if it belongs to no ring."""
    parts = module.split(".")
    if parts[:2] == ["engine", "__main__"]:
        return "main"
    if len(parts) > 1 and parts[1] in ("core", "edges", "shell", "tools"):
        return parts[1]
    if module in GROUND or ".".join(parts[:2]) in (*GROUND, "engine.__version__"):
        return "ground"
    return None


Problems = Iterator[tuple[int, str]]
Rule = Callable[[Source], Problems]


def rings_point_inward(source: Source) -> Problems:
    if source.ring is None:
        yield 1, "belongs to no ring: it stands beside core, edges, shell and tools"
        return
    for line, name in source.imports:
        if name.split(".")[0] in ("tests", "benchmarks"):
            yield line, f"the engine imports {name}"
        if name.split(".")[0] == "engine" and ring_of(name) not in RINGS[source.ring]:
            yield line, f"{source.ring} imports {name} of {ring_of(name)}"


def imports_are_written_out(source: Source) -> Problems:
    """An import by string would pass every other rule unseen."""
    for node in source.nodes:
        if isinstance(node, ast.Call) and name_of(node.func) in ("__import__", "import_module", "exec", "eval"):
            yield node.lineno, f"calls {name_of(node.func)}"


def libraries_stay_home(source: Source) -> Problems:
    for line, name in source.imports:
        homes = LIBRARIES.get(name.split(".")[0], ("*",))
        if not any(fnmatch(source.path, home) for home in homes):
            yield line, f"{name} belongs in {', '.join(homes)}"


def core_is_pure(source: Source) -> Problems:
    if source.ring not in ("ground", "core"):
        return
    for line, name in source.imports:
        if name.split(".")[0] in IMPURE or name.startswith("numpy.random"):
            yield line, f"imports {name}"
    for node in source.nodes:
        if isinstance(node, ast.Attribute) and node.attr == "random":
            yield node.lineno, "draws random numbers"


def core_opens_nothing(source: Source) -> Problems:
    if source.ring not in ("ground", "core"):
        return
    for node in source.nodes:
        if isinstance(node, ast.Call):
            method = isinstance(node.func, ast.Attribute) and node.func.attr in FILE_METHODS
            if method or name_of(node.func) in ("open", "input"):
                yield node.lineno, f"calls {name_of(node.func)}"
        elif isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            yield node.lineno, "reads the environment"


def core_is_integer(source: Source) -> Problems:
    if source.ring != "core":
        return
    for node in source.nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, float | complex):
            yield node.lineno, f"float literal {node.value}"
        elif isinstance(node, ast.Name | ast.Attribute) and name_of(node) in FLOAT_NAMES:
            yield node.lineno, f"uses {name_of(node)}"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            yield node.lineno, "divides into a float"


def modules_say_what_they_are(source: Source) -> Problems:
    tree = source.nodes[0]
    assert isinstance(tree, ast.Module)
    first_line = (ast.get_docstring(tree) or "").partition("\n")[0]
    if not first_line.endswith("."):
        yield 1, f"the docstring's first line is {first_line!r}, expected a sentence with its full stop"


def errors_are_named(source: Source) -> Problems:
    for node in source.nodes:
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or name_of(kind) in BLIND for kind in caught):
                yield node.lineno, "catches everything: name the errors, let the others stop the process"


def printing_is_for_tools(source: Source) -> Problems:
    if source.ring in ("tools", "main"):
        return
    for node in source.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno, "prints"


def files_fit_a_reader(source: Source) -> Problems:
    lines_count = len(source.text.splitlines())
    if lines_count > ENGINE_LINES_MAX:
        yield ENGINE_LINES_MAX, f"has {lines_count} lines, expected at most {ENGINE_LINES_MAX}"


def oracle_is_independent(source: Source) -> Problems:
    """What the oracle shares with the engine it cannot check, nor what it shares with tests that import the engine."""
    for line, name in source.imports:
        if name.split(".")[0] == "engine" or (name.startswith("tests.") and not name.startswith("tests.reference")):
            yield line, f"the oracle imports {name}"


def nothing_is_unfinished(source: Source) -> Problems:
    yield from matches(source, UNFINISHED)


def no_machine_is_named(source: Source) -> Problems:
    yield from matches(source, MACHINE_PATH)


def lock_names_public_hosts(source: Source) -> Problems:
    for number, line in enumerate(source.text.splitlines(), start=1):
        for host in re.findall(r"\w+://([^/\"]*)", line):
            if host not in PUBLIC_HOSTS:
                yield number, f"names the host {host}"


def matches(source: Source, pattern: re.Pattern[str]) -> Problems:
    for number, line in enumerate(source.text.splitlines(), start=1):
        if found := pattern.search(line):
            yield number, f"holds {found.group()!r}"


def name_of(node: ast.AST) -> str | None:
    """Return the last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


# rule -> the files it is for
RULES: dict[Rule, tuple[str, ...]] = {
    rings_point_inward: ("engine/*.py",),
    imports_are_written_out: ("engine/*.py",),
    libraries_stay_home: ("engine/*.py",),
    core_is_pure: ("engine/*.py",),
    core_opens_nothing: ("engine/*.py",),
    core_is_integer: ("engine/*.py",),
    modules_say_what_they_are: ("engine/*.py",),
    errors_are_named: ("engine/*.py", "benchmarks/*.py", "tests/*.py"),
    printing_is_for_tools: ("engine/*.py",),
    files_fit_a_reader: ("engine/*.py",),
    oracle_is_independent: ("tests/reference*.py",),
    nothing_is_unfinished: ("*",),
    no_machine_is_named: ("*",),
    lock_names_public_hosts: ("uv.lock",),
}


def problems_of(rule: Rule, source: Source) -> list[str]:
    """Return what ``rule`` finds in one file, as ``path:line: problem``; nothing if the rule is not for it."""
    if not any(fnmatch(source.path, pattern) for pattern in RULES[rule]):
        return []
    return [f"{source.path}:{line}: {problem}" for line, problem in sorted(set(rule(source)))]
