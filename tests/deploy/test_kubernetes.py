"""The manifests as kubectl renders them: right by Kubernetes' own schemas, and right about each other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.live_server import live_server
from support.promql import exported_names, metric_names
from support.serve_arguments import parse_serve

from octavo.server.config import ServerConfig

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = ["base", *(f"overlays/{path.name}" for path in sorted((KUBERNETES / "overlays").iterdir()))]
AUTOSCALING = ["overlays/autoscaling-hpa", "overlays/autoscaling-keda"]
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
LABELS = {"app.kubernetes.io/name": "octavo"}

Manifest = dict[str, Any]


@cache
def rendered(overlay: str) -> dict[str, Manifest]:
    """The manifests of an overlay by kind."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", KUBERNETES / overlay]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    manifests = list(yaml.safe_load_all(result.stdout))
    kinds = {manifest["kind"]: manifest for manifest in manifests}
    assert len(kinds) == len(manifests)
    return kinds


def container(overlay: str) -> Manifest:
    [only] = rendered(overlay)["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_schemas(overlay: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    version = validate.latest_version()
    checked = 0
    for kind, manifest in rendered(overlay).items():
        if kind not in CUSTOM:
            validate.validate(manifest, version, strict=True)
            checked += 1
    assert checked >= 5


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_arguments_start_octavo(overlay: str) -> None:
    engine, server = parse_serve(container(overlay)["args"])
    assert engine.gpu_memory_utilization is not None
    assert server.log_format == "json"
    ports = {port["name"]: port["containerPort"] for port in container(overlay)["ports"]}
    assert ports == {"http": server.port}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_takes_a_gpu(overlay: str) -> None:
    """Nothing would run on it."""
    assert "nvidia.com/gpu" not in str(container(overlay)["resources"])


def test_the_gpu_overlay_goes_where_gpus_are() -> None:
    pod = rendered("overlays/gpu")["Deployment"]["spec"]["template"]["spec"]
    [toleration] = pod["tolerations"]
    assert toleration["key"] == "nvidia.com/gpu"
    assert "nvidia.com/gpu.present" in str(pod["affinity"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_selects_the_pods(overlay: str) -> None:
    kinds = rendered(overlay)
    pod_labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        kinds["Service"]["spec"]["selector"],
        kinds["Deployment"]["spec"]["selector"]["matchLabels"],
        kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        kinds["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"][
            "matchLabels"
        ],
    ]
    assert all(selector == LABELS for selector in selectors)
    assert pod_labels.items() >= LABELS.items()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pod_may_do_little_and_ends_in_time(overlay: str) -> None:
    pod = rendered(overlay)["Deployment"]["spec"]["template"]["spec"]
    security = container(overlay)["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    before_the_signal = int(container(overlay)["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > before_the_signal + ServerConfig().shutdown_timeout


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_that_is_written_has_a_volume(overlay: str) -> None:
    pod = rendered(overlay)["Deployment"]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container(overlay)["volumeMounts"]}
    assert set(mounts) == {"/models", "/tmp", "/dev/shm"}
    claim = rendered(overlay)["PersistentVolumeClaim"]
    assert mounts["/models"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    rolling = rendered(overlay)["Deployment"]["spec"]["strategy"]["type"] == "RollingUpdate"
    assert rolling == (claim["spec"]["accessModes"] == ["ReadWriteMany"])


def test_probes_ask_a_path_that_answers() -> None:
    probes = [container("base")[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    with live_server() as server:
        for probe in probes:
            assert probe["port"] == "http"
            assert server.http.get(probe["path"]).status_code == 200


@pytest.mark.parametrize("overlay", AUTOSCALING)
def test_an_autoscaler_has_the_replicas_to_itself_and_a_metric_that_exists(overlay: str) -> None:
    kinds = rendered(overlay)
    assert "replicas" not in kinds["Deployment"]["spec"]
    scaler = kinds.get("HorizontalPodAutoscaler") or kinds["ScaledObject"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"]
    if scaler["kind"] == "ScaledObject":
        asked = metric_names(scaler["spec"]["triggers"][0]["metadata"]["query"])
    else:
        asked = {scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]}
        values = yaml.safe_load((KUBERNETES / overlay / "prometheus-adapter-values.yaml").read_text())
        assert {rule["name"]["as"] for rule in values["rules"]["custom"]} == asked
    assert asked == {"vllm_num_requests_waiting"}
    with live_server() as server:
        assert asked <= exported_names(server.http.get("/metrics").text)


@pytest.mark.parametrize("overlay", AUTOSCALING)
def test_prometheus_finds_the_service(overlay: str) -> None:
    kinds = rendered(overlay)
    monitor, service = kinds["ServiceMonitor"], kinds["Service"]
    assert monitor["apiVersion"] == kinds["PrometheusRule"]["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_operator_s_rules_are_those_of_prometheus() -> None:
    folder = KUBERNETES / "components" / "monitoring"
    made = subprocess.run(
        [sys.executable, folder / "prometheusrule.py"], capture_output=True, text=True, check=True
    ).stdout
    assert made == (folder / "prometheusrule.yaml").read_text(), "run prometheusrule.py again"
