"""The rules that replace the gradient of activations."""

import pytest
import torch

from inception_v3.explain.attribution.rules import rescaled
from inception_v3.network.layers import ACTIVATIONS


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "linear"])
def test_the_rescale_rule_applies_to_every_activation_that_a_network_can_have(name: str) -> None:
    """Through one activation, the multiplier times the change of the input is the change of the output."""
    net = torch.tensor([2.0, -1.5, 0.4, 0.7, -1.0, 0.4], dtype=torch.float64, requires_grad=True)
    with rescaled():
        outputs = ACTIVATIONS[name](net)
        (multipliers,) = torch.autograd.grad(outputs.sum(), net)
    change, difference = net[:3] - net[3:], outputs[:3] - outputs[3:]
    assert torch.allclose(multipliers[:2] * change[:2], difference[:2])
    (slopes,) = torch.autograd.grad(ACTIVATIONS[name](net).sum(), net)
    assert multipliers[2] == pytest.approx(slopes[2].item()), "where the input does not change, it is the slope"


def test_activations_are_computed_as_usual_inside_a_rule() -> None:
    net = torch.linspace(-4, 4, 10)
    for activate in ACTIVATIONS.values():
        expected = activate(net.clone())
        with rescaled():
            assert torch.equal(activate(net.clone()), expected)
