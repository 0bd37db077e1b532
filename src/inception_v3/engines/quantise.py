"""int8 by NNCF's post-training quantisation, on pictures like those that will come."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from inception_v3.engines.base import LOGITS, PIXELS, Pixels
from inception_v3.engines.check import Run
from inception_v3.engines.openvino import load_openvino
from inception_v3.errors import InputError

if TYPE_CHECKING:
    import openvino
    from onnx import ModelProto

FEWEST = 32  # pictures to calibrate on
BETTER = 300


def check_pictures(pixels: Pixels, reference: Run) -> None:
    """Raises InputError for pictures that tell too little of what will come, ValueError for other than pixels."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise ValueError(f"pixels must be uint8 (N, H, W, 3), 0 to 255, not {pixels.dtype} {pixels.shape}")
    if len(pixels) < FEWEST:
        raise InputError(f"{len(pixels)} pictures are too few for int8; give at least {FEWEST}, better {BETTER}")
    if np.ptp(pixels.reshape(len(pixels), -1), 1).max() < 16:
        raise InputError("the pictures for int8 are of one colour each; give pictures like those that will come")
    answers = [reference(pixels[first : first + 16]) for first in range(0, len(pixels), 16)]
    if LOGITS in answers[0]:
        classes = {int(one) for answer in answers for one in answer[LOGITS].argmax(1)}
        if len(classes) == 1 and answers[0][LOGITS].shape[1] > 1:
            raise InputError(
                f"all {len(pixels)} pictures for int8 are of one class to the network; give pictures of all classes"
            )


def quantise(network: bytes, pixels: Pixels, reference: Run, held_out: Pixels, bound: float) -> "openvino.Model":
    """An OpenVINO model with int8 arithmetic, from an ONNX model's bytes.

    All layers are quantised on `pixels`. Where the share of `held_out` whose first class is the reference's stays below
    `bound`, NNCF ranks the layers and leaves the most sensitive in float32 until it holds.
    Raises InputError where NNCF is missing.
    """
    openvino, nncf = load_openvino(), _load_nncf()
    model = openvino.Core().read_model(network)
    rows = _rows(pixels)
    quantised = nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows))
    expected = np.concatenate([reference(one[None])[LOGITS].argmax(1) for one in held_out])

    def agreement(compiled: Any, items: Iterable[Any]) -> tuple[float, None]:
        found = [int(compiled(item)[compiled.output(LOGITS)].argmax()) for item in items]
        return float(np.mean(np.array(found) == expected[: len(found)])), None

    options = {"INFERENCE_PRECISION_HINT": "f32"}
    if agreement(openvino.Core().compile_model(quantised, "CPU", options), _rows(held_out))[0] >= bound:
        return quantised
    datasets = nncf.Dataset(rows), nncf.Dataset(_rows(held_out))
    return nncf.quantize_with_accuracy_control(model, *datasets, agreement, max_drop=1 - bound, subset_size=len(rows))


def quantise_onnx(model: "ModelProto", pixels: Pixels) -> "ModelProto":
    """An ONNX model with int8 arithmetic in every layer. Raises InputError where NNCF is missing."""
    nncf = _load_nncf()
    rows = _rows(pixels)
    quantised: ModelProto = nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows))
    return quantised


def _rows(pixels: Pixels) -> list[dict[str, Pixels]]:
    return [{PIXELS: pixels[place : place + 1]} for place in range(len(pixels))]


def _load_nncf() -> Any:
    try:
        import nncf
    except ImportError as error:
        raise InputError("int8 needs NNCF; pip install 'inception-v3[openvino]'", exit_status=2) from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def layers_in_float(model: "openvino.Model") -> tuple[str, ...]:
    """Convolutions whose kernel stayed in float32."""
    kept = []
    for node in model.get_ops():
        if node.get_type_name() == "Convolution":
            source = node.input_value(1).get_node()
            if source.get_type_name() != "FakeQuantize" and source.get_element_type().get_type_name() == "f32" \
                    and source.get_type_name() == "Constant":  # fmt: skip
                kept.append(node.get_friendly_name().removesuffix("/convolution"))
    return tuple(kept)
