"""The Kubernetes overlay, rendered by kustomize: valid, complete, every shard run once, nothing more than is needed."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from engine.__main__ import build_parser
from engine.edges.config import load_risk
from engine.edges.service_config import ServiceConfig
from engine.edges.service_file import load_service
from engine.shell.service import shards_of
from tests.outside import kustomize

ROOT = Path(__file__).resolve().parents[1]
KUBERNETES = ROOT / "deploy" / "kubernetes"
# The oldest with what is used here that is still about, and the newest that the schemas know.
VERSIONS = ("1.30", kubernetes_validate.latest_version())
SECRETS = "/etc/liq-engine-secrets"
SECRET_KEYS = ("ca.crt", "sasl_password", "admin_token")

Resource = dict[str, Any]


def render(overlay: Path) -> list[Resource]:
    """Return the resources of an overlay."""
    done = subprocess.run([kustomize(), "build", str(overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def example() -> tuple[Resource, ...]:
    """Return the resources of the example as it stands."""
    return tuple(render(KUBERNETES / "overlays" / "example"))


def the(kind: str, resources: tuple[Resource, ...] | list[Resource] | None = None) -> Resource:
    """Return the one resource of a kind."""
    (found,) = [one for one in resources or example() if one["kind"] == kind]
    return found


def pod(resources: tuple[Resource, ...] | list[Resource] | None = None) -> Resource:
    """Return the pod that an instance is."""
    spec: Resource = the("StatefulSet", resources)["spec"]["template"]["spec"]
    return spec


def engine_container(resources: tuple[Resource, ...] | list[Resource] | None = None) -> Resource:
    """Return the pod's one container."""
    (container,) = pod(resources)["containers"]
    return dict(container)


def config_map(name: str) -> Resource:
    """Return the files of a ConfigMap, by its name without the hash of its content."""
    (found,) = [one for one in example() if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith(name)]
    return dict(found["data"])


def faults(resource: Resource, version: str) -> list[str]:
    """Return what kubernetes-validate --strict finds wrong with a resource."""
    try:
        kubernetes_validate.validate(resource, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the example that may be changed, its base beside it as in the repository."""
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    return tmp_path / "kubernetes" / "overlays" / "example"


@pytest.fixture
def config(tmp_path: Path) -> ServiceConfig:
    """Return the service file of the example, as the engine reads it in the pod."""
    (tmp_path / "secrets").mkdir()
    for key in SECRET_KEYS:
        (tmp_path / "secrets" / key).write_text("a line\n")
    (tmp_path / "risk.toml").write_text(config_map("liq-engine-risk")["risk.toml"])
    text = config_map("liq-engine-service")["service.toml"]
    assert text.count(f'"{SECRETS}/') == len(SECRET_KEYS)
    file = tmp_path / "service.toml"
    file.write_text(text.replace(SECRETS, str(tmp_path / "secrets")))
    return load_service(file, {})


# --- valid


@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_is_valid_and_has_no_field_that_kubernetes_does_not_know(version: str) -> None:
    known = [one for one in example() if one["kind"] not in ("PrometheusRule", "ServiceMonitor")]
    assert len(known) == 8
    assert [fault for one in known for fault in faults(one, version)] == []


def broken(kind: str, *path: str | int, value: Any) -> Resource:
    """Return a resource of the example with one value changed."""
    resource: Resource = yaml.safe_load(yaml.safe_dump(the(kind)))
    place: Any = resource
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return resource


@pytest.mark.parametrize(
    "resource_of",
    [
        lambda: broken("StatefulSet", "spec", "replicas", value="3"),
        lambda: broken("StatefulSet", "spec", "template", "spec", "automount", value=False),
        lambda: broken("StatefulSet", "spec", "template", "spec", "containers", 0, "livenessProbe", "every", value=1),
        lambda: broken("NetworkPolicy", "spec", "ingres", value=[]),
        lambda: broken("PodDisruptionBudget", "spec", "maxUnavailable", value=[1]),
    ],
)
def test_a_mistake_in_a_resource_is_seen(resource_of: Any) -> None:
    for version in VERSIONS:
        assert faults(resource_of(), version)


def test_everything_is_in_the_namespace_which_enforces_the_strictest_standard() -> None:
    namespace = the("Namespace")["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = [one for one in example() if one["kind"] != "Namespace"]
    assert {one["metadata"]["namespace"] for one in others} == {namespace["name"]}


# --- complete


def options_of(container: Resource, ordinal: int) -> Any:
    """Return what the engine makes of a container's arguments in the pod of this ordinal."""
    arguments = [text.replace("$(ORDINAL)", str(ordinal)) for text in container["args"]]
    return build_parser().parse_args(arguments)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
def test_every_shard_is_run_by_exactly_one_instance_however_many_there_are(
    count: int, copy: Path, config: ServiceConfig
) -> None:
    file = copy / "kustomization.yaml"
    file.write_text(file.read_text().replace("count: 3", f"count: {count}"))
    resources = render(copy)
    assert the("StatefulSet", resources)["spec"]["replicas"] == count
    options = [options_of(engine_container(resources), ordinal) for ordinal in range(count)]
    assert {one.verb for one in options} == {"run"}
    run = [shard for one in options for shard in shards_of(config, shards=None, instance=one.instance)]
    assert sorted(run) == list(range(config.shards))


def test_the_ordinal_is_the_one_of_the_stateful_set() -> None:
    (variable,) = engine_container()["env"]
    assert variable["name"] == "ORDINAL"
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"


def mounts() -> dict[str, Resource]:
    """Return the container's mounts by path."""
    return {mount["mountPath"]: mount for mount in engine_container()["volumeMounts"]}


def test_the_engine_takes_the_service_file_and_finds_each_of_its_files_where_it_is_mounted(
    config: ServiceConfig,
) -> None:
    assert str(options_of(engine_container(), 0).config) == "/etc/liq-engine/service.toml"
    text = config_map("liq-engine-service")["service.toml"]
    assert 'risk = "risk.toml"' in text
    (projected,) = [volume["projected"]["sources"] for volume in pod()["volumes"] if volume["name"] == "config"]
    names = {one["metadata"]["name"] for one in example() if one["kind"] == "ConfigMap"}
    assert {source["configMap"]["name"] for source in projected} == names
    assert mounts()["/etc/liq-engine"]["name"] == "config"
    assert mounts()[SECRETS]["name"] == "secrets"
    assert mounts()["/var/lib/liq-engine"]["name"] == "snapshots"
    assert str(config.snapshots.folder).startswith("/var/lib/liq-engine/")
    (claim,) = the("StatefulSet")["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "snapshots"


def test_the_risk_file_of_the_example_is_a_live_one(config: ServiceConfig) -> None:
    risk = load_risk(config.risk)
    assert all(asset.price_units is None for asset in risk.assets.values()), "a fixed price hides a lost peg"
    assert 0 < risk.policy.mark_stale_ms <= 60_000
    assert all(one.flow_budget_units is not None for one in risk.instruments.values())


def test_a_batch_in_hand_is_committed_before_the_pod_is_killed(config: ServiceConfig) -> None:
    assert config.deadlines.drain_s + 5 <= pod()["terminationGracePeriodSeconds"]


def test_a_changed_file_replaces_the_pods_and_keeps_the_old_file(copy: Path) -> None:
    before = the("StatefulSet")["spec"]["template"]
    file = copy / "service.toml"
    file.write_text(file.read_text().replace("shards = 12", "shards = 24"))
    resources = render(copy)
    after = the("StatefulSet", resources)["spec"]["template"]
    names = {one["metadata"]["name"] for one in example() if one["kind"] == "ConfigMap"}
    changed = {one["metadata"]["name"] for one in resources if one["kind"] == "ConfigMap"}
    assert before != after
    assert len(names & changed) == 1


def test_an_image_is_pinned_by_its_digest_with_one_command(copy: Path) -> None:
    digest = "sha256:" + "ab" * 32
    command = [kustomize(), "edit", "set", "image", f"liq-engine=registry.example.com/liq-engine@{digest}"]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    assert engine_container(render(copy))["image"] == f"registry.example.com/liq-engine@{digest}"


# --- no more than is needed


def test_the_pod_keeps_the_restricted_standard_and_has_no_token() -> None:
    security, container = pod()["securityContext"], engine_container()["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 10001
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert pod()["automountServiceAccountToken"] is False
    assert the("ServiceAccount")["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & {*pod()}


def test_the_user_is_the_image_s() -> None:
    assert "USER 10001:10001" in (ROOT / "deploy" / "Dockerfile").read_text().splitlines()


def test_what_can_be_written_is_the_snapshots_and_the_temporary_folder() -> None:
    assert {path for path, mount in mounts().items() if not mount.get("readOnly")} == {"/var/lib/liq-engine", "/tmp"}


def test_no_secret_is_rendered_and_those_mounted_are_for_the_engine_only() -> None:
    assert not [one for one in example() if one["kind"] == "Secret"]
    (secret,) = [volume["secret"] for volume in pod()["volumes"] if volume["name"] == "secrets"]
    assert secret["defaultMode"] == 0o440


def test_the_policy_lets_in_who_scrapes_and_out_to_names_and_kafka(config: ServiceConfig) -> None:
    policy = the("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (way_in,) = policy["ingress"]
    assert [port["port"] for port in way_in["ports"]] == ["admin"]
    assert all(rule["to"] for rule in policy["egress"])
    ways_out = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert ways_out == {53, int(config.kafka.bootstrap_servers.rpartition(":")[2])}


def test_everything_that_selects_pods_selects_these(config: ServiceConfig) -> None:
    labels = the("StatefulSet")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        the("StatefulSet")["spec"]["selector"]["matchLabels"],
        the("Service")["spec"]["selector"],
        the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        the("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    monitor, service = the("ServiceMonitor")["spec"], the("Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,), (port,) = monitor["endpoints"], service["spec"]["ports"]
    (opened,) = engine_container()["ports"]
    assert endpoint["port"] == port["name"] == port["targetPort"] == opened["name"]
    assert config.admin.port == port["port"] == opened["containerPort"]
    assert endpoint["authorization"]["credentials"]["key"] in SECRET_KEYS


def test_probes_ask_by_the_file_that_is_in_the_image() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    container = engine_container()
    for name, state in (("startupProbe", "livez"), ("livenessProbe", "livez"), ("readinessProbe", "readyz")):
        command = container[name]["exec"]["command"]
        assert command == ["python", "-S", "/opt/liq-engine/probe.py", state]
        assert f"COPY deploy/image/probe.py {command[2]}\n" in dockerfile
        # A probe has to end before it is given up.
        assert container[name]["timeoutSeconds"] > 3
