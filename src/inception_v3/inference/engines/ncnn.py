"""ncnn for the stem, whose 3x3 convolutions it does by Winograd's algorithm, and ONNX Runtime for the rest.

The algorithm needs a fraction of the products (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
2015), which pays where maps are large: the stem is a quarter of the network's arithmetic. docs/performance.md has what
it gains.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import PIXELS, Answers, Engine, Pixels
from inception_v3.inference.engines.graph import Convolution, Graph, Operation, Pool, split
from inception_v3.inference.engines.onnx_graph import to_onnx
from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine
from inception_v3.support.cpu import core_count

_MAGIC = "7767517"  # of ncnn's text format
_MAXIMUM = 0
_VALID = 1  # ncnn's pad_mode that leaves an incomplete window out


class NcnnEngine(Engine):
    """In float32, on the processor. `callers`: see Engine."""

    name: ClassVar[str] = "ncnn"

    def __init__(self, graph: Graph, *, callers: int = 1) -> None:
        self.precision, self.device = "fp32", "cpu"
        stem, rest = split(graph)
        if not stem.operations:
            raise InputError("ncnn runs the stem alone, which this network has not; take --engine onnxruntime")
        self._stem = _Stem(stem, max(1, core_count() // callers))
        self._rest = OnnxRuntimeEngine(to_onnx(rest).SerializeToString(), "fp32", callers=callers, spinning=False)
        self.image_size, self.widths = graph.image_size, self._rest.widths

    def run(self, pixels: Pixels) -> Answers:
        return self._rest.run(self._stem(pixels))  # type: ignore[arg-type]  # it reads floats


class _Stem:
    """Images to the last map of a chain of layers, (N, C, h, w)."""

    def __init__(self, graph: Graph, threads: int) -> None:
        ncnn = load_ncnn()
        self._share = ThreadPoolExecutor(threads, "stem").map if threads > 1 else map
        self._mat, self._from_pixels = ncnn.Mat, graph.input == PIXELS
        self._input, self._output = graph.input, graph.outputs[0]
        self._memory = ncnn.PoolAllocator(), ncnn.PoolAllocator()  # here since the net does not keep them alive
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = 1  # of its own: a thread for each image waits for no other at every layer
        options.blob_allocator, options.workspace_allocator = self._memory
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        with tempfile.TemporaryDirectory() as folder:  # from memory it reads text alone
            numbers = Path(folder) / "numbers.bin"
            numbers.write_bytes(b"".join(_numbers(operation) for operation in graph.operations))
            if self._net.load_param_mem(_text(graph)) or self._net.load_model(str(numbers)):
                raise InputError("ncnn cannot load this network; take --engine onnxruntime")

    def __call__(self, images: Pixels) -> NDArray[np.float32]:
        return np.stack(list(self._share(self._map, images)))

    def _map(self, image: NDArray[Any]) -> NDArray[np.float32]:
        image = np.ascontiguousarray(image)
        if self._from_pixels:
            height, width, _ = image.shape
            given = self._mat.from_pixels(image, self._mat.PixelType.PIXEL_RGB, width, height)
        else:
            given = self._mat(image)
        extractor = self._net.create_extractor()
        extractor.input(self._input, given)
        status, found = extractor.extract(self._output)
        if status:
            raise RuntimeError(f"ncnn gives up with status {status}")
        return np.asarray(found)


def _text(graph: Graph) -> str:
    """In ncnn's format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure."""
    lines = [f"Input {graph.input} 0 1 {graph.input}", *map(_line, graph.operations)]
    return "\n".join((_MAGIC, f"{len(lines)} {len(lines)}", *lines, ""))


def _line(operation: Operation) -> str:
    """Its kind, name, numbers of inputs and outputs, their names, and its settings by their numbers."""
    match operation:
        case Convolution(kernel=kernel, border=(down, across)):
            kind, height, width = "Convolution", *kernel.shape[2:]
            settings = {0: len(kernel), 4: across, 5: int(operation.bias is not None), 6: kernel.size}
            settings |= {9: int(operation.relu), 14: down}
        case Pool(kernel=(height, width), kind="max", border=(0, 0)):
            kind, settings = "Pooling", {0: _MAXIMUM, 5: _VALID}
        case _:
            raise TypeError(f"{operation} is none of the stem's")
    stride_across = 3 if kind == "Convolution" else 2
    settings |= {1: width, 11: height, stride_across: operation.stride}
    told = " ".join(f"{number}={value}" for number, value in settings.items())
    return f"{kind} {operation.output} 1 1 {operation.input} {operation.output} {told}"


def _numbers(operation: Operation) -> bytes:
    """What ncnn reads of it: the kernel after a zero that says float32, then the bias."""
    if not isinstance(operation, Convolution):
        return b""
    parts = [np.zeros(1, np.int32), operation.kernel.astype(np.float32)]
    if operation.bias is not None:
        parts.append(operation.bias.astype(np.float32))
    return b"".join(part.tobytes() for part in parts)


def load_ncnn() -> Any:
    """The package. Raises InputError, naming the extra, where it is missing."""
    try:
        import ncnn
    except ImportError as error:
        raise InputError("the engine ncnn is not installed; pip install 'inception-v3[ncnn]'", exit_status=2) from error
    return ncnn
