"""The checks of an attribution."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from inception_v3 import InceptionV3
from inception_v3.explain.attribution.attribute import attribute
from inception_v3.explain.attribution.checks import curves, randomisation, randomised_layers
from inception_v3.explain.attribution.result import Attribution, AttributionOptions
from inception_v3.explain.views import View

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    torch.manual_seed(0)
    return InceptionV3(num_classes=4, depth_multiplier=0.2, image_size=107, global_pool=True, hidden_units=(6,)).eval()


@pytest.fixture(scope="module")
def view(model: InceptionV3) -> View:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8)
    return View.of("noise", Image.fromarray(pixels).resize((140, 120)), model.preprocessing)


def test_layers_become_random_from_the_last_one_to_the_first(model: InceptionV3, view: View) -> None:
    options = AttributionOptions(method="gradient")
    before = copy.deepcopy(model.state_dict())
    found = randomisation(model, attribute(model, view, options), options)
    assert found.layers[:4] == ("Logits.Conv2d_1c_1x1", "Logits.Hidden_1", "Mixed_7c", "Mixed_7b")
    assert found.layers[-1] == "Conv2d_1a_3x3"
    assert len(found.layers) == 18
    assert abs(found.correlations[-1]) < 0.9
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert found == randomisation(model, attribute(model, view, options), options), "the same with the same seed"
    assert randomised_layers(model, "AuxLogits")[3:5] == ["Mixed_6e", "Mixed_6d"]


def test_a_map_that_does_not_depend_on_the_weights_fails_the_check(
    model: InceptionV3, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edge detector, for example, looks like an explanation."""
    values = torch.rand(1, 8, 8)
    monkeypatch.setitem(attribute.__wrapped__.__globals__["METHODS"], "gradient", lambda *_: values)
    options = AttributionOptions(method="gradient")
    found = randomisation(model, attribute(model, view, options), options)
    assert found.correlations == pytest.approx([1.0] * len(found.layers))


def test_curves_lead_from_the_blurred_image_to_the_image_and_from_it_to_grey(model: InceptionV3, view: View) -> None:
    result = attribute(model, view, AttributionOptions(method="occlusion", window=30, stride=30))
    drawn = curves(model, result, batch_size=5)

    def probability(pixels: torch.Tensor) -> float:
        with torch.no_grad():
            return float(model(pixels, end_points=())[0].double().softmax(1)[0, result.class_index])

    pixels = model.preprocess(view.image)
    assert [drawn.insertion[-1], drawn.deletion[0]] == pytest.approx([probability(pixels)] * 2, abs=1e-6)
    assert drawn.deletion[-1] == pytest.approx(probability(torch.zeros_like(pixels)), abs=1e-6)
    assert drawn.fractions.tolist() == pytest.approx(np.linspace(0, 1, 21).tolist())
    assert drawn.deletion_area == pytest.approx(
        np.interp(np.linspace(0, 1, 9999), drawn.fractions, drawn.deletion).mean(), abs=1e-4
    )


def test_the_most_important_pixels_are_changed_first(model: InceptionV3, view: View) -> None:
    """If only the left half counts, half of the pixels inserted make the left half of the image sharp."""
    values = np.zeros((107, 107))
    values[:, :54] = 1
    result = Attribution(view, "occlusion", 0, "0", "Logits", None, 0.0, values)
    seen: list[torch.Tensor] = []
    with model.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        curves(model, result, batch_size=21)
    (pixels,), (insertion, deletion) = model.preprocess(view.image), (batch[10] for batch in seen)
    assert torch.equal(insertion[:, :105, :54], pixels[:, :105, :54]), "rows from above, of positions that count alike"
    assert not torch.equal(insertion[:, :, 54:], pixels[:, :, 54:])
    assert (deletion[:, :105, :54] == 0).all()
    assert torch.equal(deletion[:, :, 54:], pixels[:, :, 54:])
