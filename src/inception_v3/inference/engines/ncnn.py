"""ncnn for the stem, whose 3x3 convolutions it computes by Winograd's algorithm, and ONNX Runtime for the rest.

The algorithm needs fewer multiplications (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
It is faster where the maps are large, as in the stem, which is a quarter of the network's arithmetic.
docs/performance.md shows the gain.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import PIXELS_INPUT, Engine, Inputs, Outputs, Precision, Speeds
from inception_v3.inference.engines.graph import Convolution, Graph, Operation, Pooling, split_stem
from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine
from inception_v3.support.system_errors import temporary_folder


class NcnnEngine(Engine):
    """ncnn and ONNX Runtime in float32 on the CPU. For `callers`, see Engine."""

    name = "ncnn"
    packages = ("ncnn",)
    graph_packages = ("onnxruntime", "onnx")
    extra = "ncnn"
    speed: ClassVar[Speeds] = {"fp32": (17.5, 20.4)}

    finds_peaks = True

    def __init__(self, network: Graph, precision: Precision = "fp32", device: str = "cpu", *, callers: int = 1) -> None:
        super().__init__(network, precision, device, callers=callers)
        stem, rest = split_stem(network)
        if not stem.operations:
            raise InputError("ncnn runs only the stem, and this network has none; use --engine onnxruntime")
        self._stem = _Stem(stem, self.cores)
        self._rest = OnnxRuntimeEngine(rest, precision, callers=callers, spinning=False)
        self.image_size, self.widths = network.image_size, self._rest.widths

    @classmethod
    def resolve_device(cls, device: str | None) -> str:
        if device not in (None, "cpu"):
            raise InputError(f"ncnn runs on the CPU here, not on {device}; leave out --engine", exit_status=2)
        return "cpu"

    def run(self, inputs: Inputs) -> Outputs:
        return self._rest.run(self._stem(inputs))


class _Stem:
    """A chain of layers in ncnn. Called with images, it returns the last map (N, C, h, w)."""

    def __init__(self, graph: Graph, threads: int) -> None:
        import ncnn

        self._map_images = ThreadPoolExecutor(threads, "stem").map if threads > 1 else map
        self._mat, self._from_pixels = ncnn.Mat, graph.input == PIXELS_INPUT
        self._input, self._output = graph.input, graph.outputs[0]
        self._allocators = ncnn.PoolAllocator(), ncnn.PoolAllocator()  # referenced here: the net does not own them
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = 1  # one thread per image does not synchronise at every layer
        options.blob_allocator, options.workspace_allocator = self._allocators
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        with temporary_folder() as folder:  # ncnn loads weights only from a file
            weights = folder / "weights.bin"
            weights.write_bytes(b"".join(_weight_bytes(operation) for operation in graph.operations))
            if self._net.load_param_mem(_param_text(graph)) or self._net.load_model(str(weights)):
                raise InputError("ncnn cannot load this network; use --engine onnxruntime")

    def __call__(self, images: Inputs) -> NDArray[np.float32]:
        return np.stack(list(self._map_images(self._run_image, images)))

    def _run_image(self, image: NDArray[Any]) -> NDArray[np.float32]:
        image = np.ascontiguousarray(image)
        if self._from_pixels:
            height, width, _ = image.shape
            network_input = self._mat.from_pixels(image, self._mat.PixelType.PIXEL_RGB, width, height)
        else:
            network_input = self._mat(image)
        extractor = self._net.create_extractor()
        extractor.input(self._input, network_input)
        status, output = extractor.extract(self._output)
        if status:
            raise RuntimeError(f"ncnn failed with status {status}")
        return np.asarray(output)


def _param_text(graph: Graph) -> str:
    """The layers in ncnn's text format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure."""
    lines = [f"Input {graph.input} 0 1 {graph.input}", *map(_param_line, graph.operations)]
    magic = "7767517"  # the first line of the format
    return "\n".join((magic, f"{len(lines)} {len(lines)}", *lines, ""))


def _param_line(operation: Operation) -> str:
    """The layer's type, name, number of inputs and outputs, their names, and its parameters by ncnn's numbers."""
    match operation:
        case Convolution(kernel=kernel, padding=(vertical, horizontal)):
            kind, height, width = "Convolution", *kernel.shape[2:]
            parameters = {0: len(kernel), 4: horizontal, 5: int(operation.bias is not None), 6: kernel.size}
            parameters |= {9: int(operation.relu), 14: vertical}
        case Pooling(kernel=(height, width), kind="max", padding=(0, 0)):
            # pooling_type 0 is the maximum; pad_mode 1 drops incomplete windows
            kind, parameters = "Pooling", {0: 0, 5: 1}
        case _:
            raise TypeError(f"{operation} is not an operation of a stem")
    stride_number = 3 if kind == "Convolution" else 2
    parameters |= {1: width, 11: height, stride_number: operation.stride}
    text = " ".join(f"{number}={value}" for number, value in parameters.items())
    return f"{kind} {operation.output} 1 1 {operation.input} {operation.output} {text}"


def _weight_bytes(operation: Operation) -> bytes:
    """The weights in ncnn's binary format: a zero for float32, the kernel, and the bias."""
    if not isinstance(operation, Convolution):
        return b""
    arrays = (np.zeros(1), operation.kernel, operation.bias)
    return b"".join(array.astype(np.float32).tobytes() for array in arrays if array is not None)
