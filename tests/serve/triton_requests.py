"""Requests of the Open Inference Protocol, and what a server answers to them, in a form that can be compared.

tests/serve/triton_answers.json has the answers of NVIDIA's Triton Inference Server to these requests. To record them
anew, with Python 3.13, which Triton's backend for Python needs:

    uv venv --python 3.13 triton && uv pip install --python triton/bin/python nvidia-pytriton onnxruntime
    triton/bin/python tests/serve/triton_requests.py

That starts the server of the package nvidia-pytriton with tests/version_0_1/run.onnx as the model `pets`.
"""

import gzip
import json
import sys
import time
import zlib
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np

MODEL = Path(__file__).parents[1] / "version_0_1" / "run.onnx"
ANSWERS = Path(__file__).with_name("triton_answers.json")
LENGTH = "Inference-Header-Content-Length"
SIZE = 75  # height and width of the model's images
Case = tuple[str, str, str, dict[str, str], bytes]  # name, method, path, headers, body


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def tensor(count: int = 1, **changes: Any) -> dict[str, Any]:
    values = pixels(count)
    return {
        "name": "images",
        "datatype": "UINT8",
        "shape": [*values.shape],
        "data": values.reshape(-1).tolist(),
    } | changes


def without_data(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in tensor(**changes).items() if name != "data"}


def infer(name: str, request: Any, path: str = "/v2/models/pets/infer", **headers: str) -> Case:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    return name, "POST", path, {key.replace("_", "-"): value for key, value in headers.items()}, body


def with_binary(name: str, binary: bytes, size: int | None = None, more: int = 0, **request: Any) -> Case:
    """A request whose input is binary: `size` is what it says, `more` is added to the length of the JSON."""
    entry = without_data() | {"parameters": {"binary_data_size": len(binary) if size is None else size}}
    text = json.dumps({"inputs": [entry]} | request).encode()
    return infer(name, text + binary, **{LENGTH.replace("-", "_"): str(len(text) + more)})


def cases() -> list[Case]:
    one, binary = [tensor()], pixels(1).tobytes()
    best = {"name": "probabilities", "parameters": {"classification": 3}}
    plain = json.dumps({"inputs": one}).encode()
    return [
        ("live", "GET", "/v2/health/live", {}, b""),
        ("ready", "GET", "/v2/health/ready", {}, b""),
        ("model ready", "GET", "/v2/models/pets/ready", {}, b""),
        ("version ready", "GET", "/v2/models/pets/versions/1/ready", {}, b""),
        ("model metadata", "GET", "/v2/models/pets", {}, b""),
        ("version metadata", "GET", "/v2/models/pets/versions/1", {}, b""),
        ("config", "GET", "/v2/models/pets/config", {}, b""),
        ("no such model", "GET", "/v2/models/dogs", {}, b""),
        ("no such version", "GET", "/v2/models/pets/versions/9", {}, b""),
        infer("flat", {"inputs": one}),
        infer("nested", {"inputs": [tensor(data=pixels(1).tolist())]}),
        infer("two images with an id", {"id": "a1", "inputs": [tensor(2)]}),
        infer("outputs in another order", {"inputs": one, "outputs": [{"name": "logits"}, {"name": "probabilities"}]}),
        infer("version", {"inputs": one, "outputs": [{"name": "logits"}]}, "/v2/models/pets/versions/1/infer"),
        infer("classification", {"inputs": [tensor(2)], "outputs": [best]}),
        infer("one class", {"inputs": one, "outputs": [best | {"parameters": {"classification": 1}}]}),
        infer(
            "more classes than there are", {"inputs": one, "outputs": [best | {"parameters": {"classification": 99}}]}
        ),
        infer("gzip", gzip.compress(plain), Content_Encoding="gzip"),
        infer("deflate", zlib.compress(plain), Content_Encoding="deflate"),
        infer("binary output", {"inputs": one, "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}),
        infer("all outputs binary", {"inputs": one, "parameters": {"binary_data_output": True}}),
        infer(
            "one of two outputs binary",
            {"inputs": one, "outputs": [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "features"}]},
        ),
        infer(
            "binary classification",
            {"inputs": one, "outputs": [best | {"parameters": {"classification": 2, "binary_data": True}}]},
        ),
        with_binary("binary input", binary),
        with_binary("binary both ways", binary, parameters={"binary_data_output": True}),
        # refused
        infer("no JSON", b"{"),
        infer("empty body", b""),
        infer("no inputs", {}),
        infer("empty inputs", {"inputs": []}),
        infer("two equal inputs", {"inputs": one * 2}),
        infer("another input", {"inputs": [tensor(name="pixels")]}),
        infer("another datatype", {"inputs": [tensor(datatype="INT64")]}),
        infer("unknown datatype", {"inputs": [tensor(datatype="PIXELS")]}),
        infer("another size", {"inputs": [tensor(shape=[1, 50, 50, 3], data=[0] * 7500)]}),
        infer("three dimensions", {"inputs": [tensor(shape=[SIZE, SIZE, 3])]}),
        infer("too few values", {"inputs": [tensor(data=[0] * 5)]}),
        infer("too many values", {"inputs": [tensor(data=[0] * 20_000)]}),
        infer("negative batch", {"inputs": [tensor(shape=[-1, SIZE, SIZE, 3])]}),
        infer("text as values", {"inputs": [tensor(data=["a"] * (SIZE * SIZE * 3))]}),
        infer("no data", {"inputs": [without_data()]}),
        infer("unknown output", {"inputs": one, "outputs": [{"name": "nothing"}]}),
        infer("unknown model", {"inputs": one}, "/v2/models/dogs/infer"),
        infer("unknown version", {"inputs": one}, "/v2/models/pets/versions/9/infer"),
        with_binary("binary data cut short", binary[:-1], len(binary)),
        with_binary("binary size too small", binary, len(binary) - 1),
        with_binary("bytes after the binary data", binary + b"more", len(binary)),
        with_binary("length of the JSON beyond the body", binary, more=10**6),
        infer("length of the JSON that is no number", {"inputs": one}, Inference_Header_Content_Length="many"),
        infer("unknown compression", plain, Content_Encoding="br"),
        infer("damaged gzip", b"no gzip", Content_Encoding="gzip"),
    ]


def ask(url: str, case: Case) -> dict[str, Any]:
    """The status of the answer, its JSON, and the lengths of JSON and binary data if there are such."""
    _, method, path, headers, body = case
    request = Request(url + path, body if method == "POST" else None, headers, method=method)
    try:
        with urlopen(request, timeout=30) as response:
            status, fields, content = response.status, response.headers, response.read()
    except HTTPError as error:
        status, fields, content = error.code, error.headers, error.read()
    length = fields.get(LENGTH)
    text = content if length is None else content[: int(length)]
    binary = b"" if length is None else content[int(length) :]
    return {"status": status, "json": json.loads(text) if text else None, "binary": decoded(text, binary)}


def decoded(text: bytes, binary: bytes) -> dict[str, list[Any]]:
    """The values of the outputs whose data is binary."""
    found: dict[str, list[Any]] = {}
    for output in json.loads(text)["outputs"] if binary else ():
        size = output.get("parameters", {}).get("binary_data_size", 0)
        part, binary = binary[:size], binary[size:]
        if output["datatype"] == "BYTES":
            found[output["name"]] = elements(part)
        elif size:
            found[output["name"]] = np.frombuffer(part, "<f4").tolist()
    assert not binary
    return found


def elements(part: bytes) -> list[str]:
    texts = []
    while part:
        size = int.from_bytes(part[:4], "little")
        texts.append(part[4 : 4 + size].decode())
        part = part[4 + size :]
    return texts


def serve_in_triton(port: int) -> Any:
    """A running Triton with the model, which `stop` ends."""
    import onnxruntime
    from pytriton.decorators import batch
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    (source,), (logits, features) = session.get_inputs(), session.get_outputs()

    @batch
    def compute(images: np.ndarray) -> dict[str, np.ndarray]:
        values, vectors = session.run(None, {source.name: images})
        exponents = np.exp(values - values.max(1, keepdims=True))
        return {"probabilities": exponents / exponents.sum(1, keepdims=True), "logits": values, "features": vectors}

    def output(name: str, width: int) -> Any:
        return Tensor(name=name, dtype=np.float32, shape=(width,))

    triton = Triton(config=TritonConfig(http_port=port, grpc_port=port + 1, metrics_port=port + 2))
    triton.bind(
        model_name="pets",
        infer_func=compute,
        inputs=[Tensor(name="images", dtype=np.uint8, shape=(SIZE, SIZE, 3))],
        outputs=[
            output("probabilities", logits.shape[1]),
            output("logits", logits.shape[1]),
            output("features", features.shape[1]),
        ],
        config=ModelConfig(max_batch_size=128),
    )
    triton.run()
    return triton


def main() -> None:
    port = 18_900
    triton = serve_in_triton(port)
    try:
        time.sleep(2)
        answers = {case[0]: ask(f"http://127.0.0.1:{port}", case) for case in cases()}
    finally:
        triton.stop()
    ANSWERS.write_text(json.dumps(answers, indent=1) + "\n")
    print(f"{ANSWERS}: {len(answers)} answers", file=sys.stderr)


if __name__ == "__main__":
    main()
