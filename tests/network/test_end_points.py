"""Branches and layers are end points under TF-Slim's names, with the values that the modules compute."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conftest import relative
from inception_v3.network import architecture
from inception_v3.network.accelerate import accelerate
from inception_v3.network.describe import describe_network
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]
pytestmark = pytest.mark.usefixtures("one_thread")


def images(height: int = 107, width: int = 107, n: int = 2) -> Tensor:
    return torch.rand(n, 3, height, width) * 2 - 1


def branches(model: InceptionV3) -> list[str]:
    return [name for name in model.inner_end_point_names if name.split("/")[-1].startswith("Branch_")]


def hooked_outputs(model: InceptionV3, batch: Tensor) -> dict[str, Tensor]:
    """What each module returned in one pass, by its name with slashes."""
    outputs: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda *call, name=name: outputs.update({name.replace(".", "/"): call[2]}))
        for name, module in model.named_modules()
        if name
    ]
    model(batch)
    for handle in handles:
        handle.remove()
    return outputs


def test_the_names_inside_the_end_points_are_those_of_tf_slims_scopes(random_model: Build) -> None:
    names = InceptionV3().inner_end_point_names
    assert names[:6] == (
        "Mixed_5b/Branch_0/Conv2d_0a_1x1",
        "Mixed_5b/Branch_0",
        "Mixed_5b/Branch_1/Conv2d_0a_1x1",
        "Mixed_5b/Branch_1/Conv2d_0b_5x5",
        "Mixed_5b/Branch_1",
        "Mixed_5b/Branch_2/Conv2d_0a_1x1",
    )
    assert {"Mixed_5b/Branch_3/AvgPool_0a_3x3", "AuxLogits/AvgPool_1a_5x5", "AuxLogits/Conv2d_1b_1x1"} <= {*names}
    assert {"Mixed_5c/Branch_1/Conv_1_0c_5x5", "Mixed_7c/Branch_1/Conv2d_0c_3x1", "Logits/Conv2d_1c_1x1"} <= {*names}
    assert len(branches(random_model())) == 42
    assert len(names) == 148, "42 branches, 100 layers of modules, 4 of AuxLogits and 2 of Logits"
    described = [each["name"] for point in describe_network()["end_points"] for each in point["inner"]]
    assert tuple(described) == names


@pytest.mark.parametrize("options", [{}, {"global_pool": True, "hidden_units": (9,)}, {"count_padding": True}], ids=str)
def test_a_layer_or_branch_has_the_value_that_its_module_returns(
    random_model: Build, options: dict[str, object]
) -> None:
    model, batch = random_model(**options), images()
    with torch.inference_mode():
        expected = hooked_outputs(model, batch)
        logits, end_points = model(batch, model.inner_end_point_names)
        assert torch.equal(logits, model(batch)[0])
    assert list(end_points) == sorted(end_points, key=model.inner_end_point_names.index), "in the network's order"
    assert {*end_points} == {*model.inner_end_point_names}
    pooled = "Logits/AvgPool_1a_1x1" if "Logits/AvgPool_1a_1x1" in end_points else "Logits/AvgPool_1a_8x8"
    for name, value in end_points.items():
        if name in expected:
            assert torch.equal(value, expected[name]), name
    assert {*end_points} - {*expected} <= {pooled}, "with global_pool, a mean and not the pool computes it"
    assert min(value.min() for name, value in end_points.items() if not name.endswith(("2b_1x1", "1c_1x1"))) == 0


def test_every_shape_is_that_of_the_table(random_model: Build) -> None:
    model = random_model(image_size=(139, 107))
    points = architecture.with_inner(model.settings.end_points())
    with torch.inference_mode():
        _, end_points = model(images(139, 107), [*model.end_point_names, *model.inner_end_point_names])
    assert {*points} == {*end_points}
    for name, value in end_points.items():
        if value.dim() == 4:
            point = points[name]
            assert tuple(value.shape) == (2, point.channels, point.height, point.width), name


def test_only_the_requested_end_points_are_returned_and_by_default_none_of_those_inside(random_model: Build) -> None:
    model, batch = random_model(), images()
    with torch.inference_mode():
        everything = model(batch)[1]
        some = model(batch, ["Mixed_6b/Branch_2", "Mixed_6b", "AuxLogits/Conv2d_1b_1x1"])[1]
    assert list(everything) == list(model.end_point_names)
    assert list(some) == ["Mixed_6b/Branch_2", "Mixed_6b", "AuxLogits/Conv2d_1b_1x1"]
    first, last = 192 // 10 * 2, 192 // 10 * 3  # the third of four branches of equal width
    assert torch.equal(some["Mixed_6b"][:, first:last], some["Mixed_6b/Branch_2"])


def test_one_name_needs_no_list(random_model: Build) -> None:
    model, batch = random_model(), images()
    for name in ("Mixed_5b", "Mixed_5b/Branch_1", "AuxLogits/AvgPool_1a_5x5", "PreLogits"):
        assert list(model(batch, end_points=name)[1]) == [name]
    assert list(model.base(batch, end_points="Mixed_5b/Branch_1")[1]) == ["Mixed_5b/Branch_1"]


def test_the_base_ends_at_a_branch_or_layer(random_model: Build) -> None:
    model, batch = random_model(), images()
    ran: list[bool] = []
    model.Mixed_5c.register_forward_hook(lambda *_: ran.append(True))
    with torch.inference_mode():
        net, end_points = model.base(batch, "Mixed_5b/Branch_1/Conv2d_0b_5x5")
        again, none = model.base(batch, "Mixed_5b/Branch_1/Conv2d_0b_5x5", ())
        assert not ran
        expected = model(batch, "Mixed_5b/Branch_1")[1]["Mixed_5b/Branch_1"]
    assert torch.equal(net, expected)
    assert torch.equal(again, expected)
    assert none == {}
    assert list(end_points)[-2:] == ["MaxPool_5a_3x3", "Mixed_5b/Branch_1/Conv2d_0b_5x5"]


def test_a_network_that_ends_early_has_the_branches_of_its_modules(random_model: Build) -> None:
    model = random_model(final_endpoint="Mixed_5b")
    net, end_points = model(images(), [f"Mixed_5b/Branch_{number}" for number in range(4)])
    assert torch.equal(torch.cat([*end_points.values()], 1), net)
    with pytest.raises(ValueError, match=r"no end point 'Mixed_5c/Branch_1' .*did you mean Mixed_5b/Branch_1\?"):
        model(images(), "Mixed_5c/Branch_1")


def test_a_network_is_not_built_up_to_a_branch() -> None:
    with pytest.raises(ValueError, match="a module is built with all its branches, so give Mixed_5b"):
        InceptionV3(final_endpoint="Mixed_5b/Branch_1")
    with pytest.raises(ValueError, match=r"final_endpoint must be .* not 'Mixed5b'; did you mean Mixed_5b\?"):
        InceptionV3(final_endpoint="Mixed5b")


def test_a_layer_of_an_auxiliary_head_that_the_network_lacks_is_an_error(random_model: Build) -> None:
    with pytest.raises(ValueError, match="no end point 'AuxLogits/Conv2d_1b_1x1' in this network"):
        random_model(create_aux_logits=False)(images(), "AuxLogits/Conv2d_1b_1x1")


def test_hooks_on_a_module_run_also_if_its_branches_are_requested(random_model: Build) -> None:
    model = random_model()
    ran: list[torch.Size] = []
    model.Mixed_6d.register_forward_hook(lambda module, inputs, output: ran.append(output.shape))
    _, end_points = model(images(), ("Mixed_6d/Branch_0", "Mixed_6d"))
    assert ran == [end_points["Mixed_6d"].shape]


def test_the_accelerated_network_trains_with_the_values_of_the_plain_one(random_model: Build) -> None:
    plain = random_model(dropout_keep_prob=1.0).double().to(memory_format=torch.channels_last).train()
    accelerated = accelerate(copy.deepcopy(plain))
    batch = images(n=3).double().contiguous(memory_format=torch.channels_last)
    names = (*plain.inner_end_point_names, "Conv2d_2b_3x3", "MaxPool_3a_3x3")
    gradients = []
    for model in (plain, accelerated):
        _, end_points = model(batch, names)
        torch.stack([value.square().mean() for value in end_points.values()]).sum().backward()
        gradients.append({name: value.detach() for name, value in end_points.items()})
    assert list(gradients[0]) == list(gradients[1])
    for name, value in gradients[0].items():
        assert relative(gradients[1][name], value) < 1e-10, name
    for (name, one), other in zip(plain.named_parameters(), accelerated.parameters(), strict=True):
        assert relative(other.grad, one.grad) < 1e-8, name  # type: ignore[arg-type]


def test_only_a_module_with_requested_branches_trains_without_the_faster_kernels(
    random_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inception_v3.network import accelerate as kernels

    used: list[int] = []
    original = kernels.run_starts
    monkeypatch.setattr(kernels, "run_starts", lambda net, starts: used.append(len(starts)) or original(net, starts))
    model = accelerate(random_model().to(memory_format=torch.channels_last).train())
    batch = images(n=3).contiguous(memory_format=torch.channels_last)
    model(batch, ())
    assert (fused := len(used)) > 5
    model(batch, "Mixed_5b/Branch_1")
    assert len(used) == 2 * fused - 1
