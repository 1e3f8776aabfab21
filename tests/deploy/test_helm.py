"""The chart as helm renders it: right by Kubernetes' schemas, and the same promises as the kustomize base."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.helm import helm
from support.live_server import live_server
from support.promql import exported_names, metric_names
from support.serve_arguments import parse_serve

import octavo
from octavo.server.config import ServerConfig

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "octavo"
CUSTOM = {"ServiceMonitor", "ScaledObject"}
SHARED = "persistence.accessMode=ReadWriteMany"
CASES = {
    "defaults": [],
    "own model": ["model=/models/a, b: {c}.gguf".replace(",", "\\,"), "apiKeySecret.name=keys"],
    "flags": [
        "args={--gpu-memory-utilization,0.7,--api-server-count,2,--kv-cache-dtype,int8,"
        "--structured-outputs-config.disable_any_whitespace,true,--kv-offload-gb,1.5}"
    ],
    "replicas": ["replicas=3", SHARED, "persistence.storageClass=nfs"],
    "own claim": ["replicas=2", "persistence.existingClaim=weights", "networkPolicy.enabled=false"],
    "hpa": ["autoscaling.enabled=true", SHARED, "monitoring.enabled=true"],
    "keda": ["autoscaling.enabled=true", "autoscaling.kind=keda", SHARED],
    "placed": ["nodeSelector.disk=ssd", "podAnnotations.team=a", "tolerations[0].operator=Exists"],
}

Manifest = dict[str, Any]


def template(*values: str, release: str = "llm") -> subprocess.CompletedProcess[str]:
    flags = [flag for value in values for flag in ("--set", value)]
    command = [helm(), "template", release, str(CHART), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(*values: str, release: str = "llm") -> dict[str, Manifest]:
    """The manifests by kind."""
    result = template(*values, release=release)
    assert result.returncode == 0, result.stderr
    manifests = [each for each in yaml.safe_load_all(result.stdout) if each]
    kinds = {manifest["kind"]: manifest for manifest in manifests}
    assert len(kinds) == len(manifests)
    return kinds


def pod_of(kinds: dict[str, Manifest]) -> Manifest:
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    assert isinstance(pod, dict)
    return pod


def test_lint() -> None:
    result = subprocess.run([helm(), "lint", "--strict", CHART], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_every_manifest_is_right_and_selects_the_pods(values: list[str]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    kinds = rendered(*values)
    for kind, manifest in kinds.items():
        if kind not in CUSTOM:
            validate.validate(manifest, validate.latest_version(), strict=True)
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        kinds["Service"]["spec"]["selector"],
        kinds["Deployment"]["spec"]["selector"]["matchLabels"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        pod_of(kinds)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert all(selector["app.kubernetes.io/instance"] == "llm" for selector in selectors)


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_the_pod_may_do_little_ends_in_time_and_writes_to_volumes(values: list[str]) -> None:
    kinds = rendered(*values)
    pod = pod_of(kinds)
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    _, server = parse_serve(container["args"])
    before_the_signal = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > before_the_signal + server.shutdown_timeout
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/models", "/tmp", "/dev/shm"}
    claims = [each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "emptyDir" not in each]
    made = kinds.get("PersistentVolumeClaim")
    assert claims == ["weights" if made is None else made["metadata"]["name"]]


def test_what_the_values_say_arrives() -> None:
    [container] = pod_of(rendered(*CASES["own model"]))["containers"]
    engine, server = parse_serve(container["args"])
    assert engine.model == "/models/a, b: {c}.gguf"
    assert engine.gpu_memory_utilization == 0.8
    assert server.shutdown_timeout == ServerConfig().shutdown_timeout
    assert container["env"][0]["name"] == "OCTAVO_API_KEY"
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "api-key"}
    assert container["image"] == f"octavo:{octavo.__version__}"
    engine, server = parse_serve(pod_of(rendered(*CASES["flags"]))["containers"][0]["args"])
    assert (engine.gpu_memory_utilization, server.api_server_count) == (0.7, 2)
    assert (engine.kv_cache_dtype, engine.kv_offload_gb) == ("int8", 1.5)
    assert engine.structured_outputs_config == {"disable_any_whitespace": True}
    assert rendered(*CASES["replicas"])["Deployment"]["spec"]["replicas"] == 3


def test_probes_ask_a_path_that_answers() -> None:
    [container] = pod_of(rendered())["containers"]
    with live_server() as server:
        for kind in ("startup", "liveness", "readiness"):
            assert server.http.get(container[f"{kind}Probe"]["httpGet"]["path"]).status_code == 200


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_an_autoscaler_has_the_replicas_to_itself_and_a_metric_that_exists(kind: str) -> None:
    kinds = rendered(*CASES[kind])
    assert "replicas" not in kinds["Deployment"]["spec"]
    scaler = kinds.get("HorizontalPodAutoscaler") or kinds["ScaledObject"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"]
    if kind == "hpa":
        asked = {scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]}
    else:
        asked = metric_names(scaler["spec"]["triggers"][0]["metadata"]["query"])
    with live_server() as server:
        assert asked == {"vllm_num_requests_waiting"}
        assert asked <= exported_names(server.http.get("/metrics").text)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["replicas=2"], "more than one replica needs persistence.accessMode ReadWriteMany"),
        (["autoscaling.enabled=true"], "more than one replica needs"),
        (["replicsa=2"], "additional properties 'replicsa' not allowed"),
        (["autoscaling.kind=vpa"], "must be one of 'hpa', 'keda'"),
    ],
)
def test_values_that_can_not_be(values: list[str], says: str) -> None:
    result = template(*values)
    assert result.returncode != 0
    assert says in result.stderr


def test_a_release_s_name_is_kept_short_and_not_said_twice() -> None:
    assert rendered(release="octavo-eu")["Service"]["metadata"]["name"] == "octavo-eu"
    assert rendered(release="llm")["Service"]["metadata"]["name"] == "llm-octavo"


def test_the_chart_is_of_octavo_s_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == octavo.__version__
