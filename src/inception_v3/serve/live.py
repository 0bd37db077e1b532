"""The live page, and what it and programs ask about the inside of a network: maps, receptive fields, Grad-CAM."""

import asyncio
import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from inception_v3.errors import InputError, NotFiniteError
from inception_v3.explain.attribution.result import Attribution, AttributionOptions
from inception_v3.explain.classes import find_class
from inception_v3.explain.look.channels import strongest_channels
from inception_v3.explain.look.inside import Inside
from inception_v3.explain.look.outline import outline
from inception_v3.explain.look.page import ModelFacts, PageOptions, Verbatim, page_data, page_texts
from inception_v3.explain.look.result import LookOptions
from inception_v3.explain.look.shown import PICTURE_SIDE, top_classes
from inception_v3.explain.views import View
from inception_v3.images.decode import MinimumSize
from inception_v3.reports.pages import data_uri, thumbnail
from inception_v3.serve.batching import ExpiredError
from inception_v3.serve.bodies import Bodies, in_thread, seconds, whole_number
from inception_v3.serve.deadlines import deadline_of, until
from inception_v3.serve.errors import RequestError
from inception_v3.serve.models import Models, ServedModel, hold
from inception_v3.serve.responses import compressed, to_bytes
from inception_v3.serve.uploads import Upload
from inception_v3.support.packages import require_packages
from inception_v3.support.pages import content_hash, render_page
from inception_v3.support.text import printable

Result = TypeVar("Result")
Use = Callable[[Request], AbstractContextManager[ServedModel]]

SHOW = ("view", "channels", "field", "cam")  # what a request to /live/look may ask for
FORMATS = ("json", "png")
METHOD = "grad-cam"
AUX = "AuxLogits"


@dataclass(frozen=True)
class Question:
    """What a request to /live/look asks about an image.

    Attributes:
        show: of SHOW.
        part: the end point, branch or layer of "channels" and "field".
        class_index: of "cam".
        top: the number of classes of the auxiliary head.
        prepared: whether the image is the network's input, as an earlier answer returned it.
        with_picture: whether "view" has the image itself, for browsers that cannot show its format.
    """

    show: tuple[str, ...]
    part: str
    class_index: int
    top: int
    prepared: bool
    with_picture: bool


class Live:
    """The routes of the live page and of /explain.

    One thread asks the networks, and takes turns with the engines of all models for each answer, so that neither
    predictions nor looks are held up. The images wait in the same bounded queue of their model.
    """

    def __init__(self, models: Models, bodies: Bodies, threads: ThreadPoolExecutor, use: Use) -> None:
        self._models, self._bodies, self._threads, self._use = models, bodies, threads, use
        self._looks = ThreadPoolExecutor(1, "look")

    def close(self) -> None:
        self._looks.shutdown(cancel_futures=True)

    # ------------------------------------------------------------------------------------------------- the page

    @cached_property
    def _page(self) -> tuple[bytes, str]:
        """The page, which holds nothing of the models, and its Content-Security-Policy."""
        folder = files("inception_v3") / "reports" / "look"
        script = "\n".join((folder / name).read_text("utf-8") for name in ("look.js", "live.js"))
        script_hash = content_hash(script)
        values = {"script": Verbatim(script), "script_hash": script_hash, "texts": page_texts("texts", "live")}
        page = render_page("reports/look/live.html", {"title": "inception-v3", "live": True} | values)
        policy = (
            f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src '{script_hash}'; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return page.encode(), policy

    async def page(self, request: Request) -> Response:
        page, policy = self._page
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy,
            "Permissions-Policy": "camera=(self), microphone=()",
        }
        return await in_thread(self._threads, partial(compressed, request.headers, page, headers))

    async def status(self, request: Request) -> Response:
        return JSONResponse({"models": self._models.activity()})

    async def model(self, request: Request) -> Response:
        """What the page draws of a model. Opens the model's inside, so that the first look need not wait for it."""
        with self._use(request) as model:
            self._looks.submit(_open_quietly, model)
            data = await in_thread(self._threads, partial(page_data, model.facts, [], PageOptions(), {}))
            del data["texts"]  # they are in the page
            return await self._json(request, data)

    async def _json(self, request: Request, value: dict[str, Any]) -> Response:
        """A JSON response, written and compressed in a thread."""

        def write() -> Response:
            return compressed(request.headers, to_bytes(value), {"Content-Type": "application/json"})

        return await in_thread(self._threads, write)

    # ------------------------------------------------------------------------------------------------- answers

    async def look(self, request: Request) -> Response:
        timeout = seconds(request, "timeout")
        with self._use(request) as model:
            question = _question(request, model.facts)
            upload = await self._image(request)
            deadline = deadline_of(self._bodies.limits, timeout)
            answer = await until(request, deadline, self._answer(model, question, upload))
            return await self._json(request, answer)

    async def explain(self, request: Request) -> Response:
        timeout, form = seconds(request, "timeout"), _choice(request, "format", FORMATS)
        if (method := request.query_params.get("method", METHOD)) != METHOD:
            remedy = "use `inception-v3 explain --method`"
            raise RequestError(f"method {printable(method[:40])}: the server computes {METHOD}; for others {remedy}")
        with self._use(request) as model:
            query = request.query_params
            options = AttributionOptions(class_name=query.get("class"), end_point=query.get("end_point"))
            upload = await self._image(request)
            deadline = deadline_of(self._bodies.limits, timeout)
            result = await until(request, deadline, self._explain(model, options, upload))
            if form == "png":
                body = await in_thread(self._threads, partial(_png, result))
                return Response(body, media_type="image/png")
            values = {"model": model.address.name, "version": model.address.version} | result.as_dict()
            del values["gap"]  # Grad-CAM has none
            return await self._json(request, values | {"values": result.values.tolist()})

    async def _image(self, request: Request) -> Upload:
        uploads = await self._bodies.images(request)
        if len(uploads) != 1:
            raise RequestError(f"{len(uploads)} images; send one")
        return uploads[0]

    async def _explain(self, model: ServedModel, options: AttributionOptions, upload: Upload) -> Attribution:
        with hold(model, 1):
            view, _ = await in_thread(self._threads, partial(_prepared, model, upload, False))

            def ask(inside: Inside) -> Attribution:
                known = inside.cam_end_points
                if options.end_point is not None and known and options.end_point not in known:
                    raise InputError(_no_end_point(model, options.end_point, known))
                return inside.explain(view, options)

            return await self._ask(model, ask)

    async def _ask(self, model: ServedModel, question: Callable[[Inside], Result]) -> Result:
        """The answer of a model's inside, in its turn. Not computed if the request ends before. Raises RequestError."""
        ended = threading.Event()

        def work() -> Result:
            inside = model.inside
            with model.turns:
                if ended.is_set():
                    raise ExpiredError
                return question(inside)

        try:
            return await in_thread(self._looks, work)
        except asyncio.CancelledError:
            ended.set()
            raise
        except NotFiniteError as error:
            raise RequestError(str(error), 500) from error
        except InputError as error:
            raise RequestError(str(error)) from error

    async def _answer(self, model: ServedModel, question: Question, upload: Upload) -> dict[str, Any]:
        with hold(model, 1):
            prepare = partial(_prepared, model, upload, question.prepared)
            view, pixels = await in_thread(self._threads, prepare)
            answer: dict[str, Any] = {"model": model.address.name, "version": model.address.version}
            if "view" in question.show:
                answer |= await in_thread(self._threads, partial(_view_values, view, pixels, question.with_picture))
            for kind in question.show:
                answer |= await self._ask(model, partial(_ANSWERS[kind], pixels, question, model.facts))
            return answer


def _open_quietly(model: ServedModel) -> None:
    """Open the inside of a model. The first look that needs it reports an error."""
    with suppress(Exception):
        _ = model.inside


# --------------------------------------------------------------------------------------------------- questions


def _question(request: Request, facts: ModelFacts) -> Question:
    """Raises RequestError: a wrong parameter."""
    query = request.query_params
    show = tuple(dict.fromkeys(filter(None, query.get("show", "view").split(","))))
    for name in show or ("(empty)",):
        if name not in SHOW:
            raise RequestError(f"show: {printable(name[:40])} is none of {', '.join(SHOW)}")
    parts = [part.name for part in outline(facts.settings)]
    part = query.get("part", parts[0])
    if part not in parts:
        raise RequestError(f"part: {facts.name} has no {printable(part[:200])}; GET /live/model lists its parts")
    index = 0
    if "cam" in show and facts.classes:
        try:
            index = find_class(query.get("class", "0"), facts.classes)
        except InputError as error:
            raise RequestError(str(error)) from error
    flags = [_choice(request, name, ("false", "true")) == "true" for name in ("prepared", "picture")]
    return Question(show, part, index, whole_number(request, "top", 5), *flags)


def _choice(request: Request, name: str, choices: tuple[str, ...]) -> str:
    """A query parameter with a few values; by default the first. Raises RequestError."""
    value = request.query_params.get(name, choices[0])
    if value not in choices:
        raise RequestError(f"{name} must be {' or '.join(choices)}, not {printable(value[:40]) or '(empty)'}")
    return value


def _no_end_point(model: ServedModel, end_point: str, known: tuple[str, ...]) -> str:
    fault = f"end_point {end_point[:200]}: {model.address.name} has Grad-CAM for {', '.join(known)}"
    remedy = "; an exported file has no gradients, so serve the weights that it was exported from for others"
    return fault + (remedy if len(known) == 1 else "")


class _Decoded:
    """An upload that keeps its decoded image."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self.image: Image.Image

    @property
    def name(self) -> str:
        return self._upload.name

    def open(self, minimum_size: MinimumSize | None = None) -> Image.Image:
        self.image = self._upload.open(minimum_size)
        return self.image


def _prepared(model: ServedModel, upload: Upload, prepared: bool) -> tuple[View, NDArray[np.uint8]]:
    """The view of an image, and the network's input, as `predict` prepares it. Raises RequestError: not readable."""
    height, width = model.preprocessing.image_size
    try:
        if prepared:
            image = upload.open()
            if image.size != (width, height):
                raise InputError(f"{upload.name}: prepared must have {width}x{height} pixels, not {image.size}")
            return View(upload.name, image, (0, 0, width, height)), np.array(image)
        decoded, pixels = _Decoded(upload), np.empty((height, width, 3), np.uint8)
        model.prepare(decoded, pixels)
    except InputError as error:
        raise RequestError(str(error)) from error
    return View.of(upload.name, decoded.image, model.preprocessing), pixels


# ----------------------------------------------------------------------------------------------------- answers


def _view_values(view: View, pixels: NDArray[np.uint8], with_picture: bool) -> dict[str, Any]:
    """`input` is lossless, so that it can be sent again as `prepared`."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "WEBP", lossless=True, method=1)
    values = {
        "name": view.name,
        "size": [view.image.height, view.image.width],
        "box": list(view.box),
        "input": data_uri("image/webp", encoded.getvalue()),
    }
    if with_picture:
        values["picture"] = thumbnail(view.image, PICTURE_SIDE, "WEBP", quality=82, method=2)
    return values


def _view(pixels: NDArray[np.uint8], question: Question, facts: ModelFacts, inside: Inside) -> dict[str, Any]:
    """What the model can, and the classes of its auxiliary head."""
    heads, settings = {}, facts.settings
    if settings.create_aux_logits and settings.final_endpoint is None:
        logits = inside.maps(pixels, AUX)[AUX].reshape(-1)
        if np.isfinite(logits).all():
            found = top_classes(logits.astype(np.float64), facts.classes, settings.output_activation, question.top)
            heads = {AUX: [asdict(each) for each in found]}
    able = {"missing": dict(inside.missing), "no_cam_reason": inside.no_cam_reason, "lost": [*inside.lost]}
    return able | {"heads": heads}


def _channels(pixels: NDArray[np.uint8], question: Question, facts: ModelFacts, inside: Inside) -> dict[str, Any]:
    maps, options = inside.maps(pixels, question.part), LookOptions()
    count = options.inner_channels if "/" in question.part else options.channels
    return {"parts": {name: asdict(strongest_channels(values, count)) for name, values in maps.items()}}


def _field(pixels: NDArray[np.uint8], question: Question, facts: ModelFacts, inside: Inside) -> dict[str, Any]:
    field = inside.field(pixels, question.part)
    return {"fields": {question.part: asdict(field)} if field else {}}


def _cam(pixels: NDArray[np.uint8], question: Question, facts: ModelFacts, inside: Inside) -> dict[str, Any]:
    cam = inside.cam(pixels, question.class_index)
    return {"cams": [asdict(cam)] if cam else []}


_ANSWERS: dict[str, Callable[[NDArray[np.uint8], Question, ModelFacts, Inside], dict[str, Any]]] = {
    "view": _view,
    "channels": _channels,
    "field": _field,
    "cam": _cam,
}


def _png(result: Attribution) -> bytes:
    """The map over the image. Raises RequestError: matplotlib is missing."""
    try:
        require_packages(("matplotlib",), "format=png", "explain")
    except InputError as error:
        raise RequestError(str(error)) from error
    encoded = io.BytesIO()
    result.plot().save(encoded, "PNG")
    return encoded.getvalue()
