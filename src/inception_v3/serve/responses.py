"""Responses: the body of an inference response, and the description of a model in Triton's form."""

import gzip
import re
import time
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from inception_v3.inference.engines.base import is_vector
from inception_v3.inference.pipeline import not_finite
from inception_v3.serve.batching import Arrays
from inception_v3.serve.binary import HEADER
from inception_v3.serve.errors import RequestError
from inception_v3.serve.limits import Limits
from inception_v3.serve.models import ServedModel
from inception_v3.serve.protocol import INPUT, InferRequest, write_infer

MIN_COMPRESSED = 1024  # bytes; a shorter response is not worth it
COMPRESSION_LEVEL = 1


def to_bytes(value: Any) -> bytes:
    return bytes(JSONResponse(value).body)


def infer_response(headers: Headers, model: ServedModel, request: InferRequest, arrays: Arrays) -> Response:
    """The response to an inference request, compressed if the client accepts that."""
    started = time.monotonic()
    values = {}
    for requested in request.outputs:
        name = requested.tensor.name
        values[name] = model.values(name, arrays)
        if requested.classes and is_vector(model.sources[name]):
            values[name] = model.scores(name, values[name])
        if not np.isfinite(values[name]).all():
            raise RequestError(not_finite(name), 500)
    body, json_length = write_infer(model.address.name, model.address.version, request, values)
    kind = "application/json" if json_length is None else "application/octet-stream"
    extra = {"Content-Type": kind} | ({} if json_length is None else {HEADER: str(json_length)})
    response = compressed(headers, body, extra)
    model.statistics.add_output(time.monotonic() - started)
    return response


def compressed(headers: Headers, body: bytes, extra: Mapping[str, str]) -> Response:
    """A response with the headers `extra`, compressed if the client accepts that."""
    own = {**extra, "Vary": "Accept-Encoding"}
    encoding = accepted_encoding(headers.get("Accept-Encoding", ""))
    if encoding and len(body) >= MIN_COMPRESSED:
        compress = partial(gzip.compress, mtime=0) if encoding == "gzip" else zlib.compress
        body, own["Content-Encoding"] = compress(body, COMPRESSION_LEVEL), encoding
    return Response(body, headers=own)


def accepted_encoding(header: str) -> str:
    """gzip or deflate, whichever comes first in Accept-Encoding without q=0; "" for neither."""
    for part in header.lower().split(","):
        name, _, quality = part.partition(";")
        if name.strip() in ("gzip", "deflate") and not re.fullmatch(r"\s*q=0(\.0*)?\s*", quality):
            return name.strip()
    return ""


def platform(model: ServedModel) -> str:
    """The engine and the form of the model, as Triton names platforms, such as onnxruntime_onnx."""
    suffix = model.opened.file.suffix.lstrip(".") or "weights"
    return f"{model.engine.name}_{suffix}"


def model_configuration(model: ServedModel, limits: Limits) -> dict[str, Any]:
    """The fields of Triton's ModelConfig that have a value here."""
    device = "KIND_CPU" if model.engine.device.lower() == "cpu" else "KIND_GPU"
    return {
        "name": model.address.name,
        "platform": platform(model),
        "backend": model.engine.name,
        "version_policy": {"specific": {"versions": [int(model.address.version)]}}
        if model.address.version.isdecimal()
        else {"latest": {"num_versions": 1}},
        "max_batch_size": limits.images,
        "input": [{"name": INPUT, "data_type": "TYPE_UINT8", "dims": [*model.input.shape[1:]]}],
        "output": [
            {"name": name, "data_type": "TYPE_FP32", "dims": [*tensor.shape[1:]]}
            for name, tensor in model.outputs.items()
            if name == tensor.name
        ],
        "instance_group": [{"name": model.address.name, "kind": device, "count": 1}],
        "dynamic_batching": {
            "preferred_batch_size": [model.batch_size],
            "max_queue_delay_microseconds": 0,
            "default_queue_policy": {
                "timeout_action": "REJECT",
                "default_timeout_microseconds": int(limits.deadline * 1e6),
                "allow_timeout_override": True,
                "max_queue_size": limits.queue,
            },
        },
    }
