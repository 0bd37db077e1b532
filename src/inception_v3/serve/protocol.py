"""The Open Inference Protocol v2 over REST, with Triton's extensions: requests are parsed, responses are written.

Pure functions, which know neither HTTP nor an engine. The names of the fields are those of
https://github.com/kserve/open-inference-protocol and https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.serve.binary import pack_bytes, split_body, unpack_bytes
from inception_v3.serve.errors import RequestError
from inception_v3.support.json_values import parse_json
from inception_v3.support.text import one_line, printable

EXTENSIONS = ("binary_tensor_data", "classification", "statistics", "model_configuration", "model_repository")
INPUT = "images"  # the name of the only input
DATATYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype(np.uint8),
    "FP32": np.dtype("<f4"),
}  # of pixels; BYTES holds image files
MAX_NAME = 200  # characters of an id or a name in a message


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model: -1 in the shape stands for any size. `labels`: the classes of its values."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": [*self.shape]}


@dataclass(frozen=True)
class RequestedOutput:
    """An output that a request wants: as binary data or JSON, and with `classes` the best classes instead of values."""

    tensor: Tensor
    is_binary: bool = False
    classes: int = 0


@dataclass(frozen=True)
class InferRequest:
    """A parsed request. `images` holds image files, or pixels (N, H, W, 3), uint8. `timeout` is in seconds."""

    images: "list[bytes] | NDArray[np.uint8]"
    outputs: tuple[RequestedOutput, ...]
    id: str | None = None
    timeout: float | None = None


def parse_infer(
    body: bytes, json_length: str | None, model_input: Tensor, outputs: Mapping[str, Tensor], max_images: int
) -> InferRequest:
    """Parse the body of an inference request.

    Args:
        json_length: the value of the header of binary.py, None without it.
        model_input: INPUT, with the shape (-1, H, W, 3) of pixels.
        outputs: all outputs of the model by name. Those under another name than their own are given only on request.

    Raises RequestError: the field that is wrong, and how.
    """
    text, binary = split_body(body, json_length)
    request = parse_object(text)
    parameters = _get(request, "parameters", dict, {}, "the request")
    timeout = _get(parameters, "timeout", int, None, "parameters")
    if timeout is not None and timeout < 0:
        raise RequestError(f"parameters: timeout must be a number of microseconds, not {timeout}")
    return InferRequest(
        _parse_images(_get(request, "inputs", list, None, "the request"), binary, model_input, max_images),
        _parse_outputs(request, _get(parameters, "binary_data_output", bool, False, "parameters"), outputs),
        _get(request, "id", str, None, "the request"),
        timeout / 1e6 if timeout else None,
    )


def parse_object(text: bytes | str) -> dict[str, Any]:
    """The object in a JSON text. Raises RequestError."""
    try:
        value: dict[str, Any] = parse_json(text, dict)
    except ValueError as error:
        raise RequestError(f"the body is no JSON object: {one_line(error, 300)}") from error
    return value


def _get(values: dict[str, Any], key: str, kind: type, default: Any, owner: str) -> Any:
    """A field of a JSON object. Raises RequestError: another type. null counts as missing."""
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {dict: "an object", list: "an array", str: "a string", bool: "true or false", int: "a whole number"}
        raise RequestError(f"{owner}: {key} must be {names[kind]}")
    return value


def _parse_images(
    inputs: list[Any] | None, binary: memoryview, expected: Tensor, max_images: int
) -> "list[bytes] | NDArray[np.uint8]":
    if not inputs or len(inputs) > 1 or not isinstance(inputs[0], dict):
        raise RequestError(f"inputs must be an array of one object, the input {expected.name}")
    tensor = inputs[0]
    if (name := _get(tensor, "name", str, "", "inputs[0]")) != expected.name:
        raise RequestError(f"inputs[0]: there is no input {_short(name)}; its name is {expected.name}")
    datatype, shape = _get(tensor, "datatype", str, "", name), _get(tensor, "shape", list, [], name)
    if datatype not in (*DATATYPES, "BYTES"):
        raise RequestError(f"{name}: datatype must be {', '.join(DATATYPES)} or BYTES, not {_short(datatype)}")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise RequestError(f"{name}: shape must hold whole numbers")
    parameters, data = _get(tensor, "parameters", dict, {}, name), _get(tensor, "data", list, None, name)
    if "shared_memory_region" in parameters:
        raise RequestError(f"{name}: shared memory is not supported; send the data")
    size = _get(parameters, "binary_data_size", int, None, name)
    if (data is None) == (size is None):
        raise RequestError(f"{name}: give either data or the parameter binary_data_size")
    if size is None and len(binary):
        raise RequestError(f"{len(binary)} bytes after the JSON, but no input has binary_data_size")
    if size is not None and size != len(binary):
        raise RequestError(f"{name}: binary_data_size is {size}, but {len(binary)} bytes follow the JSON")
    count = shape[0] if shape else 0
    if not 1 <= count <= max_images:
        raise RequestError(f"{name}: {count} images; send at least 1 and at most {max_images:,} in a request")
    if datatype == "BYTES":
        if len(shape) > 2 or math.prod(shape) != count:
            raise RequestError(f"{name}: the shape of {count} BYTES must be [{count}] or [{count}, 1]")
        return unpack_bytes(binary, count) if data is None else _decode_base64(name, data, count)
    if (
        len(shape) != 4
        or 0 in shape
        or any(length not in (-1, given) for length, given in zip(expected.shape, shape, strict=True))
    ):
        raise RequestError(
            f"{name}: the shape of {datatype} must be {_shape(expected.shape)}, not {_shape(shape)}; images of other "
            "sizes are resized if you send them as files, with datatype BYTES"
        )
    values = _binary_pixels(name, datatype, binary, shape) if data is None else _json_pixels(name, data, shape)
    return _to_pixels(name, datatype, values).reshape(shape)


def _decode_base64(name: str, data: list[Any], count: int) -> list[bytes]:
    """Image files from JSON, in which BYTES are base64."""
    elements = [item for value in data for item in (value if isinstance(value, list) else [value])]
    if len(elements) != count:
        raise RequestError(f"{name}: {len(elements)} elements in data, but the shape has {count}")
    return [decode_base64(f"{name}[{index}]", element) for index, element in enumerate(elements)]


def decode_base64(name: str, text: Any) -> bytes:
    """Raises RequestError: no string, or no base64."""
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (AttributeError, UnicodeEncodeError, binascii.Error) as error:
        raise RequestError(f"{name}: must be the base64 of an image file") from error


def _binary_pixels(name: str, datatype: str, data: memoryview, shape: list[int]) -> NDArray[Any]:
    dtype = DATATYPES[datatype]
    if len(data) != (size := math.prod(shape) * dtype.itemsize):
        raise RequestError(f"{name}: {len(data)} bytes, but {datatype} {_shape(shape)} has {size}")
    return np.frombuffer(data, dtype)


def _json_pixels(name: str, data: list[Any], shape: list[int]) -> NDArray[Any]:
    try:
        values = np.asarray(data)
    except ValueError as error:
        raise RequestError(f"{name}: the arrays in data have different lengths") from error
    if values.dtype.kind not in "iuf" and values.size:
        raise RequestError(f"{name}: data must hold numbers")
    if values.size != math.prod(shape):
        given = f"{values.size} numbers in data"
        raise RequestError(f"{name}: {given}, but the shape {_shape(shape)} has {math.prod(shape)}")
    return values.reshape(-1)


def _to_pixels(name: str, datatype: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels, in memory of their own. Values of FP32 are rounded."""
    if values.dtype == np.uint8:
        return np.array(values)
    if datatype == "UINT8" and values.dtype.kind == "f":
        raise RequestError(f"{name}: UINT8 values must be whole numbers; use FP32 for others")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
        raise RequestError(f"{name}: pixels must be finite and in the range 0 to 255")
    pixels: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return pixels


def _parse_outputs(
    request: dict[str, Any], is_binary: bool, outputs: Mapping[str, Tensor]
) -> tuple[RequestedOutput, ...]:
    entries = _get(request, "outputs", list, None, "the request")
    if not entries:
        return tuple(RequestedOutput(tensor, is_binary) for name, tensor in outputs.items() if name == tensor.name)
    requested: dict[str, RequestedOutput] = {}
    for index, entry in enumerate(entries):
        owner = f"outputs[{index}]"
        if not isinstance(entry, dict):
            raise RequestError(f"{owner} must be an object")
        name, parameters = _get(entry, "name", str, "", owner), _get(entry, "parameters", dict, {}, owner)
        if name not in outputs:
            known = ", ".join(each for each, tensor in outputs.items() if each == tensor.name)
            raise RequestError(f"{owner}: there is no output {_short(name)}; there are {known}")
        if name in requested:
            raise RequestError(f"{owner}: {name} is requested twice")
        if "shared_memory_region" in parameters:
            raise RequestError(f"{owner}: shared memory is not supported")
        classes = _get(parameters, "classification", int, 0, owner)
        if classes < 0 or (classes and len(outputs[name].shape) != 2):
            raise RequestError(f"{owner}: classification is a number of classes, for an output of shape [N, classes]")
        requested[name] = RequestedOutput(
            replace(outputs[name], name=name), _get(parameters, "binary_data", bool, is_binary, owner), classes
        )
    return tuple(requested.values())


def write_infer(
    model: str, version: str, request: InferRequest, arrays: Mapping[str, NDArray[np.float32]]
) -> tuple[bytes, int | None]:
    """The body of the response, and the length of its JSON if binary data follows it. `arrays`: values by output."""
    outputs, parts = [], []
    for requested in request.outputs:
        values: NDArray[Any] = arrays[requested.tensor.name]
        entry: dict[str, Any] = {"name": requested.tensor.name, "datatype": requested.tensor.datatype}
        texts: list[str] | None = None
        shape = values.shape
        if requested.classes:
            texts = classifications(values, requested.classes, requested.tensor.labels)
            shape, entry["datatype"] = (len(values), len(texts) // len(values)), "BYTES"
        entry["shape"] = [*shape]
        if requested.is_binary:
            binary = values.astype("<f4").tobytes()
            packed = binary if texts is None else pack_bytes(text.encode() for text in texts)
            entry["parameters"] = {"binary_data_size": len(packed)}
            parts.append(packed)
        else:
            entry["data"] = values.reshape(-1).tolist() if texts is None else texts
        outputs.append(entry)
    response = {} if request.id is None else {"id": request.id}
    response |= {"model_name": model, "model_version": version, "outputs": outputs}  # type: ignore[dict-item]
    head = json.dumps(response, separators=(",", ":")).encode()
    return b"".join([head, *parts]), len(head) if parts else None


def classifications(values: NDArray[np.floating], count: int, labels: Sequence[str]) -> list[str]:
    """VALUE:INDEX:LABEL of the `count` highest values in each row (N, classes), best first, row after row.

    As in Triton, the value has six decimals, and the label is left out if the classes have no names.
    """
    count = min(count, values.shape[1])
    best = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return [
        ":".join((f"{values[row, index]:f}", str(index), *labels[index : index + 1]))
        for row, indices in enumerate(best.tolist())
        for index in indices
    ]


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape[:8]))}{', ...' if len(shape) > 8 else ''}]"


def _short(name: str) -> str:
    return printable(name[:MAX_NAME]) or "(empty)"
