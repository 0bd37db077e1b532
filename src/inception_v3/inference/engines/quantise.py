"""int8 by NNCF's post-training quantisation, on pictures like those that will come."""

import logging
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import LOGITS, PIXELS, Pixels
from inception_v3.inference.exported.check import Run
from inception_v3.inference.engines.graph import Graph
from inception_v3.network.architecture import BASE_END_POINTS

if TYPE_CHECKING:
    from inception_v3.inference.engines.openvino import OpenvinoEngine

FEWEST, BETTER = 32, 300  # pictures to fit to; a lower precision is checked on as many at least
SENSITIVITY = 16  # pictures that the layers are ranked on
BATCH = 16


def check_pictures(pixels: Pixels, reference: Run) -> None:
    """Raises InputError for pictures that tell too little of what will come, ValueError for other than pixels."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"pixels must be uint8 (N, H, W, 3), 0 to 255, not {pixels.dtype} {pixels.shape}")
    if len(pixels) < FEWEST:
        raise InputError(f"{len(pixels)} pictures are too few for int8; give at least {FEWEST}, better {BETTER}")
    if np.ptp(pixels.reshape(len(pixels), -1), 1).max() < 16:
        raise InputError("the pictures for int8 are of one colour each; give pictures like those that will come")
    if len(set(_classes(reference, pixels).tolist())) == 1:
        raise InputError(
            f"all {len(pixels)} pictures for int8 are of one class to the network; give pictures of all classes"
        )


@dataclass(frozen=True)
class Form:
    """One kind of file: the model that NNCF takes, made of a graph, and how it runs."""

    read: Callable[[Graph], Any]
    run: Callable[[Any], Run]


def quantise(
    graph: Graph, form: Form, pixels: Pixels, reference: Run, held_out: Pixels, bound: float
) -> tuple[Any, tuple[str, ...]]:
    """A model with int8 arithmetic, fitted to `pixels`, and the end points that stayed in float32.

    These are none where at least `bound` of the first classes of `held_out` are the reference's. Else those whose
    quantisation adds most to the error stay as they are: one, then two, four and so on until the bound holds.
    Raises InputError where NNCF is missing.
    """
    expected = _classes(reference, held_out)
    order: list[str] = []
    kept: tuple[str, ...] = ()
    while True:
        model = _quantised(form.read(graph), pixels, kept)
        agreement = float((_classes(form.run(model), held_out) == expected).mean())
        if agreement >= bound or (kept and len(kept) == len(order)):
            return model, kept
        order = order or _by_sensitivity(graph, form, pixels)
        kept = tuple(order[: max(1, 2 * len(kept))])


def _by_sensitivity(graph: Graph, form: Form, pixels: Pixels) -> list[str]:
    """End points, those first where int8 adds most to the error relative to what comes out."""
    made = {operation.output for operation in graph.operations}
    names = tuple(name for name in (*BASE_END_POINTS, LOGITS) if name in made)
    whole = replace(graph, outputs=names)
    few = pixels[:SENSITIVITY]
    exact, rounded = (form.run(model)(few) for model in (form.read(whole), _quantised(form.read(whole), pixels)))
    errors = [float(np.linalg.norm(rounded[name] - exact[name]) / np.linalg.norm(exact[name])) for name in names]
    added = np.diff([0.0, *errors])
    return [names[place] for place in np.argsort(-added, kind="stable")]


def int8_engine(graph: Graph, inputs: NDArray[Any], callers: int = 1) -> "OpenvinoEngine":
    """A graph in int8 on a processor, fitted to some of its inputs and not checked. `callers`: see Engine.

    Raises InputError: too few inputs; OpenVINO or NNCF is missing.
    """
    from inception_v3.inference.engines.openvino import OpenvinoEngine

    if len(inputs) < FEWEST:
        raise InputError(f"{len(inputs)} pictures are too few for int8; give at least {FEWEST}, better {BETTER}")
    return OpenvinoEngine(_quantised(openvino_form().read(graph), inputs, name=graph.input), "int8", callers=callers)


def _quantised(model: Any, inputs: NDArray[Any], kept: tuple[str, ...] = (), name: str = PIXELS) -> Any:
    nncf = _load_nncf()
    rows = [{name: inputs[place : place + 1]} for place in range(len(inputs))]
    scope = nncf.IgnoredScope(patterns=[f"{one}(/.*)?" for one in kept], validate=False)
    with redirect_stdout(sys.stderr):  # its progress bars; what a program reads on stdout stays whole
        return nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows), ignored_scope=scope)


def _classes(run: Run, pixels: Pixels) -> NDArray[np.int64]:
    parts = [run(pixels[first : first + BATCH])[LOGITS].argmax(1) for first in range(0, len(pixels), BATCH)]
    return np.concatenate(parts)


def openvino_form() -> Form:
    """Models of OpenVINO."""
    from inception_v3.inference.engines.onnx_graph import to_onnx
    from inception_v3.inference.engines.openvino import OpenvinoEngine, load_core

    def read(graph: Graph) -> Any:
        return load_core().read_model(to_onnx(graph).SerializeToString())

    return Form(read, lambda model: OpenvinoEngine(model, "int8").run)


def onnx_form() -> Form:
    """Models of ONNX."""
    from inception_v3.inference.engines.onnx_graph import to_onnx
    from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine

    return Form(to_onnx, lambda model: OnnxRuntimeEngine(model.SerializeToString(), "int8").run)


def _load_nncf() -> Any:
    try:
        import nncf
    except ImportError as error:
        raise InputError("int8 needs NNCF; pip install 'inception-v3[openvino]'", exit_status=2) from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
