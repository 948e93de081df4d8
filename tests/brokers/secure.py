"""A real Kafka node as an exchange runs it: TLS, passwords or certificates, rights as ``deploy/kafka/acls.sh`` says.

Everything is made when a test needs it and lasts two days: an authority, the certificates it issues, the users.
The node has a listener for each way in, and some as they are set up by mistake:

PLAINTEXT  the administrator's own, who is a super user there: topics, rights, and what tests read
PASSWORD   SASL_SSL: a user of USERS shows who it is by SCRAM-SHA-512
MUTUAL     SSL: the client shows a certificate of the authority; its common name is who it is
EXPIRED    SASL_SSL with a certificate whose day has passed
ASTRAY     SASL_SSL, but the address that clients are sent on to is not the one its certificate is for
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from engine.tools.kafka_broker import (
    Broker,
    bring_jars,
    deploy_files,
    free_ports,
    java_command,
    last_lines,
    one_at_a_time,
    pinned_version,
)
from tests.brokers.real import do_without, need_kafka

# user -> password; characters that mean something to shells, TOML and SCRAM are among them, and none is of the product.
USERS = {
    "liq-engine": "Zr7=engine pass$word%",
    "liq-ledger": "Zr7=ledger pass$word%",
    "liq-market-data": "Zr7=market pass$word%",
    "liq-auditor": "Zr7=auditor pass$word%",
    "stranger": "Zr7=stranger pass$word%",
}
PASSWORD, MUTUAL, EXPIRED, ASTRAY = "PASSWORD", "MUTUAL", "EXPIRED", "ASTRAY"
PROTOCOLS = {PASSWORD: "SASL_SSL", MUTUAL: "SSL", EXPIRED: "SASL_SSL", ASTRAY: "SASL_SSL"}
# What certificates of the node are for: this name, and no address.
HOST = "localhost"
ELSEWHERE = "127.0.0.1"
DENIED = re.compile(r"Principal = (\S+) is Denied operation = (\w+) .*on resource = (\S+)")
# The authorizer says what it denied in a log of its own, at the level info.
AUTHORIZER_LOG = """\
status = warn
logger.authorizer.name = kafka.authorizer.logger
logger.authorizer.level = info
"""
SETTINGS = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "false",
    # Whoever comes by a listener without names: this node's own parts, and the administrator.
    "super.users": "User:ANONYMOUS",
    "sasl.enabled.mechanisms": "SCRAM-SHA-512",
    "ssl.keystore.type": "PEM",
    "ssl.truststore.type": "PEM",
    "listener.name.mutual.ssl.client.auth": "required",
    "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
}
LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
ACL_TOOL = "org.apache.kafka.tools.AclCommand"
# For programs that end after a second.
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
# A dozen runs of a second each: the first leaves its classes, loaded, for the others, which then take half of that.
ACL_SCRIPT = """\
#!/bin/sh
share=-XX:ArchiveClassesAtExit
[ -f {archive} ] && share=-XX:SharedArchiveFile
exec {java} {quick} $share={archive} -cp "{jars}" {tool} "$@"
"""


class Pair(NamedTuple):
    """A certificate and its key, in files."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates; ``certificate`` is what those who trust it are given."""

    def __init__(self, folder: Path, name: str = "Venue CA") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificate, self.key = folder / "ca.pem", folder / "ca.key"
        self._request("ca", name)
        openssl("x509", "-req", "-in", folder / "ca.csr", "-signkey", self.key, "-days", "2", "-out", self.certificate)

    def issue(self, file: str, name: str, *, host: str | None = None, days: int = 2) -> Pair:
        """Return a certificate for a common name, of a server at ``host`` if there is one; past with ``days`` of -1."""
        pair = Pair(self.folder / f"{file}.pem", self._request(file, name))
        extensions = self.folder / f"{file}.ext"
        extensions.write_text(f"subjectAltName=DNS:{host}\n" if host else "basicConstraints=CA:FALSE\n")
        signed: list[str | Path] = [
            "-CA",
            self.certificate,
            "-CAkey",
            self.key,
            "-CAcreateserial",
            "-extfile",
            extensions,
        ]
        openssl(
            "x509", "-req", "-in", self.folder / f"{file}.csr", *signed, "-days", str(days), "-out", pair.certificate
        )
        return pair

    def expired(self) -> Path:
        """Return the authority's own certificate as it was issued long ago: same name, same key, and past."""
        found = self.folder / "ca-expired.pem"
        openssl("x509", "-req", "-in", self.folder / "ca.csr", "-signkey", self.key, "-days", "-1", "-out", found)
        return found

    def _request(self, file: str, name: str) -> Path:
        """Make a key and a request for a certificate; return the key."""
        key = self.folder / f"{file}.key"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl("req", *curve, "-keyout", key, "-out", self.folder / f"{file}.csr", "-subj", f"/O=Venue/CN={name}")
        key.chmod(0o600)
        return key


def encrypted(key: Path, password: str) -> Path:
    """Return a copy of a key that only its password opens."""
    found, secret = key.with_suffix(".enc"), key.with_suffix(".pass")
    secret.write_text(password)
    openssl("pkcs8", "-topk8", "-in", key, "-passout", f"file:{secret}", "-out", found)
    secret.unlink()
    found.chmod(0o600)
    return found


def openssl(*arguments: str | Path) -> None:
    """Run openssl; fails the test with what it says."""
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, last_lines(done.stdout + done.stderr)


class SecureNode:
    """A node with all the listeners; ``broker`` is the process, ``authority`` whom everybody trusts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "authority")
        self.ports = dict(zip(PROTOCOLS, free_ports(len(PROTOCOLS)), strict=True))
        logging = folder / "authorizer.properties"
        logging.write_text(AUTHORIZER_LOG)
        users = [f'SCRAM-SHA-512=[name={name},password="{password}"]' for name, password in USERS.items()]
        self.broker = Broker(
            folder / "node",
            settings=SETTINGS,
            format_options=[part for user in users for part in ("--add-scram", user)],
            java_options=[f"-Dlog4j2.configurationFile={deploy_files() / 'log4j2.properties'},{logging}"],
        )
        self.broker.settings.update(self._listeners() | self._certificates())

    def _listeners(self) -> dict[str, str]:
        plain, controller = f"PLAINTEXT://127.0.0.1:{self.broker.port}", self.broker.controller_port
        own = {name: f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()}
        told = {name: f"{name}://{ELSEWHERE if name == ASTRAY else HOST}:{port}" for name, port in self.ports.items()}
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT", **PROTOCOLS}
        logins = {
            f"listener.name.{name.lower()}.scram-sha-512.sasl.jaas.config": LOGIN
            for name, protocol in PROTOCOLS.items()
            if protocol == "SASL_SSL"
        }
        return logins | {
            "listeners": ",".join([plain, f"CONTROLLER://127.0.0.1:{controller}", *own.values()]),
            "advertised.listeners": ",".join([plain, *told.values()]),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        }

    def _certificates(self) -> dict[str, str]:
        good = self.authority.issue("broker", "broker", host=HOST)
        past = self.authority.issue("broker-expired", "broker", host=HOST, days=-1)
        return {
            "ssl.truststore.location": str(self.authority.certificate),
            "ssl.keystore.location": str(joined(good)),
            "listener.name.expired.ssl.keystore.location": str(joined(past)),
            "listener.name.expired.ssl.keystore.type": "PEM",
        }

    def address(self, listener: str, host: str = HOST) -> str:
        """Return where a listener is."""
        return f"{host}:{self.ports[listener]}"

    def denied(self, since: int = 0) -> set[tuple[str, str, str]]:
        """Return what was denied to whom since a place in the node's log: principal, operation, resource."""
        text = self.broker.log.read_bytes()[since:].decode(errors="replace")
        return {(who.removeprefix("User:"), what, on) for who, what, on in DENIED.findall(text)}

    def log_size(self) -> int:
        """Return how long the node's log is."""
        return self.broker.log.stat().st_size

    def apply_acls(self, **environment: str) -> None:
        """Run ``deploy/kafka/acls.sh --apply`` with Kafka's own tool."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        tool = folder / "kafka-acls.sh"
        jars = f"{bring_acl_tool()}/*:{bring_jars()}/*"
        archive = folder / "classes.jsa"
        tool.write_text(
            ACL_SCRIPT.format(quick=" ".join(QUICK), archive=archive, java=java_command(), jars=jars, tool=ACL_TOOL)
        )
        tool.chmod(0o755)
        settings = {
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap,
            **environment,
        }
        command = ["bash", str(deploy_files() / "acls.sh"), "--apply"]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, last_lines(done.stdout + done.stderr)

    def set_password(self, user: str, password: str) -> None:
        """Change a user's password, by a file as ``acls.sh`` advises."""
        file = self.folder / "user.properties"
        file.write_text(f"SCRAM-SHA-512=password={password}\n")
        command = [java_command(), *QUICK, "-cp", f"{bring_jars()}/*", "kafka.admin.ConfigCommand"]
        options = ["--bootstrap-server", self.broker.bootstrap, "--alter", "--entity-type", "users"]
        named = ["--entity-name", user, "--add-config-file", str(file)]
        done = subprocess.run([*command, *options, *named], capture_output=True, text=True, check=False)
        file.unlink()
        assert done.returncode == 0, last_lines(done.stdout + done.stderr)


def joined(pair: Pair) -> Path:
    """Return key and certificate in one file, as Kafka wants a PEM key store."""
    found = pair.certificate.with_suffix(".store")
    found.write_text(pair.key.read_text() + pair.certificate.read_text())
    return found


@contextmanager
def secure_node(folder: Path) -> Iterator[SecureNode]:
    """Yield a node that runs, and end it at once afterwards."""
    need_kafka()
    if shutil.which("openssl") is None:
        do_without("no openssl found (Debian: openssl)")
    node = SecureNode(folder)
    try:
        node.broker.start()
        yield node
    finally:
        node.broker.kill()


def bring_acl_tool() -> Path:
    """Return the folder with the jar that holds ``kafka-acls.sh``'s program, which a node does not need.

    Its version is the node's; the first call has Maven bring it.
    """
    pom = deploy_files() / "pom.xml"
    version = pinned_version(pom.read_bytes())
    folder = bring_jars().with_name(f"kafka-tools-{version}")
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        do_without("no mvn found: Maven brings Kafka's tools once (Debian: maven)")
    with one_at_a_time(folder.parent), tempfile.TemporaryDirectory(dir=folder.parent, prefix="bringing-") as draft:
        jars = Path(draft) / "jars"
        goal = ["dependency:copy", f"-Dartifact=org.apache.kafka:kafka-tools:{version}", f"-DoutputDirectory={jars}"]
        command = [maven, "-B", "-q", "-Dstyle.color=never", "-f", str(pom), *goal]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            do_without(f"mvn could not bring Kafka's tools: {last_lines(done.stdout + done.stderr)}")
        if not folder.is_dir():
            jars.rename(folder)
    return folder
