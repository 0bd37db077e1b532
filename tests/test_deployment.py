"""The files of deploy/: they fit together and to the command (quick), and programs of their kind accept them (slow)."""

import inspect
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from inception_v3.cli.serve import serve
from inception_v3.serve.guard import OPEN_PATHS
from inception_v3.serve.limits import Limits
from installation import pythons, uv

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
ONNX = ROOT / "tests" / "version_0_1" / "run.onnx"
OPTIONS = {f"--{name.replace('_', '-')}" for name in inspect.signature(serve).parameters}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def containers() -> dict[str, dict[str, Any]]:
    """The container of the server in each file for Kubernetes."""
    (deployment,) = [each for each in documents("kubernetes.yaml") if each["kind"] == "Deployment"]
    (service,) = documents("kserve.yaml")
    return {
        "kubernetes": deployment["spec"]["template"]["spec"]["containers"][0],
        "kserve": service["spec"]["predictor"]["containers"][0],
    }


def steps(keyword: str) -> list[str]:
    """The arguments of an instruction of the Dockerfile, each time that it stands there."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.startswith(f"{keyword} ")]


def unit() -> dict[str, str]:
    lines = (DEPLOY / "inception-v3.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Za-z]+=", line))


# ------------------------------------------------------------------------------------------------------- quick


def test_every_command_line_has_only_options_of_serve() -> None:
    compose = documents("compose.yaml")[0]["services"]["server"]["command"]
    lines = [compose, yaml.safe_load(steps("CMD")[-1]), shlex.split(unit()["ExecStart"])]
    lines += [each["args"] for each in containers().values()]
    for line in lines:
        assert {word for word in line if word.startswith("--")} <= OPTIONS


@pytest.mark.parametrize("name", ["kubernetes", "kserve"])
def test_a_container_in_kubernetes_is_probed_limited_and_without_rights(name: str) -> None:
    container = containers()[name]
    probes = {key: value["httpGet"] for key, value in container.items() if key.endswith("Probe")}
    assert {probe["path"] for probe in probes.values()} == {"/v2/health/live", "/v2/health/ready"}
    assert {probe["path"] for probe in probes.values()} <= {*OPEN_PATHS}  # which need no token
    assert probes["livenessProbe"]["path"] == "/v2/health/live"  # so that an overload restarts nothing
    assert {probe["port"] for probe in probes.values()} <= {8000, "http"}
    assert container["ports"][0]["containerPort"] == 8000
    assert container["resources"]["limits"]["memory"]
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_every_place_waits_for_the_requests_in_flight() -> None:
    deadline = Limits().deadline
    (deployment,) = [each for each in documents("kubernetes.yaml") if each["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    waits = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > deadline + waits
    assert float(documents("compose.yaml")[0]["services"]["server"]["stop_grace_period"].rstrip("s")) > deadline
    assert float(unit()["TimeoutStopSec"]) > deadline
    assert documents("kserve.yaml")[0]["spec"]["predictor"]["timeout"] > deadline


def test_the_selectors_find_the_pods() -> None:
    by_kind = {each["kind"]: each["spec"] for each in documents("kubernetes.yaml")}
    labels = by_kind["Deployment"]["template"]["metadata"]["labels"]
    assert by_kind["Deployment"]["selector"]["matchLabels"].items() <= labels.items()
    assert by_kind["Service"]["selector"].items() <= labels.items()
    assert by_kind["PodDisruptionBudget"]["selector"]["matchLabels"].items() <= labels.items()


def test_the_image_runs_as_a_user_without_rights_and_is_probed() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", steps("USER")[-1])
    assert "/v2/health/ready" in OPEN_PATHS
    assert "/v2/health/ready" in DOCKERFILE
    assert steps("ENTRYPOINT") == ['["inception-v3", "serve"]']
    assert {source for line in steps("COPY")[:2] for source in line.split()[:-1]} == {
        "pyproject.toml", "README.md", "LICENSE", "src",
    }  # fmt: skip
    kept = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert kept == {"pyproject.toml", "README.md", "LICENSE", "src"}


def test_the_proxy_has_the_limits_of_the_server() -> None:
    nginx = (DEPLOY / "nginx.conf").read_text()
    values = dict(re.findall(r"^\s*(\w+) (\S+?);", nginx, re.MULTILINE))
    limits = Limits()
    assert int(values["client_max_body_size"].rstrip("m")) * 2**20 == limits.body
    assert float(values["client_body_timeout"].rstrip("s")) == limits.body_seconds
    assert float(values["client_header_timeout"].rstrip("s")) == limits.header_seconds
    assert float(values["proxy_read_timeout"].rstrip("s")) > limits.deadline
    assert float(values["keepalive_timeout"].rstrip("s")) < limits.idle_seconds
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in nginx  # the client's own header is not passed on
    subnet = documents("compose.yaml")[0]["networks"]["inside"]["ipam"]["config"][0]["subnet"]
    assert subnet in documents("compose.yaml")[0]["services"]["server"]["command"]


# -------------------------------------------------------------------------------------------------------- slow


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Run Python code in an environment with these packages, which conflict with ours; returns what it prints."""
    folder = tmp_path_factory.mktemp("environments")

    def run(packages: str, code: str) -> str:
        path = folder / re.sub(r"\W", "_", packages)
        if not path.exists():
            uv("venv", "--quiet", "--python", "3.11", path)
            uv("pip", "install", "--quiet", "--python", path, *packages.split())
        done = subprocess.run([path / "bin" / "python", "-c", code], cwd=DEPLOY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    shutil.rmtree(folder)


@pytest.mark.slow
def test_the_manifests_are_valid_for_kubernetes(check: Callable[..., str]) -> None:
    code = """
import kubernetes_validate, yaml
for document in yaml.safe_load_all(open("kubernetes.yaml")):
    kubernetes_validate.validate(document, "1.33", strict=True)
    print(document["kind"])
predictor = yaml.safe_load(open("kserve.yaml"))["spec"]["predictor"]
pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": predictor["containers"]}}
kubernetes_validate.validate(pod, "1.33", strict=True)
"""
    assert check("kubernetes-validate pyyaml", code).split() == ["Deployment", "Service", "PodDisruptionBudget"]


@pytest.mark.slow
def test_the_inference_service_has_the_fields_of_kserve(check: Callable[..., str]) -> None:
    code = """
import yaml
from kserve import models
service = yaml.safe_load(open("kserve.yaml"))
levels = [("V1beta1InferenceService", service), ("V1beta1InferenceServiceSpec", service["spec"]),
          ("V1beta1PredictorSpec", service["spec"]["predictor"])]
for name, value in levels:
    print(*(set(value) - set(getattr(models, name).attribute_map.values())))
models.V1beta1PredictorSpec(min_replicas=1)
"""
    assert check("kserve", code).split() == []


@pytest.mark.slow
def test_the_compose_file_is_valid(check: Callable[..., str]) -> None:
    code = """
import compose_spec
compose = compose_spec.PyCompose.from_yaml(open("compose.yaml").read())
compose.validate()
print(*sorted(compose.service_names()))
"""
    assert check("compose-spec", code).split() == ["proxy", "server"]


@pytest.mark.slow
def test_nginx_would_parse_the_configuration(check: Callable[..., str]) -> None:
    code = 'import crossplane; print(crossplane.parse("nginx.conf", strict=True)["errors"])'
    assert check("crossplane", code) == "[]\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit_and_finds_it_safe(tmp_path: Path) -> None:
    file = tmp_path / "inception-v3.service"
    file.write_text((DEPLOY / file.name).read_text().replace("/opt/inception-v3/bin/inception-v3", "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", file], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    arguments = ["--offline=true", "--threshold=15", str(file)]  # tenths, of 10 for a service without protection
    subprocess.run(["systemd-analyze", "security", *arguments], capture_output=True, check=True)


@pytest.mark.slow
def test_the_steps_of_the_image_give_a_small_server_that_starts_quickly(tmp_path: Path) -> None:
    """There is no Docker in the tests, so the RUN lines are run in a folder with what COPY would copy there."""
    source, target = tmp_path / "source", tmp_path / "opt"
    for line in steps("COPY")[:2]:
        for name in line.split()[:-1]:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            source.mkdir(exist_ok=True)
            copy(ROOT / name, source / name)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    python = pythons()[-1]
    for line in steps("RUN"):
        command = line.replace("/opt/inception-v3", str(target)).replace("python -m venv", f"{python} -m venv")
        done = subprocess.run(["sh", "-ec", command], cwd=source, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    megabytes = sum(file.lstat().st_size for file in target.rglob("*")) / 1e6
    started = time.monotonic()
    command = [target / "bin" / "python", target / "bin" / "inception-v3", "serve", ONNX, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if '"event": "ready"' in line:
            break
    seconds = time.monotonic() - started
    process.terminate()
    process.stderr.close()
    assert process.wait(20) == 0
    print(f"{megabytes:.0f} MB, ready after {seconds:.2f} s")
    assert '"event": "ready"' in lines[-1], lines
    assert megabytes < 250
    assert seconds < 10
