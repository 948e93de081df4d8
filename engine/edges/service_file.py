"""How ``service.toml`` and the environment become ``ServiceConfig``, and every error in them a line.

1. Read: TOML. Of the environment, ``KAFKA_BOOTSTRAP_SERVERS`` goes before what the file says.
2. Secrets: from files of their own or from the environment (which goes first), where the protocol has a use for them.
3. Values: key by key (pydantic; unknown keys are refused).
4. Relations between values, each where the values it speaks of are right by themselves.
5. Files that are named must be there, and what is said of symbols must be of symbols that the risk file has. Paths are
   relative to the TOML file.

All errors are collected and raised together, as for the risk file. A secret is a ``SecretStr`` from the moment it is
read. No error shows one, nor the value of a key that is not known: it may be a password under a misspelled name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from engine.edges.config import Errors, FloatText, load_risk, read_toml
from engine.edges.service_config import (
    KEYS,
    SECRET_OF,
    SECRETS,
    SUBTABLES,
    KafkaConfig,
    Secret,
    ServiceConfig,
    broken_relations,
    to_optional,
    values_of,
)
from engine.errors import InputError, ParamError

BOOTSTRAP_VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"
# Longer than any password; and /dev/zero, given for one, has no end.
SECRET_BYTES_MAX = 4096
# type of a problem -> its rule, in the words of the risk file's errors
WORDING = {
    "int_type": "must be an integer",
    "string_type": "must be a string",
    "is_instance_of": "must be a string",
    "bool_type": "must be true or false",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "literal_error": "one of {expected}",
    "dict_type": "must be a table",
    "value_error": "{error}",
}
# Those that must be there to be read later; the secrets are read at once.
FILES = ("service.risk", "service.book", "kafka.ca_file", "kafka.certificate_file", "kafka.key_file")


class Findings(Errors):
    """The errors of one service file, and the keys they are about."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = path.name
        self.wrong: set[str] = set()

    def note(self, place: str, value: object, rule: str, *, variable: str = "") -> None:
        """Note a broken rule about ``table.key``, under the name of the variable where the value came from one."""
        table, _, key = place.rpartition(".")
        self.add(self.file, "" if variable else table, ParamError(variable or key, value, rule))
        self.wrong.add(place)


def default_service_path() -> Path:
    """Return the shipped service file: the wheel's copy, or ``config/service.toml`` of the source tree."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "_config" / "service.toml"
    return packed if packed.is_file() else package.parent / "config" / "service.toml"


def load_service(path: Path, env: Mapping[str, str]) -> ServiceConfig:
    """Return the configuration of a file and the environment; raise InputError with all that is wrong."""
    findings = Findings(path)
    tables = read_tables(path, findings)
    variables = {}
    if env.get(BOOTSTRAP_VARIABLE):
        tables["kafka"]["bootstrap_servers"] = env[BOOTSTRAP_VARIABLE]
        variables["kafka.bootstrap_servers"] = BOOTSTRAP_VARIABLE
    protocol = tables["kafka"].get("security_protocol", KafkaConfig().security_protocol)
    for secret in SECRETS:
        if not secret.protocols or protocol in secret.protocols:
            load_secret(path.parent, secret, tables[secret.table], env, findings)
    fields = {**tables["service"], **{name: tables[name] for name in SUBTABLES}}
    note_values(path.parent, fields, variables, findings)
    # Apart from the models, which look at no relation as soon as one value is wrong.
    given = {f"{name}.{key}": to_optional(value) for name, table in tables.items() for key, value in table.items()}
    right = {place: value for place, value in given.items() if place not in findings.wrong}
    values = values_of(ServiceConfig()) | right
    for place, rule in list(broken_relations(values, findings.wrong)):
        findings.note(place, values[place], rule)
    note_files(path.parent, values, findings)
    note_betas(path.parent, values, findings)
    findings.raise_if_any()
    return ServiceConfig.model_validate(fields, context={"folder": path.parent})


def read_tables(path: Path, findings: Findings) -> dict[str, dict[str, Any]]:
    """Return the known keys of the known tables; note all others, whose values are not shown."""
    raw = read_toml(path)
    for name in raw:
        if name not in KEYS:
            findings.note(name, None, f"unknown key; known are {', '.join(KEYS)}")
    tables: dict[str, dict[str, Any]] = {}
    for name, known in KEYS.items():
        table = raw.get(name, {})
        if not isinstance(table, dict):
            findings.note(name, None, "must be a table")
            findings.wrong |= {f"{name}.{key}" for key in known}
            table = {}
        for key in table:
            if key not in known:
                findings.note(f"{name}.{key}", None, unknown_rule(key, known))
        # As a float it is refused everywhere; as the text of one it might pass for a name.
        tables[name] = {
            key: float(value) if isinstance(value, FloatText) else value for key, value in table.items() if key in known
        }
    return tables


def unknown_rule(key: str, known: list[str]) -> str:
    """Return why a key has no place in a table."""
    secret = SECRET_OF.get(key)
    if secret is None:
        return f"unknown key; known are {', '.join(known)}"
    return f"a secret has no place in this file: name its file as {secret.file_key}, or set {secret.variable}"


def load_secret(
    folder: Path, secret: Secret, table: dict[str, Any], env: Mapping[str, str], findings: Findings
) -> None:
    """Put a secret into its table where the environment or a file has it."""
    place, name = f"{secret.table}.{secret.file_key}", table.get(secret.file_key)
    if env.get(secret.variable):
        text, file, variable = env[secret.variable], None, secret.variable
    elif isinstance(name, str) and name and "\0" not in name:
        file, variable = folder / name, ""
        try:
            text = read_line(file)
        except OSError as error:
            findings.note(place, file, f"cannot be read: {error.strerror or error}")
            return
    else:
        return
    if 0 < len(text) <= SECRET_BYTES_MAX and text.isprintable():
        table[secret.key] = SecretStr(text)
    else:
        findings.note(place, file, "must be one line of text", variable=variable)


def read_line(file: Path) -> str:
    """Return what a file holds, without the end of its one line."""
    with file.open("rb") as opened:
        raw = opened.read(SECRET_BYTES_MAX + len("\r\n") + 1)
    # A UnicodeDecodeError would carry the bytes along; what is not UTF-8 becomes characters that are not printable.
    return raw.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")


def note_values(folder: Path, fields: dict[str, Any], variables: Mapping[str, str], findings: Findings) -> None:
    """Note every value that is wrong by itself."""
    try:
        ServiceConfig.model_validate(fields, context={"folder": folder})
    except ValidationError as refused:
        for problem in refused.errors(include_url=False):
            loc = [str(part) for part in problem["loc"]]
            if loc:  # Without, it is about relations.
                place = ".".join(loc) if loc[0] in SUBTABLES else f"service.{loc[0]}"
                rule = WORDING[problem["type"]].format(**problem.get("ctx", {}))
                findings.note(place, without_login(problem["input"]), rule, variable=variables.get(place, ""))


def without_login(value: object) -> object:
    """Return a value without what stands before an @: somebody's idea of an address with a password."""
    _, at, rest = str(value).rpartition("@")
    return f"...@{rest}" if at else value


def note_files(folder: Path, values: Mapping[str, Any], findings: Findings) -> None:
    """Note every named file that is not there or may not be read."""
    for place in FILES:
        if values[place] is not None and place not in findings.wrong:
            file = folder / values[place]
            if not (os.path.isfile(file) and os.access(file, os.R_OK)):
                findings.note(place, file, "is not a file that can be read")


def note_betas(folder: Path, values: Mapping[str, Any], findings: Findings) -> None:
    """Note every beta of a symbol or an asset that the risk file does not have, and what is wrong with that file."""
    betas = {place: values[place] for place in ("survey.betas", "survey.asset_betas") if place not in findings.wrong}
    if not any(betas.values()) or "service.risk" in findings.wrong:
        return
    path = folder / values["service.risk"]
    try:
        risk = load_risk(path)
    except InputError as error:
        findings.lines += str(error).splitlines()
        return
    known: dict[str, Mapping[str, object]] = {"survey.betas": risk.instruments, "survey.asset_betas": risk.assets}
    for place, named in betas.items():
        for name, beta in named.items():
            if name not in known[place]:
                findings.note(f"{place}.{name}", beta, f"{path.name} has nothing of that name")
