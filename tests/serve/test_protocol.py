"""The Open Inference Protocol v2: what tritonclient sends and reads, and every field that can be wrong."""

import base64
import gzip
import json
import re
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from serving import Running, png
from tritonclient.utils import InferenceServerException

from fake_engine import CLASSES
from inception_v3.serve.errors import RequestError
from inception_v3.serve.protocol import Tensor, classifications, parse_infer

INFER = "/v2/models/pets/infer"


def pixels(*classes: int) -> np.ndarray:
    return np.stack([np.full((8, 8, 3), 2 * number, np.uint8) for number in classes])


def an_input(**changes: Any) -> dict[str, Any]:
    """An inference request for one image of class 3, with changed fields of its input."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": pixels(3).ravel().tolist()}
    return {"inputs": [{key: value for key, value in (tensor | changes).items() if value is not None}]}


def top(response: httpx.Response) -> list[int]:
    """The top class of each image."""
    assert response.status_code == 200, response.text
    (output,) = [each for each in response.json()["outputs"] if each["name"] == "probabilities"]
    return np.reshape(output["data"], output["shape"]).argmax(1).tolist()


# ------------------------------------------------------------------------------------------------ tritonclient


@pytest.fixture
def client(pets: Running) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(f"127.0.0.1:{pets.port}")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_tritonclient_sends_a_batch_of_pixels(client: Any, datatype: str, binary: bool) -> None:
    values = pixels(5, 6, 7).astype({"UINT8": np.uint8, "FP32": np.float32}[datatype])
    tensor = triton.InferInput("images", [3, 8, 8, 3], datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "logits")]
    result = client.infer("pets", [tensor], request_id="42", outputs=outputs)
    assert result.get_response()["id"] == "42"
    assert result.as_numpy("logits").argmax(1).tolist() == [5, 6, 7]
    assert result.as_numpy("probabilities").sum(1) == pytest.approx(1)
    assert result.as_numpy("features") is None


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritonclient_sends_image_files_and_gets_all_outputs(client: Any, compression: str | None) -> None:
    tensor = triton.InferInput("images", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([png(9), png(1)], dtype=object))
    result = client.infer(
        "pets", [tensor], request_compression_algorithm=compression, response_compression_algorithm=compression
    )
    assert result.as_numpy("logits").argmax(1).tolist() == [9, 1]
    assert result.as_numpy("features").shape == (2, 2048)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_gets_classifications(client: Any, binary: bool) -> None:
    tensor = triton.InferInput("images", [2, 8, 8, 3], "UINT8")
    tensor.set_data_from_numpy(pixels(5, 6))
    outputs = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)]
    found = client.infer("pets", [tensor], outputs=outputs).as_numpy("logits")
    assert [[text.decode() if isinstance(text, bytes) else text for text in row] for row in found] == [
        ["-0.000000:5:class 5", "-2.000000:4:class 4"],
        ["-0.000000:6:class 6", "-2.000000:5:class 5"],
    ]


def test_tritonclient_reads_all_descriptions(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("pets", "1")
    assert not client.is_model_ready("pets", "2")
    assert client.get_server_metadata()["extensions"] == [
        "binary_tensor_data", "classification", "statistics", "model_configuration", "model_repository"
    ]  # fmt: skip
    metadata = client.get_model_metadata("pets")
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
    assert metadata["outputs"] == [
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, CLASSES]},
        {"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]},
        {"name": "features", "datatype": "FP32", "shape": [-1, 2048]},
    ]
    config = client.get_model_config("pets")
    assert config["input"] == [{"name": "images", "data_type": "TYPE_UINT8", "dims": [8, 8, 3]}]
    assert client.get_model_repository_index() == [{"name": "pets", "version": "1", "state": "READY", "reason": ""}]


def test_the_statistics_count_images_requests_and_batches(start: Any) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{start().port}")
    tensor = triton.InferInput("images", [3, 8, 8, 3], "UINT8")
    tensor.set_data_from_numpy(pixels(1, 2, 3))
    client.infer("pets", [tensor])
    with pytest.raises(InferenceServerException):
        client.infer("pets", [triton.InferInput("other", [1], "BYTES").set_data_from_numpy(np.array([b"x"], object))])
    (statistics,) = client.get_inference_statistics("pets")["model_stats"]
    assert (statistics["inference_count"], statistics["execution_count"]) == (3, 1)
    assert statistics["inference_stats"]["success"]["count"] == 1
    assert statistics["inference_stats"]["fail"]["count"] == 1
    assert [(each["batch_size"], each["compute_infer"]["count"]) for each in statistics["batch_stats"]] == [(3, 1)]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.load_model("pets"),
        lambda client: client.unload_model("pets"),
        lambda client: client.get_trace_settings(),
        lambda client: client.get_log_settings(),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_cuda_shared_memory("a", b"", 0, 1),
    ],
)
def test_what_is_not_supported_gets_an_error_in_the_form_of_the_protocol(client: Any, call: Any) -> None:
    with pytest.raises(InferenceServerException, match="not supported; GET /v2 lists the extensions") as error:
        call(client)
    assert error.value.status() == "400"


# -------------------------------------------------------------------------------------------------- plain HTTP


def test_a_batch_in_json_may_be_nested_or_flat(pets: Running) -> None:
    for data in (pixels(1, 2).tolist(), pixels(1, 2).ravel().tolist()):
        assert top(pets.client.post(INFER, json=an_input(shape=[2, 8, 8, 3], data=data))) == [1, 2]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_image_files_in_json_are_base64(pets: Running, shape: list[int]) -> None:
    data = [base64.b64encode(png(number)).decode() for number in (4, 8)]
    assert top(pets.client.post(INFER, json=an_input(datatype="BYTES", shape=shape, data=data))) == [4, 8]


def test_outputs_may_be_mixed_and_have_the_names_of_end_points(pets: Running) -> None:
    names = ["Logits", "probabilities", "AvgPool_1a", "PreLogits"]
    outputs = [{"name": name, "parameters": {"binary_data": name == "AvgPool_1a"}} for name in names]
    response = pets.client.post(INFER, json=an_input() | {"outputs": outputs})
    length = int(response.headers["Inference-Header-Content-Length"])
    found = json.loads(response.content[:length])["outputs"]
    assert [each["name"] for each in found] == names
    assert len(response.content) - length == found[2]["parameters"]["binary_data_size"] == 4 * 2048


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_compressed_request_that_grows_beyond_the_limit_is_refused(pets: Running, compress: Any) -> None:
    name = {gzip.compress: "gzip", zlib.compress: "deflate"}[compress]
    response = pets.client.post(INFER, content=compress(bytes(2**26)), headers={"Content-Encoding": name})
    assert response.status_code == 413
    assert "after decompression" in response.json()["error"]


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("br, deflate, gzip", "deflate"),
        ("gzip;q=0, deflate;q=0.5", "deflate"),
        ("gzip; q=0.000", None),
        ("identity", None),
    ],
)
def test_a_response_is_compressed_as_the_client_accepts(pets: Running, accepted: str, encoding: str | None) -> None:
    response = pets.client.post(INFER, json=an_input(), headers={"Accept-Encoding": accepted})
    assert response.headers.get("Content-Encoding") == encoding
    assert response.headers["Vary"] == "Accept-Encoding"
    assert top(response) == [3]


DEEP = b'{"inputs": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
WRONG_BODIES = {
    "no JSON": (b"{", "no JSON object"),
    "nothing": (b"", "no JSON object"),
    "an array": (b"[]", "no JSON object"),
    "not UTF-8": (b'{"id": "\xff"}', "not UTF-8"),
    "deep": (DEEP, "nested too deeply|inputs must be an array of one object"),
    "a key twice": (b'{"id": "a", "id": "b"}', "occurs twice"),
    "no inputs": (b"{}", "inputs must be an array of one object"),
    "NaN": (json.dumps(an_input(datatype="FP32", data=[float("nan")] * 192)).encode(), "finite and in the range"),
    "infinity": (json.dumps(an_input(datatype="FP32", data=[1e999] * 192)).encode(), "finite and in the range"),
    "1e999": (b'{"inputs": [1e999]}', "too large"),
}


@pytest.mark.parametrize("name", WRONG_BODIES)
def test_a_body_that_cannot_be_read_is_refused_with_its_fault(pets: Running, name: str) -> None:
    body, fault = WRONG_BODIES[name]
    response = pets.client.post(INFER, content=body)
    assert response.status_code == 400
    assert response.json().keys() == {"error"}
    assert re.search(fault, response.json()["error"])


WRONG_INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"name": "pixels"}, "there is no input pixels; its name is images"),
    ({"datatype": "INT8"}, "datatype must be UINT8, FP32 or BYTES, not INT8"),
    ({"datatype": 7}, "datatype must be a string"),
    ({"shape": [0, 8, 8, 3], "data": []}, "0 images"),
    ({"shape": [8, 8, 3]}, r"8 images|the shape of UINT8 must be \[-1, 8, 8, 3\], not \[8, 8, 3\]"),
    ({"shape": [1, 3, 8, 8]}, r"must be \[-1, 8, 8, 3\], not \[1, 3, 8, 8\]"),
    ({"shape": [1, 9, 9, 3]}, "images of other sizes are resized if you send them as files"),
    ({"shape": [10**30, 8, 8, 3]}, "images; send at least 1 and at most 128"),
    ({"shape": [-1, 8, 8, 3]}, "shape must hold whole numbers"),
    ({"shape": [1.0, 8, 8, 3]}, "shape must hold whole numbers"),
    ({"shape": None}, "0 images"),
    ({"data": [0] * 191}, "191 numbers in data"),
    ({"data": [[0], [0, 0]]}, "different lengths|must hold numbers"),
    ({"data": ["a"] * 192}, "data must hold numbers"),
    ({"data": [None] * 192}, "data must hold numbers"),
    ({"data": [256] * 192}, "finite and in the range 0 to 255"),
    ({"data": [-1] * 192}, "finite and in the range 0 to 255"),
    ({"data": [0.5] * 192}, "UINT8 values must be whole numbers"),
    ({"data": [10**40] * 192}, "data must hold numbers"),
    ({"data": "AAAA"}, "data must be an array"),
    ({"data": None}, "either data or the parameter binary_data_size"),
    ({"parameters": {"binary_data_size": 3}}, "either data or the parameter binary_data_size"),
    ({"parameters": {"shared_memory_region": "x"}}, "shared memory is not supported"),
    ({"datatype": "BYTES", "shape": [1], "data": ["%%%"]}, "must be the base64 of an image file"),
    ({"datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}, "not a supported image"),
    ({"datatype": "BYTES", "shape": [2], "data": ["aGVsbG8="]}, "1 elements in data, but the shape has 2"),
    ({"datatype": "BYTES", "shape": [1, 2], "data": ["", ""]}, r"must be \[1\] or \[1, 1\]"),
]


@pytest.mark.parametrize("number", range(len(WRONG_INPUTS)))
def test_a_wrong_input_is_refused_with_its_fault(pets: Running, number: int) -> None:
    changes, fault = WRONG_INPUTS[number]
    response = pets.client.post(INFER, json=an_input(**changes))
    assert response.status_code == 400
    assert re.search(fault, response.json()["error"])


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"id": 7}, "id must be a string"),
        ({"outputs": [{"name": "labels"}]}, "there is no output labels; there are probabilities, logits, features"),
        ({"outputs": [{"name": "logits"}] * 2}, "logits is requested twice"),
        ({"outputs": ["logits"]}, r"outputs\[0\] must be an object"),
        ({"outputs": [{"name": "logits", "parameters": {"classification": -1}}]}, "a number of classes"),
        ({"outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]}, "binary_data must be true or false"),
        ({"parameters": {"timeout": -1}}, "timeout must be a number of microseconds"),
    ],
)
def test_a_wrong_field_of_a_request_is_refused(pets: Running, more: dict[str, Any], fault: str) -> None:
    response = pets.client.post(INFER, json=an_input() | more)
    assert response.status_code == 400
    assert re.search(fault, response.json()["error"])


def binary(tensor: dict[str, Any], data: bytes, length: object = None) -> tuple[bytes, dict[str, str]]:
    text = json.dumps({"inputs": [{"name": "images"} | tensor]}).encode()
    return text + data, {"Inference-Header-Content-Length": str(len(text) if length is None else length)}


ONE = {"datatype": "UINT8", "shape": [1, 8, 8, 3], "parameters": {"binary_data_size": 192}}
FILES = {"datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}}


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        (binary(ONE, bytes(191)), "binary_data_size is 192, but 191 bytes follow"),
        (binary(ONE, bytes(193)), "binary_data_size is 192, but 193 bytes follow"),
        (binary(ONE | {"datatype": "FP32"}, bytes(192)), r"192 bytes, but FP32 \[1, 8, 8, 3\] has 768"),
        (binary(ONE, bytes(192), 10**6), "1000000 bytes, but the body has only"),
        (binary(ONE, bytes(192), "-1"), "is not a number of bytes"),
        (binary(ONE, bytes(192), 5), "no JSON object"),
        (binary(ONE | {"parameters": {}, "data": [0] * 192}, b"more"), "4 bytes after the JSON"),
        (binary(FILES, b"\xff\xff\xff\xff" + bytes(6)), "element 0 is longer than the tensor"),
        (binary(FILES, b"\x06\0\0\0" + bytes(6)), "does not hold exactly 2 elements"),
        (binary(FILES, b"\1\0\0\0a\1\0\0\0b" + b"", None), "not a supported image"),
        (binary(FILES | {"shape": [1]}, b"\1\0\0\0a\1\0\0\0b"), "does not hold exactly 1 elements"),
    ],
)
def test_binary_data_whose_sizes_are_wrong_is_refused(
    pets: Running, request_: tuple[bytes, dict[str, str]], fault: str
) -> None:
    response = pets.client.post(INFER, content=request_[0], headers=request_[1])
    assert response.status_code == 400
    assert re.search(fault, response.json()["error"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/dogs", 404),
        ("/v2/models/pets/versions/9", 404),
        ("/v2/models/pets/versions/9/infer", 405),
        ("/v2/models/..%2F..%2Fetc%2Fpasswd", 404),
        ("/v2/models/pets%0d%0aX-Evil:%201", 404),
        ("/v2/nothing", 404),
        ("/v2/models/pets/infer", 405),
    ],
)
def test_a_wrong_path_gets_an_error_in_the_form_of_the_protocol(pets: Running, path: str, status: int) -> None:
    response = pets.client.get(path)
    assert response.status_code == status
    assert response.json().keys() == {"error"}
    assert "X-Evil" not in response.headers


def test_pixels_in_the_metadata_of_a_network_for_any_size_have_any_size() -> None:
    tensor = Tensor("images", "UINT8", (-1, -1, -1, 3))
    body = json.dumps({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 2, 1, 3], "data": [1] * 6}]})
    assert parse_infer(body.encode(), None, tensor, {}, 8).images.shape == (1, 2, 1, 3)


@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_images_without_pixels_are_refused_by_a_network_for_any_size(datatype: str) -> None:
    body = json.dumps({"inputs": [{"name": "images", "datatype": datatype, "shape": [1, 0, 1, 3], "data": []}]})
    with pytest.raises(RequestError, match=r"must be \[-1, -1, -1, 3\], not \[1, 0, 1, 3\]"):
        parse_infer(body.encode(), None, Tensor("images", "UINT8", (-1, -1, -1, 3)), {}, 8)


def test_the_first_of_equal_values_is_the_better_class() -> None:
    assert classifications(np.float32([[1, 3, 3]]), 9, ["a", "b", "c"]) == [
        "3.000000:1:b", "3.000000:2:c", "1.000000:0:a"
    ]  # fmt: skip
    assert classifications(np.float32([[0.5, 0.25]]), 1, []) == ["0.500000:0"]
