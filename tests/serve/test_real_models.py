"""Every kind of model served for real, and a model that is replaced under load."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from test_serve_command import ONNX, serving, write_images

from inception_v3 import InceptionV3, Preprocessing, save


def predictions(arguments: list[object]) -> list[dict[str, float]]:
    """The probabilities by class of each image, by `predict`."""
    done = subprocess.run(
        [sys.executable, "-m", "inception_v3", "predict", *map(str, arguments), "--json"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    lines = [json.loads(line)["predictions"] for line in done.stdout.splitlines()]
    return [{each["class"]: each["probability"] for each in line} for line in lines]


def write_network(model: InceptionV3, path: Path) -> Path:
    """A PyTorch network with random weights and two classes."""
    model.preprocessing, model.class_names = Preprocessing((107, 107)), ["cat", "dog"]
    save(model.eval(), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        ("pytorch", "pytorch"),
        ("pytorch", "openvino"),
        ("pytorch", "onnxruntime"),
        ("openvino", "openvino"),
        ("onnx", "openvino"),
    ],
)
def test_a_model_of_any_kind_is_served_as_predict_runs_it(
    kind: str, engine: str, tmp_path: Path, random_model: Callable[..., InceptionV3]
) -> None:
    model = {"onnx": ONNX, "openvino": ONNX.with_suffix(".xml")}.get(kind)
    if model is None:
        network = random_model(num_classes=2, depth_multiplier=0.1, min_depth=8, image_size=107)
        model = write_network(network, tmp_path / "a.safetensors")
    files = write_images(tmp_path, 5)
    options = ["--engine", engine, "--precision", "fp32"]
    expected = predictions([model, *files, *options])
    with serving(f"m={model}", "--port", 0, *options) as server:
        url = server.event("ready")["address"]
        assert engine in server.event("model ready")["engine"].lower().replace(" ", "")
        form = [("image", (file.name, file.read_bytes(), "image/jpeg")) for file in files]
        results = httpx.post(f"{url}/predict", files=form, timeout=60).json()["results"]
        assert server.end() == 0
    for image, result in zip(expected, results, strict=True):
        found = {each["class"]: each["probability"] for each in result["predictions"]}
        assert found == pytest.approx(image, abs=1e-4)


@pytest.mark.slow
def test_a_model_is_replaced_under_load_without_a_lost_request(
    tmp_path: Path, random_model: Callable[..., InceptionV3]
) -> None:
    """The other model has other classes, so every response shows which of the two gave it."""
    model, image, other = tmp_path / "model.onnx", tmp_path / "a.png", tmp_path / "other.onnx"
    network = write_network(random_model(num_classes=2), tmp_path / "other.safetensors")
    subprocess.run([sys.executable, "-m", "inception_v3", "export", network, other], check=True, capture_output=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (80, 80, 3), np.uint8)).save(image)
    shutil.copy(ONNX, model)
    answers: list[str] = []
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    with serving(f"pets={model}", "--port", 0, "--watch") as server:
        url = server.event("ready")["address"]

        def ask() -> None:
            with httpx.Client(timeout=60) as client:
                while not stop.is_set():
                    response = client.post(f"{url}/predict?top=1", content=image.read_bytes())
                    statuses[response.status_code] += 1
                    answers.append(response.json()["results"][0]["predictions"][0]["class"])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for each in threads:
            each.start()
        try:
            damaged = tmp_path / "damaged"
            damaged.write_bytes(ONNX.read_bytes()[:9000])
            damaged.replace(model)
            server.event("model refused")
            refused = len(answers)
            other.replace(model)
            wait_until(lambda: answers[-1] in ("cat", "dog"), server.lines)
            time.sleep(0.3)
        finally:
            stop.set()
            for each in threads:
                each.join()
        assert server.end() == 0
    assert set(statuses) == {200}
    swap = next(index for index, answer in enumerate(answers) if answer in ("cat", "dog"))
    assert {*answers[:refused]} <= {str(digit) for digit in range(10)}  # a damaged file changes nothing
    assert {*answers[swap + 4 :]} <= {"cat", "dog"}  # 4 requests may have been in flight


def wait_until(condition: Callable[[], bool], lines: list[str]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "".join(line for line in lines if '"request"' not in line)
        time.sleep(0.02)
