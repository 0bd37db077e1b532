"""The routes of the server: from a request to a model's queue, and from its result to a response."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from inception_v3 import __version__
from inception_v3.inference.pipeline import not_finite
from inception_v3.inference.predict import Prediction, top_classes
from inception_v3.serve.batching import ClosedError, Computed, ExpiredError
from inception_v3.serve.binary import HEADER
from inception_v3.serve.bodies import Bodies, in_thread, seconds, whole_number
from inception_v3.serve.deadlines import deadline_of, deadline_passed, until
from inception_v3.serve.errors import RequestError
from inception_v3.serve.guard import Guard, request_id
from inception_v3.serve.limits import Limits
from inception_v3.serve.live import Live
from inception_v3.serve.logs import log
from inception_v3.serve.metrics import CONTENT_TYPE
from inception_v3.serve.models import LOGITS_OUTPUT, Models, ServedModel, hold
from inception_v3.serve.openapi import docs_page, openapi
from inception_v3.serve.protocol import EXTENSIONS, InferRequest, parse_infer, parse_object
from inception_v3.serve.responses import infer_response, model_configuration, platform
from inception_v3.serve.uploads import Upload
from inception_v3.support.cpu import core_count
from inception_v3.support.text import one_line, printable

UNSUPPORTED = (  # operations of Triton that its clients know
    "/v2/repository/models/{name}/load",
    "/v2/repository/models/{name}/unload",
    "/v2/systemsharedmemory/{rest:path}",
    "/v2/cudasharedmemory/{rest:path}",
    "/v2/models/{name}/trace/setting",
    "/v2/trace/setting",
    "/v2/logging",
)


# -------------------------------------------------------------------------------------------------- the server


class Server:
    """The routes, with what they share: the models, the limits, the threads that decode and parse."""

    def __init__(self, models: Models, limits: Limits, token: str | None = None) -> None:
        self.models, self.limits, self.metrics = models, limits, models.metrics
        self._token = token
        self._threads = ThreadPoolExecutor(core_count() + 2, "parse")
        self.bodies = Bodies(limits, self._threads)
        self._live = Live(models, self.bodies, self._threads, self.model)
        self.is_stopping = False

    def application(self) -> Guard:
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
            Route("/explain", self._live.explain, methods=["POST"]),
            Route("/", self._live.page),
            Route("/live/status", self._live.status),
            Route("/live/model", self._live.model),
            Route("/live/look", self._live.look, methods=["POST"]),
            Route("/metrics", self.prometheus),
            Route("/openapi.json", self.openapi),
            Route("/docs", self.docs),
            *(Route(path, self.unsupported, methods=["GET", "POST"]) for path in UNSUPPORTED),
        ]
        return Guard(Starlette(routes=routes), self.metrics, self.bodies.release, self._token)

    def close(self) -> None:
        self.models.close()
        self._live.close()
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
            name = model.address.name
            return JSONResponse(
                {"name": name, "versions": self.models.versions(name), "platform": platform(model),
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
        body = await self.bodies.body(request)
        only_ready = parse_object(body).get("ready") if body else None
        if not isinstance(only_ready, bool | None):
            raise RequestError("ready must be true or false")
        return JSONResponse([each for each in self.models.index() if not only_ready or each["state"] == "READY"])

    async def prometheus(self, request: Request) -> Response:
        return Response(await in_thread(self._threads, self.metrics.text), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(openapi(self.models, self.limits, has_token=self._token is not None))

    async def docs(self, request: Request) -> Response:
        page, policy = docs_page(openapi(self.models, self.limits, has_token=self._token is not None))
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})

    async def unsupported(self, request: Request) -> Response:
        raise RequestError(f"{printable(request.url.path[:200])}: not supported; GET /v2 lists the extensions that are")

    # ----------------------------------------------------------------------------------------------- inference

    async def infer(self, request: Request) -> Response:
        with self.model(request) as model, self.counted(request, model):
            body = await self.bodies.body(request)
            length = request.headers.get(HEADER)
            parse = partial(parse_infer, body, length, model.input, model.outputs, self.limits.images)
            parsed: InferRequest = await in_thread(self._threads, parse)
            del body
            images = parsed.images
            uploads = images if isinstance(images, np.ndarray) else self.bodies.uploads(images)
            names = {model.sources[each.tensor.name] for each in parsed.outputs}
            deadline = deadline_of(self.limits, parsed.timeout)
            computed = await until(request, deadline, self._compute(request, model, uploads, names, deadline))
            if computed.faults:
                raise RequestError(computed.faults[min(computed.faults)])
            respond = partial(infer_response, request.headers, model, parsed, computed.outputs)
            return await in_thread(self._threads, respond)

    async def predict(self, request: Request) -> Response:
        top, timeout = whole_number(request, "top", 5), seconds(request, "timeout")
        with self.model(request) as model, self.counted(request, model):
            if not model.has_classes:
                raise RequestError(f"{model.address.name} returns no probabilities of classes; use /features")
            uploads = await self.bodies.images(request)
            names = model.description.names()
            activation = model.description.settings.output_activation

            def result(name: str, arrays: dict[str, NDArray[np.float32]]) -> dict[str, Any]:
                classes = top_classes(arrays[model.sources[LOGITS_OUTPUT]], names, top, activation)
                return Prediction(name, classes).as_dict()

            return await self._each_image(request, model, uploads, {model.sources[LOGITS_OUTPUT]}, result, timeout)

    async def features(self, request: Request) -> Response:
        timeout = seconds(request, "timeout")
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

            uploads = await self.bodies.images(request)
            sources = {model.sources[name] for name in names}
            return await self._each_image(request, model, uploads, sources, result, timeout)

    async def _each_image(
        self,
        request: Request,
        model: ServedModel,
        uploads: list[Upload],
        names: set[str],
        result: Callable[[str, dict[str, NDArray[np.float32]]], dict[str, Any]],
        timeout: float | None,
    ) -> Response:
        """The results of the readable images, in order, and the errors of the others. All unreadable: status 400."""
        deadline = deadline_of(self.limits, timeout)
        computed = await until(request, deadline, self._compute(request, model, uploads, names, deadline))
        errors = {**computed.faults}

        def respond() -> Response:
            results, row = [], 0
            for index, upload in enumerate(uploads):
                if index not in errors:
                    values = {name: array[row] for name, array in computed.outputs.items()}
                    row += 1
                    if all(np.isfinite(array).all() for array in values.values()):
                        results.append(result(upload.name, values))
                        continue
                    errors[index] = not_finite(upload.name)
                results.append({"image": upload.name, "error": errors[index]})
            if not row:
                raise RequestError("; ".join(dict.fromkeys(errors.values())))
            return JSONResponse({"model": model.address.name, "version": model.address.version, "results": results})

        return await in_thread(self._threads, respond)

    async def _compute(
        self,
        request: Request,
        model: ServedModel,
        images: list[Upload] | NDArray[np.uint8],
        names: set[str],
        deadline: float,
    ) -> Computed:
        """The engine's outputs for the images of a request, and why some cannot be read."""
        try:
            with hold(model, len(images)):
                return await asyncio.wrap_future(model.submit(images, names, deadline))
        except ClosedError as error:
            raise RequestError("the server is stopping", 503, retry_after=1) from error
        except ExpiredError as error:
            raise deadline_passed() from error
        except RequestError:
            raise
        except Exception as error:
            self.metrics.failures.labels(model.address.name, model.address.version).inc()
            log("engine failed", "error", request_id=request_id(request), model=model.address.name,
                error=one_line(repr(error)))  # fmt: skip
            raise RequestError(f"{model.engine} failed; the server's log has the reason", 500) from error

    # ------------------------------------------------------------------------------------------------- requests

    @contextmanager
    def model(self, request: Request) -> Iterator[ServedModel]:
        """The model of a request, by its path or the parameters `model` and `version`; else the first one."""
        if not self.models.is_ready:
            raise RequestError("the models are being loaded", 503, retry_after=1)
        path, query = request.path_params, request.query_params
        name = path.get("name") or query.get("model") or self.models.names()[0][0]
        version = (path or query).get("version") or None
        with ExitStack() as stack:
            try:
                model = stack.enter_context(self.models.use(name, version))
            except KeyError as error:
                known = ", ".join(f"{each} (version {number})" for each, number in self.models.names())
                wanted = name[:200] + (f", version {version[:200]}" if version else "")
                raise RequestError(f"there is no model {printable(wanted)}; there are {known}", 404) from error
            request.state.model = model.address.name
            yield model

    @contextmanager
    def counted(self, request: Request, model: ServedModel) -> Iterator[None]:
        """Count the request in the statistics of the model."""
        started, succeeded = time.monotonic(), False
        try:
            yield
            succeeded = True
        finally:
            model.statistics.add_request(time.monotonic() - started, succeeded)
