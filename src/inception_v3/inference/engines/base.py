"""The interface of an engine, and the names and types that all engines share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.network.architecture import HEAD_END_POINTS
from inception_v3.support.cpu import core_count
from inception_v3.support.forks import check_not_forked, note_engine
from inception_v3.support.packages import require_packages

if TYPE_CHECKING:
    from inception_v3.inference.engines.graph import Graph

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Pixels = NDArray[np.uint8]
Inputs = NDArray[Any]  # uint8 pixels (N, H, W, 3), or float32 images or maps (N, C, H, W): what the network takes
Outputs = dict[str, NDArray[np.float32]]  # by the name of the end point
Run = Callable[[Pixels], Outputs]
DevicePrecisions = Mapping[str, tuple[Precision, ...]]  # by kind of device: "cpu", "cuda", "gpu" ...
Speeds = Mapping[Precision, tuple[float, float]]  # images per second: one image at a time, batches of 16

LOGITS, FEATURES = VECTORS = "Logits", "AvgPool_1a"  # TF-Slim's names of the end points that every head has
PIXELS_INPUT = "pixels"  # input of an exported network: uint8 (N, H, W, 3), 0 to 255
IMAGES_INPUT = "images"  # input of a network built without scaling: float (N, 3, H, W)
PEAK, PLACE = "/peak", "/place"  # added to the name of a map: outputs that `add_peaks` of graph.py describes
MAX_CALLERS = 4  # each thread that runs an engine takes memory for its batch


def parse_precision(name: str) -> Precision:
    """The precision of this name. Raises InputError if it is unknown."""
    if name not in get_args(Precision):
        raise InputError(f"unknown precision {name!r}; choose from {', '.join(get_args(Precision))}", exit_status=2)
    return cast(Precision, name)


def is_vector(name: str) -> bool:
    """Whether an output is a vector (N, C) and not a map: an end point of a head, a hidden layer, or peaks of a map."""
    return name in HEAD_END_POINTS or name.startswith("Hidden_") or name.endswith((PEAK, PLACE))


@contextmanager
def missing_map(file: Path) -> Iterator[None]:
    """Turn the KeyError about a map that an exported file lacks into an InputError."""
    try:
        yield
    except KeyError as error:
        remedy = "give the model itself, or export it again without --end-points"
        raise InputError(f"{file}: has no map {error.args[0]}; {remedy}", exit_status=2) from error


class Engine(ABC):
    """Runs one network on one device in one precision.

    Not thread-safe, unless it was built with `callers=n`. Then n threads may call it at once, each with 1/n of the CPU
    cores. PyTorch has a number of cores for each thread: the thread itself calls `torch.set_num_threads(engine.cores)`.

    Attributes:
        name: the value of `--engine`.
        packages: import names of the packages that it needs to run an exported file.
        graph_packages: further packages that it needs to run a network in memory.
        extra: the extra of inception-v3 that installs these packages.
        precisions: the precisions that are worth using, by kind of device.
        formats: exported formats that it runs. Its own format comes first.
        speed: images per second, measured on a CPU with two cores (docs/performance.md). An engine without a figure
            for a precision is used only on request.
        finds_peaks: whether it runs graphs with the operations of `add_peaks`.
        prefers_threads: whether a CPU computes most images per second if several threads each prepare and run batches
            of their own, instead of one thread that runs all batches on all cores.
        precision, device: of this engine.
        callers: the number of threads that may run it at once.
        image_size: (height, width) of its input, or None for any size.
        widths: channels of each end point that it returns.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    graph_packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    precisions: ClassVar[DevicePrecisions] = {"cpu": ("fp32",)}
    formats: ClassVar[tuple[str, ...]] = ()
    speed: ClassVar[Speeds] = {}
    finds_peaks: ClassVar[bool] = False
    prefers_threads: ClassVar[bool] = True

    precision: Precision
    device: str
    callers: int
    image_size: tuple[int, int] | None
    widths: dict[str, int]

    def __init__(self, network: "Path | Graph", precision: Precision, device: str, *, callers: int = 1) -> None:
        """`network` is an exported file of one of `formats`, or a graph. `device` is a result of `resolve_device`."""
        note_engine(self)
        self.precision, self.device, self.callers = precision, device, callers

    @classmethod
    def resolve_device(cls, device: str | None) -> str:
        """The engine's name for a device, or its default device.

        Raises:
            InputError: the engine cannot use it.
        """
        return device or "cpu"

    @classmethod
    def supports(cls, precision: Precision) -> bool:
        """Whether the engine runs in this precision on some device."""
        return any(precision in precisions for precisions in cls.precisions.values())

    @classmethod
    def expected_speed(cls, precision: Precision, batch_size: int | None) -> float:
        """Images per second in batches, or for one image at a time if `batch_size` is 1; 0 if not measured."""
        single, batches = cls.speed.get(precision, (0, 0))
        return single if batch_size == 1 else batches

    @classmethod
    def needed_packages(cls, *, in_memory: bool) -> tuple[str, ...]:
        """The packages that the engine needs to run an exported file, or a network in memory."""
        return cls.packages + (cls.graph_packages if in_memory else ())

    @classmethod
    def check_installed(cls, *, in_memory: bool) -> None:
        """Check that these packages are installed.

        Raises:
            InputError: one is missing; the message names the extra to install.
        """
        require_packages(cls.needed_packages(in_memory=in_memory), f"the engine {cls.name}", cls.extra)

    @classmethod
    def open(
        cls, network: "Path | Graph", precision: Precision, device: str | None, callers: int | None = 1
    ) -> "Engine":
        """Open the engine on a device such as cpu or cuda:1; None for the default device.

        With `callers=None` it is built for `best_callers`.

        Raises:
            InputError: the engine cannot use the device, or not in this precision.
        """
        resolved = cls.resolve_device(device)
        return cls(network, precision, resolved, callers=callers or cls.best_callers(resolved))

    @classmethod
    def with_outputs(cls, file: Path, names: Collection[str] = (), peaks: Sequence[str] = ()) -> tuple[Any, list[str]]:
        """An exported file as a network in memory with further outputs, and those of the `names` that were added.

        A name is added if the network computes such a value and does not return it yet. The other further outputs are
        the `peaks` of maps (`add_peaks` of graph.py).

        Raises:
            InputError: it lacks one of the maps, or this engine cannot change such files.
        """
        raise InputError(f"{file}: {cls.name} cannot add outputs to it; use another --engine", exit_status=2)

    @classmethod
    def best_callers(cls, device: str) -> int:
        """The `callers` that suit the engine for many images on a device, a result of `resolve_device`; 1 on a GPU."""
        return min(core_count(), MAX_CALLERS) if cls.prefers_threads and device.lower() == "cpu" else 1

    @property
    def cores(self) -> int:
        """The number of CPU cores for each of the callers."""
        return max(1, core_count() // self.callers)

    @classmethod
    def version(cls) -> str:
        """The engine's name and the versions of its packages, which determine its rounding errors."""
        return " ".join([cls.name, *(import_module(name).__version__ for name in cls.packages)])

    @property
    def batch_size(self) -> int:
        """The smallest batch size that is close to full speed. Larger batches mainly need more memory."""
        return 16 if self.device.lower() == "cpu" else 128

    @abstractmethod
    def run(self, inputs: Inputs) -> Outputs:
        """Compute the end points of a batch in the form that the network takes.

        A network from pixels takes uint8 (N, H, W, 3), 0 to 255. A graph that was built with `from_pixels=False` takes
        float32 (N, 3, H, W), scaled as the model's preprocessing does. `inputs` need not be contiguous.

        Maps are (N, C, h, w), Logits (N, num_classes) and AvgPool_1a (N, 2048). The arrays belong to the caller.
        """

    def predict(self, pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Compute logits (N, num_classes) and features (N, 2048) from uint8 pixels (N, H, W, 3), 0 to 255.

        Raises:
            InputError: the network lacks either.
        """
        check_not_forked()
        outputs = self.run(pixels)
        if LOGITS not in outputs or FEATURES not in outputs:
            raise InputError(f"this network returns only {', '.join(outputs)}; export it without --end-points")
        return outputs[LOGITS], outputs[FEATURES]

    def __str__(self) -> str:
        return f"{self.name} {self.precision} on {self.device}"
