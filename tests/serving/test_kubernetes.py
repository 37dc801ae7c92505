"""The manifests of deploy/kubernetes: valid for Kubernetes, and about the server that the code has."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from ruamel.yaml import YAML
from test_life import free_port, wait_for

from mmbert.cli.main import app
from mmbert.serving import server as life
from mmbert.serving.app import make_app
from mmbert.serving.metrics import ServerMetrics
from mmbert.serving.routes.site import PUBLIC
from mmbert.serving.service import Service
from test_environment_page import listed

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "kubernetes"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
COMMAND: Any = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
VERSIONS = ("1.30", "1.34", "1.37")
"""The oldest with preStop.sleep without a feature gate, the one that made it stable, and the newest."""


def documents(path: Path) -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(path.read_text(encoding="utf-8")))


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """All objects by kind and name, as they stand in the files."""
    found = [each for path in sorted(DEPLOY.glob("*/*.yaml")) for each in documents(path)]
    return {(each["kind"], each["metadata"]["name"]): each for each in found if "metadata" in each}


OBJECTS = manifests()
POD = OBJECTS["Deployment", "mmbert"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENVIRONMENT = {each["name"]: each for each in CONTAINER["env"]}
SCALED = OBJECTS["ScaledObject", "mmbert"]["spec"]
(TRIGGER,) = SCALED["triggers"]


def entry_point() -> list[str]:
    """What the image runs before the arguments of the container."""
    found = re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    return [str(word) for word in YAML(typ="safe").load(found[1])]


def options() -> dict[str, Any]:
    """What `mmbert serve` makes of the container's command. Raises a usage error for an option that it has not."""
    assert "command" not in CONTAINER
    mmbert, serve, *words = [*entry_point(), *CONTAINER["args"]]
    assert (mmbert, serve) == ("mmbert", "serve")
    values: dict[str, Any] = COMMAND.make_context("serve", words).params
    return values


def seconds_of_ending() -> float:
    """From preStop to the end of the process, at the longest."""
    threads = life._LAST_WORDS + 3 * life._END + life._LAST_WORDS  # answers; http, worker, pool; traces
    return float(CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"] + options()["drain_seconds"] + threads)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="the schemas of Kubernetes: pip install 'mmbert[dev]'")
    theirs = [each for each in OBJECTS.values() if each["apiVersion"] != "keda.sh/v1alpha1"]
    assert len(theirs) == 4
    for each in [*theirs, autoscaler()]:
        validate.validate(each, version, strict=True)
    wrong = {**theirs[0], "spec": {**theirs[0]["spec"], "replica": 2}}
    with pytest.raises(validate.ValidationError):
        validate.validate(wrong, version, strict=True)


def autoscaler() -> dict[str, Any]:
    """The HorizontalPodAutoscaler that KEDA makes of the ScaledObject (keda.sh/docs, concepts)."""
    target = {"type": TRIGGER["metricType"], "averageValue": TRIGGER["metadata"]["threshold"]}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "keda-hpa-mmbert"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", **SCALED["scaleTargetRef"]},
            "minReplicas": SCALED["minReplicaCount"],
            "maxReplicas": SCALED["maxReplicaCount"],
            "metrics": [{"type": "External", "external": {"metric": {"name": "s0-prometheus"}, "target": target}}],
            **SCALED["advanced"]["horizontalPodAutoscalerConfig"],
        },
    }


@pytest.mark.parametrize("components", [[], ["keda"], ["volume"], ["keda", "volume"]])
def test_kustomize_builds_each_choice(components: list[str], tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which has kustomize, is not installed")
    folder = shutil.copytree(DEPLOY, tmp_path / "kubernetes")
    text = (folder / "kustomization.yaml").read_text(encoding="utf-8")
    assert "components: []\n" in text
    (folder / "kustomization.yaml").write_text(text.replace("components: []", f"components: [{', '.join(components)}]"))
    built = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (tmp_path / "built.yaml").write_text(built.stdout)
    found = {each["kind"]: each for each in documents(tmp_path / "built.yaml")}
    assert set(found) == {
        "Deployment",
        "PodDisruptionBudget",
        "Service",
        *(["ScaledObject"] if "keda" in components else []),
    }
    spec = found["Deployment"]["spec"]
    assert ("replicas" in spec) == ("keda" not in components)  # else each apply would undo the autoscaler
    (container,) = spec["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.org/mmbert:1"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert ("models" in mounted) == ("volume" in components)


def test_labels_lead_from_service_budget_and_autoscaler_to_the_pods() -> None:
    deployment = OBJECTS["Deployment", "mmbert"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    for selector in (
        deployment["selector"]["matchLabels"],
        OBJECTS["PodDisruptionBudget", "mmbert"]["spec"]["selector"]["matchLabels"],
        OBJECTS["Service", "mmbert"]["spec"]["selector"],
        OBJECTS["Service", "mmbert-pods"]["spec"]["selector"],
        POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ):
        assert selector == labels
    assert ("Deployment", SCALED["scaleTargetRef"]["name"]) in OBJECTS
    assert SCALED["minReplicaCount"] > OBJECTS["PodDisruptionBudget", "mmbert"]["spec"]["maxUnavailable"]


def test_ports_and_probes_are_the_servers() -> None:
    (port,) = CONTAINER["ports"]
    assert port["containerPort"] == options()["port"]
    assert options()["host"] == "0.0.0.0"
    for kind, name in OBJECTS:
        if kind == "Service":
            assert OBJECTS[kind, name]["spec"]["ports"][0]["targetPort"] == port["name"]
    answered = {route.path for route in make_app(Service()).routes if "GET" in (getattr(route, "methods", None) or ())}
    paths = [CONTAINER[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")]
    notes = OBJECTS["Deployment", "mmbert"]["spec"]["template"]["metadata"]["annotations"]
    for path in (*paths, notes["prometheus.io/path"]):
        assert path in answered
        assert path in PUBLIC  # probes and Prometheus send no key
    assert int(notes["prometheus.io/port"]) == options()["port"]


def test_the_pod_is_not_killed_while_the_server_drains() -> None:
    assert POD["terminationGracePeriodSeconds"] >= seconds_of_ending()
    probe = CONTAINER["readinessProbe"]
    # the pod is out of the service by its readiness, too, before the connections of the drain are refused
    assert CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"] >= probe["periodSeconds"] * (
        probe["failureThreshold"] - 1
    )


def test_the_query_asks_for_a_metric_of_the_server() -> None:
    metrics = ServerMetrics()
    metrics.engine("model").queue(3, 4096)
    (name,) = re.findall(r"te_\w+", TRIGGER["metadata"]["query"])
    assert f'{name}{{model="model"}} 4096.0' in metrics.page().decode()
    (top,) = documents(DEPLOY / "kustomization.yaml")
    assert f'namespace="{top["namespace"]}"' in TRIGGER["metadata"]["query"]
    pods = re.search(r'pod=~"(.+?)"', TRIGGER["metadata"]["query"])
    assert pods is not None
    assert re.fullmatch(pods[1], "mmbert-7c9d6b5f4-x2x9k")
    # replicas come before requests are refused
    assert int(TRIGGER["metadata"]["threshold"]) <= options()["max_queue_tokens"] / 2


def test_every_variable_is_read_by_something() -> None:
    ours = {parameter.envvar for parameter in COMMAND.params if parameter.envvar}
    known = ours | listed("Read by libraries")
    texts = " ".join(str(each.get("value", "")) for each in CONTAINER["env"])
    for name in ENVIRONMENT:
        assert name in known or f"$({name})" in texts, f"{name}: nothing reads it"
    for name in re.findall(r"\$\((\w+)\)", texts):
        assert name in ENVIRONMENT


def test_threads_are_the_cores_that_are_asked_for() -> None:
    assert ENVIRONMENT["OMP_NUM_THREADS"]["valueFrom"]["resourceFieldRef"] == {"resource": "requests.cpu"}
    resources = CONTAINER["resources"]
    assert int(resources["requests"]["cpu"]) >= 1  # whole cores: a fraction would be rounded up to a thread
    assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_the_pod_has_no_rights_and_writes_only_to_its_volumes() -> None:
    """The profile `restricted` of the Pod Security Standards."""
    own, pod = CONTAINER["securityContext"], POD["securityContext"]
    assert pod["runAsNonRoot"]
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not own["allowPrivilegeEscalation"]
    assert own["readOnlyRootFilesystem"]
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert not POD["automountServiceAccountToken"]
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user is not None
    assert (pod["runAsUser"], pod["runAsGroup"]) == (int(user[1]), int(user[2]))
    written = re.findall(r"(?:HF_HOME|XDG_CACHE_HOME|WORKDIR)[= ](/var\S+)", DOCKERFILE)
    mounts = [mount["mountPath"] for mount in CONTAINER["volumeMounts"]]
    assert len(written) == 3
    assert all(any(path.startswith(mount) for mount in mounts) for path in written)
    assert "/tmp" in mounts


def test_the_model_is_where_image_and_volume_put_it() -> None:
    (model,) = options()["models"]
    assert f"COPY . {model}\n" in (DEPLOY / "model.Dockerfile").read_text(encoding="utf-8")
    (volume,) = documents(DEPLOY / "volume" / "kustomization.yaml")
    (mount,) = re.findall(r"mountPath: (/\w+)", volume["patches"][0]["patch"])
    assert model.startswith(f"{mount}/")


@pytest.fixture
def replica(folders: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The container's command with the container's environment, but for model, address and port."""
    mmbert, serve, *words = [*entry_point(), *CONTAINER["args"]]
    port = free_port()
    moved = {"0.0.0.0": "127.0.0.1", str(options()["port"]): str(port), options()["models"][0]: str(folders / "tuned")}
    names = ENVIRONMENT["MMBERT_ALLOWED_HOSTS"]["value"].replace("$(POD_NAMESPACE)", "search")
    environment = {
        **os.environ, "MMBERT_API_KEY": "secret", "MMBERT_ALLOWED_HOSTS": names, "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": ENVIRONMENT["HF_HUB_OFFLINE"]["value"],
    }  # fmt: skip
    command = [sys.executable, "-m", mmbert, serve, *(moved.get(word, word) for word in words)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}", 200)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_a_replica_answers_by_the_names_of_its_service(replica: tuple[subprocess.Popen[bytes], str]) -> None:
    process, url = replica
    (name,) = [word.partition("=")[2] for word in CONTAINER["args"] if word.startswith("--served-model-name")]
    body = {"model": name, "input": "a text"}
    service = OBJECTS["Service", "mmbert"]["metadata"]["name"]
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer secret"}, timeout=60) as client:
        for host in (service, f"{service}.search", f"{service}.search.svc.cluster.local"):
            assert client.post("/v1/embeddings", json=body, headers={"Host": host}).status_code == 200
        assert client.post("/v1/embeddings", json=body, headers={"Host": "elsewhere.example"}).status_code == 403
        assert client.post("/v1/embeddings", json=body, headers={"Authorization": "Bearer no"}).status_code == 401
        (metric,) = re.findall(r"te_\w+", TRIGGER["metadata"]["query"])
        scraped = httpx.get(f"{url}/metrics").text  # by address and without a key, as Prometheus does
        assert f'{metric}{{model="{name}"}}' in scraped
    process.terminate()
    assert process.wait(POD["terminationGracePeriodSeconds"]) == 0


def test_the_guide_names_what_the_files_name() -> None:
    """Its commands are tried on a cluster by nobody here; at least they name these files and this secret."""
    page = (ROOT / "docs" / "guides" / "fleet.md").read_text(encoding="utf-8")
    secret = ENVIRONMENT["MMBERT_API_KEY"]["valueFrom"]["secretKeyRef"]
    assert f"secret generic {secret['name']} --from-literal={secret['key']}=" in page
    for line in page.splitlines():
        for word in shlex.split(line, comments=True) if line.startswith(("kubectl ", "docker ")) else ():
            if word.startswith("deploy/"):
                assert (ROOT / word).exists(), word
