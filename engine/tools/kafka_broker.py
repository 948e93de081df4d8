"""How a real Apache Kafka node comes to run on loopback: jars by Maven, one KRaft node by java, gone when we are.

Used by the tests and by ``liq-engine dev``. It needs ``java`` (17 or later) and ``mvn`` on the machine, and Maven
Central once: the jars that ``deploy/kafka/pom.xml`` pins (43 MB) are then kept in the user's cache. Measured on two
shared cores, Kafka 4.1.1: a first start takes 3 s, of which 0.9 s for the format; a stop 2.5 s; a start after SIGKILL
6 s, because the controller waits until the session of the dead broker has ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from engine.errors import BrokerError, InputError
from engine.tools.child import Child

JAVA_MIN = 17
MAVEN_TIMEOUT_S = 600.0
FORMAT_TIMEOUT_S = 60.0
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.02
TAIL_LINES = 25
STARTED = "Kafka Server started"
# Below the range from which the system gives outgoing connections their ports (32768 and up on Linux): a client that
# knocks every few milliseconds on the port of a killed node could otherwise be given that very port and, on loopback,
# connect to itself; the node would then not get its port back.
PORTS = range(20_000, 32_000)
# 22 characters of URL-safe base64 are the 16 bytes of a cluster id.
CLUSTER_ID = "liq-engine-dev-kafka-A"
# The JVM is tuned for a small node that starts often: one collector thread, no more heap than it needs.
JVM_OPTIONS = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-Djava.awt.headless=true")

# One node is its own quorum. Replication and in-sync minima of 1 are all it can give; few partitions of the two
# internal topics make their first use quick; the short session is what a start after SIGKILL waits for.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=2097152
"""


class KafkaMissingError(InputError):
    """Kafka cannot be had on this machine: the message names what is missing and how to get it."""


class Broker:
    """One Kafka node on loopback, its data and log in ``folder``; a context manager.

    Its port stays the same over ``kill`` and ``start``, and so does its data. ``port`` 0 takes a free one. However
    this process ends, by SIGKILL too, the node ends with it. ``settings`` go before those of ``PROPERTIES``,
    ``java_options`` before our own, ``format_options`` to the tool that formats the disk.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        format_options: Sequence[str] = (),
        java_options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.settings = dict(settings or {})
        self.format_options = format_options
        self.java_options = java_options
        self.port, self.controller_port = free_ports(2)
        self.port = port or self.port
        self.log = folder / "broker.log"
        self._node: Child | None = None

    @property
    def bootstrap(self) -> str:
        """Return the address for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Return the process id of the node, None while it does not run."""
        return self._node.process.pid if self._node is not None and self._node.is_running else None

    def start(self) -> None:
        """Start the node and return once it serves clients.

        Raises KafkaMissingError if the machine cannot run it, BrokerError with the end of its log if it does not start.
        """
        java, jars = java_command(), bring_jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "server.properties"
        data = self.folder / "data"
        properties = PROPERTIES.format(port=self.port, controller_port=self.controller_port, data=data)
        # Of two lines for one setting Kafka takes the later.
        settings.write_text(properties + "".join(f"{key}={value}\n" for key, value in self.settings.items()))
        options = [f"-Dkafka.logs.dir={self.folder}", *logging_options(), *self.java_options]
        command = [java, *JVM_OPTIONS, *options, "-cp", f"{jars}/*"]
        if not (data / "meta.properties").is_file():
            tool = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(settings), *self.format_options]
            self._format([*command, *tool])
        self._node = Child(self.log, [*command, "kafka.Kafka", str(settings)])
        self._wait_until_started(self._node)

    def stop(self) -> None:
        """End the node in good order; by force if that takes too long. Nothing happens if it does not run."""
        if self._node is not None:
            self._node.process.terminate()
            try:
                self._node.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                pass  # Ended by force below.
        self.kill()

    def kill(self) -> None:
        """End the node at once, as a power cut would. Nothing happens if it does not run."""
        node, self._node = self._node, None
        if node is not None:
            node.kill()

    def restart(self) -> None:
        """Stop the node in good order and start it again: same port, same data."""
        self.stop()
        self.start()

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _format(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise BrokerError(f"Kafka could not format {self.folder}: {last_lines(done.stdout + done.stderr)}")

    def _wait_until_started(self, node: Child) -> None:
        """Return once the log says so; end the node and raise BrokerError if it ends itself or takes too long."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while STARTED not in (text := node.text):
            if not node.is_running or time.monotonic() > deadline_s:
                state = f"did not start within {START_TIMEOUT_S:.0f} s" if self.pid else "ended while it was starting"
                self.kill()
                raise BrokerError(f"Kafka on {self.bootstrap} {state}; {self.log} ends with:\n{last_lines(text)}")
            time.sleep(POLL_S)


def java_command() -> str:
    """Return the java to run: that of JAVA_HOME, else the one on the PATH; raise KafkaMissingError if there is none."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if java is None:
        raise KafkaMissingError(f"no java found: Kafka needs Java {JAVA_MIN} or later (openjdk-17-jre-headless)")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    # `openjdk version "17.0.15"`, `java version "1.8.0_402"`, `openjdk version "21-ea"`.
    found = re.search(r'version "(?:1\.)?(\d+)', said.stdout + said.stderr)
    if found is None or int(found[1]) < JAVA_MIN:
        text = last_lines(said.stdout + said.stderr)
        raise KafkaMissingError(f"{java} is not Java {JAVA_MIN} or later, which Kafka needs; it says: {text}")
    return java


def bring_jars() -> Path:
    """Return the folder with Kafka's jars; the first call has Maven bring them.

    The folder is named by the version and by the pom's content, and appears whole or not at all.
    Raises KafkaMissingError if there is neither a folder nor a way to fill it.
    """
    pom = deploy_files() / "pom.xml"
    content = pom.read_bytes()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liq-engine"
    jars = caches / f"kafka-{pinned_version(content)}-{hashlib.sha256(content).hexdigest()[:8]}"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaMissingError("no mvn found: Maven brings Kafka's jars once (Debian: maven)")
    with one_at_a_time(caches):
        if not jars.is_dir():
            with tempfile.TemporaryDirectory(dir=caches, prefix="bringing-") as draft:
                run_maven(maven, pom, Path(draft) / "jars")
                (Path(draft) / "jars").rename(jars)
    return jars


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other processes from bringing anything to ``folder`` meanwhile: Maven's own store is not made for two."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def run_maven(maven: str, pom: Path, target: Path) -> None:
    """Have Maven copy all jars of ``pom`` to ``target``."""
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    command = [maven, "-B", "-q", "-Dstyle.color=never", "-f", str(pom), *goal]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAVEN_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise KafkaMissingError(f"mvn did not bring Kafka's jars within {MAVEN_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0 or not any(target.glob("kafka_*.jar")):
        raise KafkaMissingError(f"mvn could not bring Kafka's jars: {last_lines(done.stdout + done.stderr)}")


def pinned_version(pom: bytes) -> str:
    """Return the version of Kafka that a pom pins."""
    found = re.search(rb"<kafka\.version>([\w.-]+)</kafka\.version>", pom)
    if found is None:
        raise InputError("deploy/kafka/pom.xml: kafka.version is missing: it pins the Kafka that is run")
    return found[1].decode()


def deploy_files() -> Path:
    """Return the folder of the pom and the logging settings: the wheel's copy, or that of the source tree."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "_kafka"
    return packed if packed.is_dir() else package.parent / "deploy" / "kafka"


def logging_options() -> list[str]:
    """Return what tells Kafka 4 how to log; it ignores the option of earlier versions in silence."""
    return [f"-Dlog4j2.configurationFile={deploy_files() / 'log4j2.properties'}"]


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on now."""
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            # As the node will: the last connections of a node before may still linger on the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise BrokerError(f"no {count} free ports between {PORTS.start} and {PORTS.stop} on loopback")


def last_lines(text: str) -> str:
    """Return the end of what a program said."""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])
