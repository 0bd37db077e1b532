"""The models of a server: where they are, how they are opened, and how a changed file replaces the one in use."""

import math
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.errors import InputError
from inception_v3.explain.look.exported import facts_of
from inception_v3.explain.look.inside import Inside, open_exported_inside
from inception_v3.explain.look.page import ModelFacts
from inception_v3.inference.choose import EXPORTED, OpenedModel, open_engine, output_for
from inception_v3.inference.engines.base import FEATURES, LOGITS, VECTORS
from inception_v3.inference.exported.registry import exports_in, read_description, recognise
from inception_v3.inference.pipeline import image_preparer
from inception_v3.network.probabilities import class_logits, probabilities
from inception_v3.serve.batching import Batcher, Budget, BusyError, Computed, Turns
from inception_v3.serve.errors import RequestError
from inception_v3.serve.logs import log
from inception_v3.serve.metrics import Metrics, Statistics
from inception_v3.serve.protocol import INPUT, Tensor
from inception_v3.serve.uploads import Upload
from inception_v3.support.cpu import core_count
from inception_v3.support.system_errors import file_status, is_folder, list_folder
from inception_v3.weights import MODEL_FILE

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a model and a version, as they stand in URLs
PROBABILITIES, LOGITS_OUTPUT, FEATURES_OUTPUT = "probabilities", "logits", "features"
WATCH_SECONDS = 1.0
MAX_RETRY_SECONDS = 60  # of the header Retry-After


@dataclass(frozen=True)
class Address:
    """A model to serve."""

    name: str
    version: str
    path: str

    @property
    def key(self) -> tuple[str, str]:
        """The name and the version."""
        return self.name, self.version

    def __str__(self) -> str:
        return f"{self.name}, version {self.version} ({self.path})"


@dataclass(frozen=True)
class OpenOptions:
    """How models are opened; see `open_engine`. `batch_size`: images in a batch, None for what suits the engine."""

    engine: str = "auto"
    precision: str | None = None
    device: str | None = None
    min_agreement: float | None = None
    end_points: tuple[str, ...] = ()
    batch_size: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def open_inside(self, path: str, opened: OpenedModel) -> Inside:
        """Open the network of a model to look into it: with its engine's file, or in PyTorch on its engine's device.

        Raises InputError, as `open_exported_inside` and `load` do.
        """
        if recognise(opened.file):
            return open_exported_inside(opened.file)
        from inception_v3.explain.look.inside_pytorch import PyTorchInside
        from inception_v3.weights.load import load

        device = opened.engine.device if opened.engine.name == "pytorch" else "cpu"
        return PyTorchInside(load(path, **self.facts).eval().to(device))

    def open(self, path: str) -> OpenedModel:
        """Raises InputError, as `open_engine` does."""
        return open_engine(
            path,
            self.engine,
            self.precision,
            self.device,
            min_agreement=self.min_agreement,
            batch_size=self.batch_size,
            outputs=(*VECTORS, *self.end_points) if self.end_points else None,
            **self.facts,
        )


# ------------------------------------------------------------------------------------------------- addresses


def find_models(arguments: Iterable[str]) -> list[Address]:
    """The models that the arguments of `serve` name, each argument in one of these forms.

    PATH, anything that `predict` takes, with the name of the file or run folder; NAME=PATH; NAME:VERSION=PATH. A folder
    with folders or files of models stands for all of them. A folder of folders 1, 2, 3 ... has versions of one model,
    of which the highest is served, as in a model repository of Triton.

    Raises InputError: a name that cannot stand in a URL, or that occurs twice.
    """
    models: list[Address] = []
    for argument in arguments:
        name, version, path = _split(argument)
        models += [_versioned(name or _name_of(each), version, each) for each in _expand(path, bool(name))]
    for index, model in enumerate(models):
        if model.key in [other.key for other in models[:index]]:
            fault = f"{model.path}: a second model called {model.name}, version {model.version}"
            raise InputError(f"{fault}; give NAME=PATH or NAME:VERSION=PATH", exit_status=2)
    return models


def _split(argument: str) -> tuple[str, str, str]:
    """The name, version and path of an argument; "" for those that it does not give."""
    given, equals, path = argument.partition("=")
    if not equals or file_status(argument) is not None:
        return "", "", argument
    name, _, version = given.partition(":")
    for text in (name, version or "1"):
        if not NAME.fullmatch(text):
            fault = f"{text or '(empty)'}: a name and a version have up to 100 letters, digits and . _ -"
            raise InputError(f"{fault}; give NAME=PATH or NAME:VERSION=PATH", exit_status=2)
    return name, version, path


def _name_of(path: str) -> str:
    """A name for a model: that of its file without the suffix, or of its folder, in characters of a URL."""
    stem = Path(path).resolve().stem if file_status(path) is not None else path
    return (re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "model")[:100]


def _versioned(name: str, version: str, path: str) -> Address:
    """The model at a path; the highest version if it is a folder of them."""
    versions = _versions(path)
    if version or not versions or _is_model(Path(path)):
        return Address(name, version or "1", path)
    newest = max(versions, key=lambda folder: int(folder.name))
    return Address(name, newest.name, str(newest))


def _expand(path: str, is_named: bool) -> list[str]:
    """The models in a folder of models, or the path itself."""
    folder = Path(path)
    if is_named or not is_folder(folder) or _is_versions(folder) or not _is_folder_of_models(folder):
        return [path]
    return [str(each) for each in _listed(folder) if _is_model(each) or _is_versions(each)]


def _is_folder_of_models(folder: Path) -> bool:
    """Whether a folder has models in folders of their own, or exported files of different networks."""
    with suppress(InputError):
        if recognise(folder) or file_status(folder / MODEL_FILE) is not None:
            return False
    if any(is_folder(each) and (_is_model(each) or _is_versions(each)) for each in _listed(folder)):
        return True
    files, weights = [each for each in _listed(folder) if _is_model(each)], set()
    for file in exports_in(folder):
        with suppress(InputError):
            weights.add(read_description(file).weights)
    return len(weights) > 1 or bool(files and not weights)


def _listed(path: str | Path) -> list[Path]:
    """The files and folders in a folder, without hidden ones; none if it is no folder. Raises InputError."""
    return [each for each in list_folder(Path(path)) if not each.name.startswith(".")] if is_folder(path) else []


def _versions(path: str | Path) -> list[Path]:
    """What is named 1, 2, 3 ... in a folder."""
    return [each for each in _listed(path) if each.name.isascii() and each.name.isdecimal()]


def _is_model(path: Path) -> bool:
    """Whether a path is an exported network, a folder with exports of one, a run folder, or a file of weights."""
    with suppress(InputError):
        if recognise(path) or file_status(path / MODEL_FILE) is not None:
            return True
    if is_folder(path):
        return bool(exports_in(path))
    return path.suffix in (".safetensors", ".pth", ".pt", ".h5", ".keras", ".ckpt")


def _is_versions(path: Path) -> bool:
    return any(map(_is_model, _versions(path)))


def fingerprint(path: str) -> tuple[Any, ...]:
    """What changes when a model's files do: their names, sizes and times. () if there is nothing."""
    files = [Path(path), *_listed(path), *_listed(Path(path) / EXPORTED)]
    if path.endswith(".xml"):
        files.append(Path(path).with_suffix(".bin"))  # the weights of OpenVINO's format
    found = [(str(file), file_status(file)) for file in files]
    return tuple((name, status.st_size, status.st_mtime_ns, status.st_ino) for name, status in found if status)


# ------------------------------------------------------------------------------------------- a model in use


class ServedModel:
    """An open model with its queue.

    Attributes:
        opened: the engine and the description.
        queue: bounds the images of all requests that are prepared, wait or are computed.
        outputs: by name, first those of a request that names none. `sources` has the engine's output for each.
        turns: shared by all that computes on the same cores.
        prepare: decodes an upload and writes its pixels to an array, as `predict` does.
        decoders: threads that prepare the images of a batch, one for each core.
    """

    def __init__(
        self,
        address: Address,
        opened: OpenedModel,
        statistics: Statistics,
        metrics: Metrics,
        turns: Turns,
        decoders: Executor,
        batch_size: int | None,
        queue: int,
        open_inside: Callable[[], Inside],
    ) -> None:
        self.address, self.opened, self.statistics = address, opened, statistics
        self.turns, self._decoders, self._open_inside = turns, decoders, open_inside
        self.description, self.engine = opened.description, opened.engine
        self.batch_size, self.queue = batch_size or opened.engine.batch_size, Budget(queue)
        self.preprocessing = self.description.preprocessing
        # An exported file is run with Pillow's pixels, as by `predict`, also if PyTorch is loaded for another model.
        self.prepare = image_preparer(self.preprocessing, resize="pillow" if recognise(opened.file) else "torchvision")
        self._labels = address.key
        self._metrics = metrics
        shapes = {name: values.shape[1:] for name, values in self._warm_up().items()}
        self.outputs, self.sources = self._find_outputs(shapes)
        self.users = 0  # requests that hold this model; guarded by Models
        self.batcher = Batcher(self._compute, self.batch_size, turns, self._note_batch)

    def _warm_up(self) -> dict[str, NDArray[np.float32]]:
        """The outputs for a black image, which is decoded too, so that the first request does not wait for imports."""
        height, width = self.preprocessing.image_size
        file, pixels = BytesIO(), np.empty((1, height, width, 3), np.uint8)
        Image.new("RGB", (width, height)).save(file, "JPEG")
        self.prepare(Upload("black", file.getvalue(), height * width), pixels[0])
        return self.engine.run(pixels)

    def submit(
        self, images: "Sequence[Upload] | NDArray[np.uint8]", names: Collection[str], deadline: float
    ) -> "Future[Computed]":
        """Queue image files, or pixels (N, H, W, 3), as `Batcher.submit` does."""
        size = images.shape[1:] if isinstance(images, np.ndarray) else (*self.preprocessing.image_size, 3)
        return self.batcher.submit([*images], size, names, deadline)

    def _compute(self, images: "list[Upload | NDArray[np.uint8]]") -> Computed:
        """Decode the images of a batch on all cores, and run the engine on those that could be read."""
        started = time.monotonic()
        prepared = [self._pixels(images[0])] if len(images) == 1 else [*self._decoders.map(self._pixels, images)]
        faults = {index: each for index, each in enumerate(prepared) if isinstance(each, str)}
        pixels = [each for each in prepared if not isinstance(each, str)]
        ready = time.monotonic()
        outputs = self.engine.run(np.stack(pixels)) if pixels else {}
        return Computed(outputs, faults, ready - started, time.monotonic() - ready)

    def _pixels(self, image: "Upload | NDArray[np.uint8]") -> "NDArray[np.uint8] | str":
        """The pixels (H, W, 3) of an image, or why it cannot be read."""
        if isinstance(image, np.ndarray):
            return image
        pixels = np.empty((*self.preprocessing.image_size, 3), np.uint8)
        try:
            self.prepare(image, pixels)
        except InputError as error:
            return str(error)
        return pixels

    @cached_property
    def inside(self) -> Inside:
        """The network, opened on first use, to look into it. Only one thread may ask for it. Raises InputError."""
        return self._open_inside()

    @cached_property
    def facts(self) -> ModelFacts:
        """What the live page shows of the network."""
        return facts_of(self.address.name, self.description, self.opened.file)

    @property
    def has_classes(self) -> bool:
        return PROBABILITIES in self.outputs

    @property
    def input(self) -> Tensor:
        height, width = (-1, -1) if self.description.any_size else self.preprocessing.image_size
        return Tensor(INPUT, "UINT8", (-1, height, width, 3))

    def _find_outputs(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], dict[str, str]]:
        description = self.description
        labels = description.class_names or ()
        sources: dict[str, str] = {}
        if LOGITS in shapes:
            if description.settings.output_activation != "none":
                sources[PROBABILITIES] = LOGITS
            sources[LOGITS_OUTPUT] = LOGITS
        if FEATURES in shapes:
            sources[FEATURES_OUTPUT] = FEATURES
        sources |= {name: name for name in shapes if name not in VECTORS}

        def tensor(name: str, source: str) -> Tensor:
            shape = shapes[source]
            if name == PROBABILITIES:
                shape = (description.settings.class_count,)
            if description.any_size and len(shape) == 3:
                shape = (shape[0], -1, -1)
            return Tensor(name, "FP32", (-1, *shape), labels if source == LOGITS else ())

        outputs = {name: tensor(name, source) for name, source in sources.items()}
        aliases = {name: output_for(name, shapes) for name in (*VECTORS, "PreLogits")}
        for alias, source in aliases.items():
            if source in shapes and alias not in outputs:
                sources[alias] = source
                outputs[alias] = tensor({LOGITS: LOGITS_OUTPUT}.get(alias, FEATURES_OUTPUT), source)
        return outputs, sources

    def values(self, name: str, arrays: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """The values of one of `outputs`, computed from the arrays of the engine."""
        values = arrays[self.sources[name]]
        if name == PROBABILITIES:
            activation = self.description.settings.output_activation
            return probabilities(values.astype(np.float64), activation).astype(np.float32)
        return values

    def scores(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The values that classification ranks: one for each class."""
        return class_logits(values, self.description.settings.output_activation) if name != PROBABILITIES else values

    def _note_batch(self, images: int, computed: Computed, waits: Sequence[float]) -> None:
        self.statistics.add_batch(images, computed.prepare_seconds, computed.engine_seconds, waits)
        self._metrics.images.labels(*self._labels).inc(images)
        self._metrics.batch_size.labels(*self._labels).observe(images)
        self._metrics.prepare_seconds.labels(*self._labels).observe(computed.prepare_seconds)
        self._metrics.engine_seconds.labels(*self._labels).observe(computed.engine_seconds)
        for wait in waits:
            self._metrics.queue_seconds.labels(*self._labels).observe(wait)


@contextmanager
def hold(model: ServedModel, images: int) -> Iterator[None]:
    """Hold places in the queue of a model. Raises RequestError: it is full."""
    try:
        with model.queue.hold(images):
            yield
    except BusyError as busy:
        wait = math.ceil(busy.amount * model.statistics.seconds_per_image)
        fault = f"the queue of {model.address.name} is full ({busy.amount} images); try again later"
        raise RequestError(fault, 503, retry_after=min(max(wait, 1), MAX_RETRY_SECONDS)) from busy


class Models:
    """The models of a server by name and version. A model that replaces another is opened beside it first."""

    def __init__(self, arguments: Sequence[str], options: OpenOptions, queue: int) -> None:
        self._arguments, self._options, self._queue = [*arguments], options, queue
        self._addresses = find_models(arguments)
        self._turns, self._decoders = Turns(), ThreadPoolExecutor(core_count(), "decode")
        self._changed = threading.Condition()  # guards `users` of each model, and that `_models` is replaced
        self._models: Mapping[tuple[str, str], ServedModel] = {}  # never changed, so that it is read without a lock
        self._reasons: dict[tuple[str, str], str] = {}  # why a file is not in use
        self._statistics: dict[tuple[str, str], Statistics] = {}
        self._fingerprints: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._stopping = threading.Event()
        self.metrics = Metrics(lambda: [(key, model.batcher.waiting) for key, model in self._models.items()])

    @property
    def is_ready(self) -> bool:
        return {address.name for address in self._addresses} <= {name for name, _ in self._models}

    def load(self) -> None:
        """Open all models and run each once. Raises InputError: one of them cannot be opened."""
        for address in self._addresses:
            self._install(address, self._open(address))

    def _open(self, address: Address) -> ServedModel:
        """Open a model and run it once. `watch` then ignores its files until they change, also if this fails."""
        started, seen = time.monotonic(), fingerprint(address.path)
        self._fingerprints[address.key] = seen
        opened = self._options.open(address.path)

        def open_inside() -> Inside:
            if fingerprint(address.path) != seen:
                remedy = "start the server again, or use --watch"
                raise InputError(f"{address.name}: its file has changed since it was opened; {remedy}")
            return self._options.open_inside(address.path, opened)

        statistics = self._statistics.setdefault(address.key, Statistics())
        model = ServedModel(
            address, opened, statistics, self.metrics, self._turns, self._decoders, self._options.batch_size,
            self._queue, open_inside,
        )  # fmt: skip
        seconds = round(time.monotonic() - started, 3)
        log("model ready", model=address.name, version=address.version, path=address.path,
            engine=str(opened.engine), reason=opened.reason, seconds=seconds)  # fmt: skip
        return model

    def _install(self, address: Address, model: ServedModel) -> None:
        """Use a model for new requests. The one that it replaces is closed when no request holds it."""
        with self._changed:
            replaced = self._models.get(address.key)
            models = {**self._models, address.key: model}
            names = [*dict.fromkeys(name for name, _ in models)]  # a new version stands beside the earlier ones
            self._models = {key: models[key] for key in sorted(models, key=lambda key: names.index(key[0]))}
        self._reasons.pop(address.key, None)
        if replaced is not None:
            self._close(replaced)

    def _close(self, model: ServedModel) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not model.users)
        model.batcher.close()

    @contextmanager
    def use(self, name: str, version: str | None = None) -> Iterator[ServedModel]:
        """Hold a model while a request needs it. By default it is the highest version.

        Raises KeyError: there is no such model.
        """
        with self._changed:
            model = self._find(name, version)
            model.users += 1
        try:
            yield model
        finally:
            with self._changed:
                model.users -= 1
                self._changed.notify_all()

    def _find(self, name: str, version: str | None) -> ServedModel:
        if version is None:
            version = (self.versions(name) or [""])[-1]
        return self._models[name, version]

    def names(self) -> list[tuple[str, str]]:
        """The (name, version) of every model in use."""
        return [*self._models]

    def versions(self, name: str) -> list[str]:
        """The versions in use of a model, the highest last."""
        return sorted((version for known, version in self._models if known == name), key=_version_order)

    def outputs(self, name: str, version: str) -> list[str]:
        """The outputs of a model in use, with their other names."""
        return [*self._models[name, version].outputs]

    def statistics(self, name: str | None = None, version: str | None = None) -> list[dict[str, Any]]:
        """The statistics of the models of this name and version."""
        keys = [key for key in self._models if name in (None, key[0]) and version in (None, key[1])]
        return [self._statistics[key].as_dict(*key) for key in keys]

    def activity(self) -> list[dict[str, Any]]:
        """What each model in use is, and its figures since the server started."""
        return [
            {"name": name, "version": version, "engine": str(model.engine), "has_classes": model.has_classes,
             "queue": model.batcher.waiting, "in_flight": model.queue.held} | model.statistics.totals()
            for (name, version), model in self._models.items()
        ]  # fmt: skip

    def index(self) -> list[dict[str, str]]:
        """The state of each model, as Triton's repository index reports it."""
        keys = dict.fromkeys([*(each.key for each in self._addresses), *self._models, *self._reasons])
        states = {True: "READY", False: "UNAVAILABLE"}
        return [
            {"name": name, "version": version, "state": states[(name, version) in self._models],
             "reason": self._reasons.get((name, version), "")}
            for name, version in keys
        ]  # fmt: skip

    # ------------------------------------------------------------------------------------------- changed files

    def watch(self, seconds: float = WATCH_SECONDS) -> None:
        """Look for changed models until `close`. A change counts once the files stay the same for `seconds`."""
        before: dict[tuple[str, str], tuple[Any, ...]] = {}
        while not self._stopping.wait(seconds):
            try:
                addresses = find_models(self._arguments)
                now = {each.key: fingerprint(each.path) for each in addresses}
            except (InputError, OSError):
                continue  # a folder is being replaced
            for address in addresses:
                key = address.key
                if now[key] and now[key] == before.get(key) and now[key] != self._fingerprints.get(key):
                    self._replace(address, {*now})
            before = now

    def _replace(self, address: Address, named: set[tuple[str, str]]) -> None:
        """Use a changed or new model; if it cannot be opened, keep the earlier one, and log the reason.

        A new version in a folder of versions replaces the earlier one, which the arguments no longer name. `named` has
        the (name, version) of all models that they name now.
        """
        try:
            model = self._open(address)
        except Exception as error:  # the server lives, whatever is wrong with the file
            self._reasons[address.key] = f"{error}; the earlier model stays in use"
            log("model refused", "error", model=address.name, version=address.version, reason=str(error))
            return
        self._install(address, model)
        if address.key in [each.key for each in self._addresses]:
            return
        earlier = [each for each in self._addresses if each.name == address.name and each.key not in named]
        self._addresses = [each for each in self._addresses if each not in earlier] + [address]
        for each in earlier:
            with self._changed:
                retired = self._models[each.key]
                self._models = {key: model for key, model in self._models.items() if model is not retired}
            self._close(retired)

    def close(self) -> None:
        """Refuse what is queued, and end all threads."""
        self._stopping.set()
        for model in self._models.values():
            model.batcher.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)


def _version_order(version: str) -> tuple[int, str]:
    return (int(version) if version.isdecimal() else -1, version)
