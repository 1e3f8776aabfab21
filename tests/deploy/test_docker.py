"""The image and the composition, as far as they can be looked at without a Docker daemon."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.docker_compose import docker_compose
from support.live_server import live_server
from support.serve_arguments import parse_serve

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()

# What the containers of vLLM's users are started with, the names of their models apart.
ARGUMENTS_FROM_VLLM = [
    "--model X --gpu-memory-utilization 0.90 --max-model-len 8192",
    "--model X --gpu-memory-utilization 0.90 --max-model-len 8192 --tensor-parallel-size 1",
    "--model X --tensor-parallel-size 1 --gpu-memory-utilization 0.90",
    "--model X --enable-prefix-caching --enable-chunked-prefill --max-num-seqs 256",
]


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of that name, continued lines joined."""
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def composition() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yml").read_text())
    return loaded


@pytest.mark.parametrize("arguments", ARGUMENTS_FROM_VLLM)
def test_arguments_of_vllm_s_containers_start_octavo(arguments: str) -> None:
    engine, server = parse_serve(arguments.split())
    assert engine.model == "X"
    assert server.port == 8000
    if "8192" in arguments:
        assert engine.max_model_len == 8192
    if "0.90" in arguments:
        assert engine.gpu_memory_utilization == 0.9


def test_the_image_runs_the_server_as_nobody_in_particular() -> None:
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["octavo", "serve"]
    assert instructions("USER") == ["10001:10001"]
    assert "8000" in instructions("EXPOSE")
    assert len(instructions("FROM")) == 2
    after_user = DOCKERFILE.split("\nUSER ")[1]
    assert "RUN" not in after_user


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = [
        line[1:]
        for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    for copy in instructions("COPY"):
        if not copy.startswith("--from"):
            for source in copy.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source in allowed


def test_all_that_the_build_needs_is_copied() -> None:
    copied = [source for copy in instructions("COPY") for source in copy.split()[:-1]]
    cmake = (ROOT / "CMakeLists.txt").read_text()
    for source in re.findall(r"\b(\w+)/[\w/]+\.(?:cpp|h)\b", cmake):
        assert any(fnmatch.fnmatch(source, name) for name in copied), source


def test_the_health_check_tells_a_server_that_is_up_from_one_that_is_not() -> None:
    command = json.loads(re.findall(r"CMD (\[.*\])", DOCKERFILE)[0])
    assert command[0] == "python"
    with live_server() as server:
        code = command[2].replace("http://127.0.0.1:8000", server.url)
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert ended.returncode == 1


def test_the_composition() -> None:
    services = composition()["services"]
    octavo = services["octavo"]
    parse_serve(octavo["command"])
    assert octavo["read_only"] is True
    assert octavo["cap_drop"] == ["ALL"]
    assert "/tmp" in octavo["tmpfs"]
    # podman's images have none of their own unless they are built in Docker's format.
    check = octavo["healthcheck"]
    assert check["test"] == ["CMD", *json.loads(re.findall(r"CMD (\[.*\])", DOCKERFILE)[0])]
    [options] = re.findall(r"HEALTHCHECK (.*?) +CMD", re.sub(r"\\\n\s*", " ", DOCKERFILE))
    assert options.split() == [
        f"--{name.replace('_', '-')}={check[name]}"
        for name in ("interval", "timeout", "start_period", "retries")
    ]
    assert "models:/models" in octavo["volumes"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() or source in composition()["volumes"], volume


def test_docker_compose_takes_the_composition() -> None:
    command = [docker_compose(), "-f", DOCKER / "compose.yml", "config", "--format", "json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    octavo = json.loads(result.stdout)["services"]["octavo"]
    assert octavo["build"] == {"context": str(ROOT), "dockerfile": "deploy/docker/Dockerfile"}
    assert octavo["command"] == composition()["services"]["octavo"]["command"]
    assert octavo["stop_grace_period"] == "40s"


def test_prometheus_scrapes_and_grafana_asks_by_the_services_names() -> None:
    services = composition()["services"]
    scrape = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    host, port = scrape["static_configs"][0]["targets"][0].split(":")
    assert f"{port}:8000" in services[host]["ports"]
    [source] = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"].removeprefix("http://").split(":")[0] in services
    [provider] = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/octavo.yml").read_text())[
        "providers"
    ]
    targets = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/octavo.json" in targets
