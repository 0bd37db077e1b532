"""The arithmetic limit of a device: operations per second of a large matrix product."""

import timeit
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import numpy as np

MATRIX_PRODUCT = "matrix product"  # its name among the systems
SIZE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices


def matrix_products(device: str, precisions: Sequence[str]) -> Callable[[], dict[str, float]]:
    """Prepare matrix products in each precision; each call of the result returns the best operations per second.

    PyTorch computes them, and on a CPU also OpenVINO and NumPy, because which of them is fastest depends on the CPU.
    Only OpenVINO is fast in int8.
    """
    size = SIZE["cuda" if device.startswith("cuda") else "cpu"]
    products: dict[str, list[Callable[[], object]]] = {}
    for precision in precisions:
        functions = products.setdefault(precision, [])
        if precision != "int8":
            functions.append(_pytorch_product(device, precision, size))
        if device == "cpu" and precision == "fp32":
            matrix = np.random.default_rng(0).random((size, size), np.float32)
            functions.append(partial(np.matmul, matrix, matrix))
        if device == "cpu" and find_spec("openvino") is not None:
            functions.append(_openvino_product(precision, size))

    def measure() -> dict[str, float]:
        return {
            precision: 2 * size**3 / min(min(timeit.repeat(product, number=1, repeat=4)) for product in functions)
            for precision, functions in products.items()
            if functions
        }

    return measure


def _pytorch_product(device: str, precision: str, size: int) -> Callable[[], object]:
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = torch.randn(2, size, size, device=device).to(dtype)

    def product() -> None:
        torch.mm(left, right)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    return product


def _openvino_product(precision: str, size: int) -> Callable[[], object]:
    from inception_v3.inference.engines.openvino import load_core

    openvino = import_module("openvino")
    operations = import_module("openvino.opset13")
    rng = np.random.default_rng(0)
    parameter = operations.parameter([size, size], np.float32)
    left, right = parameter, operations.constant(rng.normal(size=(size, size)).astype(np.float32))
    if precision == "int8":  # in the form that NNCF writes: FakeQuantize on one side, an int8 constant on the other
        low, high = np.float32(0), np.float32(255)
        left = operations.fake_quantize(parameter, low, high, low, high, 256)
        integers = operations.constant(rng.integers(-127, 128, (size, size)).astype(np.int8))
        right = operations.multiply(operations.convert(integers, np.float32), np.float32(1 / 127))
    model = openvino.Model([operations.matmul(left, right, False, False)], [parameter])
    options = {"INFERENCE_PRECISION_HINT": {"bf16": "bf16"}.get(precision, "f32")}
    request = load_core().compile_model(model, "CPU", options).create_infer_request()
    values = rng.integers(0, 256, (size, size)).astype(np.float32)
    return lambda: request.infer([values], share_inputs=True)
