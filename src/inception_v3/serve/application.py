"""The routes of the server: from a request to a model's queue, and from its result to a response."""

import asyncio
import gzip
import hmac
import math
import os
import re
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from inception_v3 import __version__
from inception_v3.errors import InputError
from inception_v3.inference.engines.base import is_vector
from inception_v3.inference.pipeline import not_finite
from inception_v3.inference.predict import Prediction, top_classes
from inception_v3.serve.batching import Arrays, Budget, Busy, Closed, Expired
from inception_v3.serve.binary import HEADER
from inception_v3.serve.errors import RequestError
from inception_v3.serve.limits import HEADER_BYTES, Limits
from inception_v3.serve.logs import log
from inception_v3.serve.metrics import CONTENT_TYPE
from inception_v3.serve.models import LOGITS_OUTPUT, Models, ServedModel
from inception_v3.serve.openapi import docs_page, openapi
from inception_v3.serve.protocol import EXTENSIONS, INPUT, InferRequest, parse_infer, parse_object, write_infer
from inception_v3.serve.uploads import Upload, check_count, name_of, parse_json_images
from inception_v3.support.cpu import core_count
from inception_v3.support.text import one_line, printable

Result = TypeVar("Result")
Images = "Sequence[Upload] | NDArray[np.uint8]"

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")  # which need no token, so that probes need none
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
MIN_COMPRESSED = 1024  # bytes; a shorter response is not worth it
COMPRESSION_LEVEL = 1
CLIENT_GONE = 499  # the status in the log of a request whose client did not wait; nginx's
MAX_RETRY_SECONDS = 60


class ClientGone(Exception):
    """The client has closed the connection before its response."""


# -------------------------------------------------------------------------------------------------- the server


class Server:
    """The routes, with what they share: the models, the limits, the threads that decode and parse."""

    def __init__(self, models: Models, limits: Limits, token: str | None = None) -> None:
        self.models, self.limits, self.metrics = models, limits, models.metrics
        self._token = token
        self._bodies = Budget(limits.bodies)
        self._threads = ThreadPoolExecutor(core_count() + 2, "decode")
        self.is_stopping = False

    def application(self) -> "Guard":
        one = "/v2/models/{name}"
        versions = (one, one + "/versions/{version}")
        routes = [
            Route("/v2", self.server_metadata),
            Route("/v2/", self.server_metadata, include_in_schema=False),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/models/stats", self.all_statistics),
            *(Route(path, self.model_metadata) for path in versions),
            *(Route(path + "/ready", self.model_ready) for path in versions),
            *(Route(path + "/config", self.model_config) for path in versions),
            *(Route(path + "/stats", self.model_statistics) for path in versions),
            *(Route(path + "/infer", self.infer, methods=["POST"]) for path in versions),
            Route("/v2/repository/index", self.repository_index, methods=["POST"]),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/features", self.features, methods=["POST"]),
            Route("/metrics", self.prometheus),
            Route("/openapi.json", self.openapi),
            Route("/docs", self.docs),
        ]
        return Guard(Starlette(routes=routes), self, self._token)

    def close(self) -> None:
        self.models.close()
        self._threads.shutdown(cancel_futures=True)

    # ---------------------------------------------------------------------------------- health and descriptions

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = self.models.is_ready and not self.is_stopping
        return JSONResponse({"ready": ready, "live": True}, 200 if ready else 503)

    async def server_metadata(self, request: Request) -> Response:
        return JSONResponse({"name": "inception-v3", "version": __version__, "extensions": [*EXTENSIONS]})

    async def model_metadata(self, request: Request) -> Response:
        with self.model(request) as model:
            outputs = [tensor.as_dict() for name, tensor in model.outputs.items() if name == tensor.name]
            versions = sorted(version for name, version in self.models.names() if name == model.address.name)
            return JSONResponse(
                {"name": model.address.name, "versions": versions, "platform": platform(model),
                 "inputs": [model.input.as_dict()], "outputs": outputs}
            )  # fmt: skip

    async def model_ready(self, request: Request) -> Response:
        with self.model(request) as model:
            return JSONResponse({"name": model.address.name, "ready": True})

    async def model_config(self, request: Request) -> Response:
        with self.model(request) as model:
            return JSONResponse(model_configuration(model, self.limits))

    async def model_statistics(self, request: Request) -> Response:
        with self.model(request):
            return JSONResponse({"model_stats": self.models.statistics(**request.path_params)})

    async def all_statistics(self, request: Request) -> Response:
        return JSONResponse({"model_stats": self.models.statistics()})

    async def repository_index(self, request: Request) -> Response:
        body = await self.body(request)
        only_ready = parse_object(body).get("ready", False) if body else False
        if not isinstance(only_ready, bool):
            raise RequestError("ready must be true or false")
        return JSONResponse([each for each in self.models.index() if not only_ready or each["state"] == "READY"])

    async def prometheus(self, request: Request) -> Response:
        return Response(await self.in_thread(self.metrics.text), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(openapi(self.models, self.limits, has_token=self._token is not None))

    async def docs(self, request: Request) -> Response:
        page, policy = docs_page(openapi(self.models, self.limits, has_token=self._token is not None))
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})

    # ----------------------------------------------------------------------------------------------- inference

    async def infer(self, request: Request) -> Response:
        with self.model(request) as model, self.counted(request, model):
            body = await self.body(request)
            length = request.headers.get(HEADER)
            parse = partial(parse_infer, body, length, model.input, model.outputs, self.limits.images)
            parsed: InferRequest = await self.in_thread(parse)
            del body
            images = parsed.images
            uploads = images if isinstance(images, np.ndarray) else self._uploads(images)
            names = {model.sources[each.tensor.name] for each in parsed.outputs}
            deadline = self._deadline(parsed.timeout)
            arrays = await until(request, deadline, self._compute(request, model, uploads, names, deadline))
            return await self.in_thread(partial(infer_response, request.headers, model, parsed, arrays))

    async def predict(self, request: Request) -> Response:
        top = whole_number(request, "top", 5)
        with self.model(request) as model, self.counted(request, model):
            if not model.has_classes:
                raise RequestError(f"{model.address.name} returns no probabilities of classes; use /features")
            uploads = await self.read_images(request)
            names = model.description.names()
            activation = model.description.settings.output_activation

            def result(name: str, arrays: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
                classes = top_classes(arrays[model.sources[LOGITS_OUTPUT]], names, top, activation)
                return Prediction(name, classes).as_dict()

            return await self._each_image(request, model, uploads, {model.sources[LOGITS_OUTPUT]}, result)

    async def features(self, request: Request) -> Response:
        with self.model(request) as model, self.counted(request, model):
            wanted = request.query_params.get("end_points", "")
            names = [name for name in wanted.split(",") if name] or ["features"]
            for name in names:
                if name not in model.outputs:
                    known = ", ".join(model.outputs)
                    raise RequestError(f"end_points: {model.address.name} has no {name[:200]}; it has {known}")

            def result(image: str, arrays: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
                values = {name: model.values(name, arrays).tolist() for name in names}
                return {"image": image, "features": values}

            uploads = await self.read_images(request)
            return await self._each_image(request, model, uploads, {model.sources[name] for name in names}, result)

    async def _each_image(
        self,
        request: Request,
        model: ServedModel,
        uploads: list[Upload],
        names: set[str],
        result: Callable[[str, dict[str, NDArray[np.float32]]], dict[str, Any]],
    ) -> Response:
        """The results of the readable images, in order, and the errors of the others. All unreadable: status 400."""
        deadline = self._deadline(seconds(request, "timeout"))
        errors: dict[int, str] = {}
        arrays = await until(request, deadline, self._compute(request, model, uploads, names, deadline, errors))

        def respond() -> bytes | str:
            results, row = [], 0
            for index, upload in enumerate(uploads):
                if index in errors:
                    results.append({"image": upload.name, "error": errors[index]})
                    continue
                values = {name: array[row] for name, array in arrays.items()}
                row += 1
                if all(np.isfinite(array).all() for array in values.values()):
                    results.append(result(upload.name, values))
                else:
                    errors[index] = not_finite(upload.name)
                    results.append({"image": upload.name, "error": errors[index]})
            if not row:
                return "; ".join(dict.fromkeys(errors.values()))
            return to_bytes(
                {"model": model.address.name, "version": model.address.version, "results": results}
            )

        body = await self.in_thread(respond)
        if isinstance(body, str):
            raise RequestError(body)
        return Response(body, media_type="application/json")

    async def _compute(
        self,
        request: Request,
        model: ServedModel,
        images: Any,
        names: set[str],
        deadline: float,
        errors: dict[int, str] | None = None,
    ) -> Arrays:
        """The engine's outputs for the images of a request.

        An image that cannot be decoded is noted by its index in `errors`, or without them raises RequestError.
        """
        try:
            with model.queue.hold(len(images)):
                started = time.monotonic()
                pixels = images if isinstance(images, np.ndarray) else await self._prepare(model, images, errors)
                model.statistics.add_phase("compute_input", time.monotonic() - started)
                if not len(pixels):
                    return {name: np.empty((0, 1), np.float32) for name in names}
                return await asyncio.wrap_future(model.batcher.submit(pixels, names, deadline))
        except Busy as busy:
            wait = math.ceil(busy.amount * model.statistics.seconds_per_image)
            fault = f"the queue of {model.address.name} is full ({busy.amount} images); try again later"
            raise RequestError(fault, 503, retry_after=min(max(wait, 1), MAX_RETRY_SECONDS)) from busy
        except Closed as error:
            raise RequestError("the server is stopping", 503, retry_after=1) from error
        except Expired as error:
            raise deadline_passed() from error
        except (RequestError, asyncio.CancelledError):
            raise
        except Exception as error:
            self.metrics.failures.labels(model.address.name, model.address.version).inc()
            log("engine failed", "error", request_id=request_id(request), model=model.address.name,
                error=one_line(repr(error)))  # fmt: skip
            raise RequestError(f"{model.engine} failed; the server's log has the reason", 500) from error

    async def _prepare(
        self, model: ServedModel, uploads: Sequence[Upload], errors: dict[int, str] | None
    ) -> NDArray[np.uint8]:
        """Decode and resize images in threads: (N, H, W, 3) without those that cannot be read."""
        pixels = np.empty((len(uploads), *model.preprocessing.image_size, 3), np.uint8)

        def prepare(index: int) -> str | None:
            try:
                model.prepare(uploads[index], pixels[index])
            except InputError as error:
                return str(error)
            return None

        faults = await asyncio.gather(*(self.in_thread(partial(prepare, index)) for index in range(len(uploads))))
        unreadable = {index: fault for index, fault in enumerate(faults) if fault is not None}
        if not unreadable:
            return pixels
        if errors is None:
            raise RequestError(next(iter(unreadable.values())))
        errors.update(unreadable)
        return pixels[[index for index in range(len(uploads)) if index not in unreadable]]

    # ------------------------------------------------------------------------------------------------- requests

    @contextmanager
    def model(self, request: Request) -> Iterator[ServedModel]:
        """The model of a request, by its path or the parameters `model` and `version`; else the first one."""
        if not self.models.is_ready:
            raise RequestError("the models are being loaded", 503, retry_after=1)
        given = request.path_params or request.query_params
        name = given.get("name") or given.get("model") or self.models.names()[0][0]
        version = given.get("version") or None
        try:
            context = self.models.use(name, version)
            model = context.__enter__()
        except (KeyError, ValueError) as error:
            known = ", ".join(f"{each} (version {number})" for each, number in self.models.names())
            wanted = name[:200] + (f", version {version[:200]}" if version else "")
            raise RequestError(f"there is no model {printable(wanted)}; there are {known}", 404) from error
        request.state.model = model.address.name
        try:
            yield model
        finally:
            context.__exit__(None, None, None)

    @contextmanager
    def counted(self, request: Request, model: ServedModel) -> Iterator[None]:
        """Count the request in the statistics of the model."""
        started, succeeded = time.monotonic(), False
        try:
            yield
            succeeded = True
        finally:
            model.statistics.add_request(time.monotonic() - started, succeeded)

    async def body(self, request: Request) -> bytes:
        """The body of a request, decompressed. Raises RequestError: too large, too slow, or no such compression."""
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "deflate"):
            raise RequestError(f"Content-Encoding {printable(encoding[:40])}: send gzip, deflate or identity", 415)
        chunks = [chunk async for chunk in self.stream(request)]
        body = b"".join(chunks)
        if encoding == "identity":
            return body
        return await self.in_thread(partial(decompress, body, encoding, self.limits.body))

    async def stream(self, request: Request) -> AsyncIterator[bytes]:
        """The parts of a body. They count as held by the server until the request ends (see Guard)."""
        limit, size = self.limits.body, 0
        held: list[int] = request.state.held
        announced = request.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise RequestError(f"the body has {announced[:20]} bytes; the limit is {limit}", 413)
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise RequestError(f"the body has more than {limit} bytes", 413)
                    self._bodies.take(len(chunk))
                    held.append(len(chunk))
                    yield chunk
        except TimeoutError as error:
            raise RequestError(f"the body did not arrive within {self.limits.body_seconds:g} seconds", 408) from error
        except Busy as error:
            raise RequestError("the server holds too many bytes of requests; try again later", 503, retry_after=1) from error

    def release(self, held: list[int]) -> None:
        self._bodies.give_back(sum(held))

    async def read_images(self, request: Request) -> list[Upload]:
        """The images of a form, of a JSON body, or the one that is the body."""
        kind = request.headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await self._form_images(request)
        if kind == "application/json":
            body = await self.body(request)
            return await self.in_thread(partial(parse_json_images, body, self.limits.images, self.limits.pixels))
        if kind != "application/octet-stream" and not kind.startswith("image/"):
            forms = "multipart/form-data, application/json, image/... or application/octet-stream"
            raise RequestError(f"Content-Type {printable(kind[:80])}: send {forms}", 415)
        body = await self.body(request)
        check_count(int(bool(body)), self.limits.images)
        return [Upload(name_of(request.query_params.get("name"), 0), body, self.limits.pixels)]

    async def _form_images(self, request: Request) -> list[Upload]:
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise RequestError("a compressed form is not supported; images are compressed already", 415)
        parser = MultiPartParser(
            request.headers, self.stream(request), max_files=self.limits.images, max_fields=0,
            max_part_size=self.limits.body,
        )  # fmt: skip
        parser.spool_max_size = self.limits.body  # files stay in memory
        try:
            form = await parser.parse()
        except MultiPartException as error:
            fault = error.message.rstrip(".")
            raise RequestError(f"multipart/form-data: {fault}; send the images as files") from error
        except (KeyError, ValueError) as error:
            raise RequestError("multipart/form-data: no boundary; let the HTTP library write the header") from error
        files = [value for _, value in form.multi_items() if not isinstance(value, str)]
        check_count(len(files), self.limits.images)
        return [
            Upload(name_of(file.filename, index), await file.read(), self.limits.pixels)
            for index, file in enumerate(files)
        ]

    def _uploads(self, files: list[bytes]) -> list[Upload]:
        return [Upload(f"{INPUT}[{index}]", data, self.limits.pixels) for index, data in enumerate(files)]

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + min(timeout or math.inf, self.limits.deadline)

    async def in_thread(self, call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


async def until(request: Request, deadline: float, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`. It is cancelled after the deadline (504), and when the client has gone."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone if gone.done() else deadline_passed()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def deadline_passed() -> RequestError:
    return RequestError("the deadline has passed; the server is busy, or the request has too many images", 504)


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Raises RequestError: damaged, or more than `limit` bytes."""
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)
    try:
        content = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is no valid {encoding} data") from error
    if len(content) > limit:
        raise RequestError(f"the body has more than {limit} bytes after decompression", 413)
    if not decompressor.eof or decompressor.unused_data:
        raise RequestError(f"the {encoding} data of the body is cut short, or more follows it")
    return content


def whole_number(request: Request, name: str, default: int) -> int:
    """A query parameter of 1 or more."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise RequestError(f"{name} must be a whole number of at least 1, not {printable(text[:40]) or '(empty)'}")
    return int(text)


def seconds(request: Request, name: str) -> float | None:
    """A query parameter in seconds, above 0; None without it."""
    if (text := request.query_params.get(name)) is None:
        return None
    with suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise RequestError(f"{name} must be a number of seconds, not {printable(text[:40]) or '(empty)'}")


# ------------------------------------------------------------------------------------------------- responses


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
    encoding = accepted_encoding(headers.get("Accept-Encoding", ""))
    if encoding and len(body) >= MIN_COMPRESSED:
        compress = partial(gzip.compress, mtime=0) if encoding == "gzip" else zlib.compress
        body, extra["Content-Encoding"] = compress(body, COMPRESSION_LEVEL), encoding
    extra["Vary"] = "Accept-Encoding"
    model.statistics.add_phase("compute_output", time.monotonic() - started)
    return Response(body, headers=extra)


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


def request_id(request: Request) -> str:
    return str(request.scope["state"]["request_id"])


# -------------------------------------------------------------------------------------- around every request


@dataclass
class _Exchange:
    """What the log and the metrics need of one request."""

    request_id: str
    started: float = field(default_factory=time.monotonic)
    status: int = 0


class Guard:
    """Around the application: the token, errors in the protocol's form, security headers, the log and the metrics."""

    def __init__(self, app: Starlette, server: Server, token: str | None) -> None:
        self._app, self._server = app, server
        self._token = token.encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # uvicorn's lifespan is off, and WebSockets are too
        headers = Headers(scope=scope)
        given = headers.get("X-Request-ID", "")
        exchange = _Exchange(given if REQUEST_ID.fullmatch(given) else os.urandom(8).hex())
        state = scope.setdefault("state", {})
        state["request_id"], state["held"] = exchange.request_id, []

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                own = MutableHeaders(scope=message)
                own["X-Request-ID"] = exchange.request_id
                for name, value in SECURITY_HEADERS.items():
                    own.setdefault(name, value)
            await send(message)

        self._server.metrics.in_flight.inc()
        try:
            await self._respond(scope, receive, send_with_headers, headers, exchange)
        finally:
            self._server.release(state["held"])
            self._server.metrics.in_flight.dec()
            self._note(scope, exchange)

    async def _respond(
        self, scope: Scope, receive: Receive, send: Send, headers: Headers, exchange: _Exchange
    ) -> None:
        try:
            self._check(scope, headers)
            await self._app.router(scope, receive, send)
            return
        except ClientGone:
            exchange.status = CLIENT_GONE
            return
        except RequestError as error:
            response = JSONResponse({"error": str(error)}, error.status, error.headers)
            if error.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
        except HTTPException as error:
            response = JSONResponse({"error": _http_fault(scope, error)}, error.status_code, error.headers)
        except asyncio.CancelledError:
            exchange.status = exchange.status or 503
            raise
        except Exception as error:
            if type(error).__name__ == "ClientDisconnect":
                exchange.status = CLIENT_GONE
                return
            log("bug", "error", request_id=exchange.request_id, error=one_line(repr(error)), where=_where(error))
            response = JSONResponse({"error": f"unexpected error; request {exchange.request_id}"}, 500)
        if exchange.status:  # the response has begun already
            return
        await response(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in scope["headers"]) + len(scope.get("raw_path") or b"")
        if size + len(scope["query_string"]) > HEADER_BYTES:
            raise RequestError(f"the header is longer than {HEADER_BYTES} bytes", 431)
        if self._token is None or scope["path"] in OPEN_PATHS:
            return
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if not hmac.compare_digest(given.strip().encode(), self._token) or scheme.lower() != "bearer":
            raise RequestError("this server needs the header Authorization: Bearer TOKEN", 401)

    def _note(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.monotonic() - exchange.started
        operation = getattr(scope.get("endpoint"), "__name__", "other")
        metrics = self._server.metrics
        metrics.requests.labels(operation, str(exchange.status)).inc()
        metrics.request_seconds.labels(operation).observe(seconds)
        client = (scope.get("client") or ("",))[0]
        log("request", request_id=exchange.request_id, method=scope["method"], path=scope["path"][:200],
            status=exchange.status, seconds=round(seconds, 4), client=client,
            model=scope["state"].get("model", ""), bytes=sum(scope["state"]["held"]))  # fmt: skip


def _http_fault(scope: Scope, error: HTTPException) -> str:
    path = printable(scope["path"][:200])
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return f"{path} takes {allowed}, not {printable(scope['method'][:20])}"
    if error.status_code == 404:
        return f"there is no {path}; /docs lists all operations"
    return str(error.detail)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else ""
