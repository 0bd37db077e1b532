"""Networks that version 0.1 exported (tests/version_0_1) still open, and compute what its model computes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from inception_v3.inference.choose import open_engine
from inception_v3.weights.load import load

FILES = Path(__file__).parents[1] / "version_0_1"


@pytest.mark.parametrize(("name", "engine"), [("run.onnx", "onnxruntime"), ("run.xml", "openvino")])
def test_an_exported_network_of_version_0_1_predicts_as_its_model(name: str, engine: str) -> None:
    opened = open_engine(FILES / name)
    assert opened.engine.name == engine
    description = opened.description
    assert (description.precision, description.preprocessing.image_size) == ("fp32", (75, 75))
    assert description.names() == [str(digit) for digit in range(10)]
    assert description.check is not None
    assert description.check.top_1_agreement == 1
    pixels = np.random.default_rng(0).integers(0, 256, (4, 75, 75, 3), dtype=np.uint8)
    logits, features = opened.engine.predict(pixels)
    assert (logits.shape, len(features)) == ((4, 10), 4)
    model = load(FILES / "run" / "model.safetensors").eval()
    with torch.inference_mode():
        expected, _ = model(model.preprocessing.scale(torch.from_numpy(pixels).permute(0, 3, 1, 2)), ())
    probabilities = torch.from_numpy(logits).softmax(1)
    assert (probabilities - expected.softmax(1)).abs().max() < 1e-4
