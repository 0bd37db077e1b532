"""InceptionV3 as its callers use it: its outputs, image sizes, initialisation, and PyTorch's own tools."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import relative
from inception_v3.network import architecture
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]


def images(height: int = 107, width: int = 107, n: int = 2) -> Tensor:
    return torch.rand(n, 3, height, width) * 2 - 1


# --------------------------------------------------------------------------------------------- outputs


def test_a_call_returns_logits_and_every_end_point_in_order() -> None:
    model = InceptionV3().eval()
    with torch.inference_mode():
        logits, end_points = model(images(299, 299, 1))
    assert logits.shape == (1, 1000)
    table = {point.name: (1, point.channels, point.height, point.width) for point in architecture.end_points()}
    squeezed = dict.fromkeys(("AuxLogits", "Logits", "Predictions"), (1, 1000))
    assert {name: tuple(tensor.shape) for name, tensor in end_points.items()} == table | squeezed
    assert set(model.end_point_names) == set(end_points)
    assert torch.equal(end_points["Logits"], logits)
    assert torch.allclose(end_points["Predictions"], logits.softmax(1))


@settings(max_examples=15, deadline=None)
@given(height=st.integers(75, 190), width=st.integers(75, 190), classes=st.integers(1, 5))
def test_shapes_are_those_of_the_table_at_any_size(height: int, width: int, classes: int) -> None:
    options = {"num_classes": classes, "depth_multiplier": 0.05, "min_depth": 4}
    model = InceptionV3(**options, image_size=(height, width)).eval()  # type: ignore[arg-type]
    with torch.inference_mode():
        _, end_points = model(images(height, width, 1))
    for point in architecture.end_points(height=height, width=width, **options):  # type: ignore[arg-type]
        size = () if point.name in ("AuxLogits", "Logits", "Predictions") else (point.height, point.width)
        assert tuple(end_points[point.name].shape) == (1, point.channels, *size), point.name


def test_only_requested_end_points_are_returned(random_model: Build) -> None:
    model = random_model()
    batch = images()
    with torch.inference_mode():
        logits, everything = model(batch)
        same_logits, some = model(batch, end_points=("Mixed_6e", "PreLogits"))
    assert list(some) == ["Mixed_6e", "PreLogits"]
    assert torch.equal(logits, same_logits)
    assert all(torch.equal(some[name], everything[name]) for name in some)


def test_an_empty_selection_keeps_no_activation_alive(random_model: Build) -> None:
    model = random_model()
    alive: list[weakref.ref[Tensor]] = []
    model.Mixed_5b.register_forward_hook(lambda module, inputs, output: alive.append(weakref.ref(output)))
    with torch.inference_mode():
        _, end_points = model(images(), end_points=())
    gc.collect()
    assert end_points == {}
    assert alive[0]() is None


def test_the_auxiliary_head_runs_only_if_requested(random_model: Build) -> None:
    model = random_model()
    ran = []
    assert model.AuxLogits is not None
    model.AuxLogits[1].register_forward_hook(lambda *_: ran.append(True))
    with torch.inference_mode():
        model(images(), end_points=("Mixed_7c",))
        assert not ran
        model(images(), end_points=("AuxLogits",))
        assert ran


def test_the_base_stops_at_final_endpoint(random_model: Build) -> None:
    model = random_model()
    batch = images()
    ran = []
    model.Mixed_6a.register_forward_hook(lambda *_: ran.append(True))
    with torch.inference_mode():
        net, end_points = model.base(batch, final_endpoint="Mixed_5d")
        _, everything = model(batch, end_points=("Mixed_5d",))
    assert list(end_points)[-1] == "Mixed_5d"
    assert torch.equal(net, everything["Mixed_5d"])
    assert len(ran) == 1, "only by the second call"


@pytest.mark.parametrize("name", architecture.BASE_END_POINTS)
def test_a_network_with_final_endpoint_has_no_later_layers(name: str) -> None:
    model = InceptionV3(final_endpoint=name, depth_multiplier=0.05, min_depth=4).eval()
    with torch.inference_mode():
        net, end_points = model(images(75, 75, 1))
    names = architecture.BASE_END_POINTS[: architecture.BASE_END_POINTS.index(name) + 1]
    assert tuple(end_points) == names
    assert {key.split(".")[0] for key in model.state_dict()} == {n for n in names if not n.startswith("MaxPool")}
    assert torch.equal(net, end_points[name])


def test_parameters_are_those_of_the_table() -> None:
    with torch.device("meta"):
        model = InceptionV3()
    points = architecture.end_points()
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == sum(p.parameters for p in points)
    assert sum(p.numel() for p in model.parameters()) == sum(p.trainable_parameters for p in points)


def test_batch_norm_scale_adds_a_gamma_of_one_to_every_normalised_layer(random_model: Build) -> None:
    plain = random_model()
    scaled = InceptionV3(**plain.settings | {"batch_norm_scale": True}).eval()
    gammas = [name for name in scaled.state_dict() if name.endswith("gamma")]
    assert len(gammas) == sum(name.endswith("beta") for name in plain.state_dict()) == 96
    missing, unexpected = scaled.load_state_dict(plain.state_dict(), strict=False)
    assert (missing, unexpected) == (gammas, [])
    batch = images()
    with torch.inference_mode():
        assert torch.equal(plain(batch)[0], scaled(batch)[0])


# ---------------------------------------------------------------------------------- sizes and the heads


@pytest.mark.parametrize("size", [(75, 75), (75, 299), (106, 76), (107, 139), (298, 301)])
def test_images_can_have_any_size_from_75_if_the_heads_are_built_for_it(
    random_model: Build, size: tuple[int, int]
) -> None:
    model = random_model(image_size=size)
    with torch.inference_mode():
        logits, end_points = model(images(*size))
    assert logits.shape == end_points["AuxLogits"].shape == (2, 7)
    assert torch.isfinite(logits).all()


def test_the_auxiliary_pool_shrinks_too_where_tf_slim_fails(random_model: Build) -> None:
    """Below 107 pixels the map is smaller than 5x5, and the pool averages the whole map."""
    model = random_model(image_size=75)
    with torch.inference_mode():
        _, end_points = model(images(75, 75))
        mean = end_points["Mixed_6e"].mean((2, 3), keepdim=True)
        assert model.AuxLogits is not None
        _, reduce, convolve, classify = model.AuxLogits
        expected = classify(convolve(reduce(mean))).flatten(1)
    assert relative(end_points["AuxLogits"], expected) < 1e-5


def test_a_map_smaller_than_the_auxiliary_kernel_is_an_error_that_names_image_size(random_model: Build) -> None:
    model = random_model(image_size=299)
    error = r"image_size=\(299, 299\).*image_size=\(107, 107\)"
    with pytest.raises(ValueError, match=error):
        model(images(107, 107), end_points=["AuxLogits"])
    with pytest.raises(ValueError, match=error):
        model.train()(images(107, 107))


def test_in_evaluation_the_auxiliary_head_is_left_out_for_images_that_are_too_small_for_it(random_model: Build) -> None:
    model = random_model(image_size=299)
    logits, end_points = model(images(107, 107))
    assert logits.shape == (2, 7)
    assert end_points.keys() == {*model.end_point_names} - {"AuxLogits"}


def test_a_larger_image_needs_global_pool_and_the_error_says_so(random_model: Build) -> None:
    model = random_model()
    with pytest.raises(ValueError, match="global_pool=True"):
        model(images(395, 395), end_points=())


def test_global_pool_gives_one_prediction_for_any_size(random_model: Build) -> None:
    model = random_model(global_pool=True, image_size=299)
    with torch.inference_mode():
        logits, end_points = model(images(395, 331))
    assert logits.shape == end_points["AuxLogits"].shape == (2, 7)
    assert relative(end_points["PreLogits"], end_points["Mixed_7c"].mean((2, 3), keepdim=True)) < 1e-6


def test_global_pool_averages_the_auxiliary_logits_over_the_map(random_model: Build) -> None:
    model = random_model(global_pool=True, image_size=299).double()
    batch = images(395, 395).double()
    with torch.inference_mode():
        _, pooled = model(batch)
        as_map = InceptionV3(**model.settings | {"global_pool": False, "spatial_squeeze": False}).double().eval()
        as_map.load_state_dict(model.state_dict())
        _, mapped = as_map(batch)
    assert mapped["AuxLogits"].shape[2:] != (1, 1)
    assert relative(pooled["AuxLogits"], mapped["AuxLogits"].mean((2, 3))) < 1e-12


def test_without_spatial_squeeze_logits_are_a_map(random_model: Build) -> None:
    model = random_model(spatial_squeeze=False, image_size=299)
    with torch.inference_mode():
        logits, end_points = model(images(395, 299))
    assert logits.shape == (2, 7, 2, 1)
    assert torch.allclose(end_points["Predictions"].sum(1), torch.ones(2, 2, 1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(1, 3, 74, 299), "74x299: the network needs at least 75x75"),
        (torch.zeros(3, 299, 299), r"\(N, 3, H, W\)"),
        (torch.zeros(1, 299, 299, 3), r"\(N, 3, H, W\)"),
        (torch.zeros(1, 3, 99, 99, dtype=torch.uint8), "floats in"),
    ],
)
def test_images_of_the_wrong_shape_or_type_are_an_error(random_model: Build, wrong: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_model()(wrong)


def test_an_unknown_end_point_is_an_error_that_names_the_most_similar_one(random_model: Build) -> None:
    with pytest.raises(ValueError, match=r"no end point 'Mixed_8a' in this network; did you mean Mixed_7a\?"):
        random_model()(images(), end_points=("Mixed_8a",))
    with pytest.raises(ValueError, match=r"no end point 'Mixed_5b/Brunch_1' .*; did you mean Mixed_5b/Branch_1\?"):
        random_model()(images(), end_points="Mixed_5b/Brunch_1")
    with pytest.raises(ValueError, match=r"no end point 'xyz' .*; there are Conv2d_1a_3x3, .*Predictions, .* \.\.\.$"):
        random_model()(images(), end_points=["xyz"])


@pytest.mark.parametrize(
    "options", [{"depth_multiplier": 0.0}, {"dropout_keep_prob": 0.0}, {"batch_norm_decay": 1.0}, {"num_classes": 0}]
)
def test_an_impossible_option_is_an_error_that_names_it(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        InceptionV3(**options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- initialisation


def test_initial_weights_are_normal_and_truncated_at_two_deviations() -> None:
    model = InceptionV3()
    for name, parameter in model.named_parameters():
        if not name.endswith("weights"):
            assert parameter.eq(0).all(), name
            continue
        fan_in = parameter[0].numel()
        stddev = (1.3 * 2 / fan_in) ** 0.5
        if name.startswith("AuxLogits.Conv2d_2a"):
            stddev = 0.01
        elif name.startswith("AuxLogits.Conv2d_2b"):
            stddev = 0.001
        assert parameter.abs().max() <= 2 * stddev, name
        # Truncation at two deviations reduces the deviation to 0.8796 of it; TF-Slim does not correct this.
        if parameter.numel() > 20_000:
            assert parameter.std().item() == pytest.approx(0.8796 * stddev, rel=0.03), name
    statistics = model.state_dict()
    assert all(t.eq(1).all() for n, t in statistics.items() if n.endswith("moving_variance"))
    assert all(t.eq(0).all() for n, t in statistics.items() if n.endswith("moving_mean"))


def test_dropout_keeps_features_with_the_given_probability_and_only_in_training(random_model: Build) -> None:
    model = random_model(dropout_keep_prob=0.3, depth_multiplier=1.0).train()
    with torch.no_grad():
        _, end_points = model(images(n=4), end_points=("AvgPool_1a", "PreLogits"))
        before, after = end_points["AvgPool_1a"], end_points["PreLogits"]
        live = before != 0
        assert (after[live] != 0).float().mean().item() == pytest.approx(0.3, abs=0.05)
        kept = after != 0
        assert torch.allclose(after[kept], before[kept] / 0.3)
        _, end_points = model.eval()(images(), end_points=("AvgPool_1a", "PreLogits"))
        assert torch.equal(end_points["AvgPool_1a"], end_points["PreLogits"])


# ---------------------------------------------------------------------------------- under PyTorch's tools


def test_channels_last_gives_the_same_values(random_model: Build) -> None:
    model, batch = random_model(), images()
    with torch.inference_mode():
        expected, _ = model(batch)
        model = model.to(memory_format=torch.channels_last)
        logits, end_points = model(batch.contiguous(memory_format=torch.channels_last))
    assert relative(logits, expected) < 1e-4
    assert end_points["Mixed_6e"].is_contiguous(memory_format=torch.channels_last)


def test_bf16_autocast_trains_and_predicts(random_model: Build) -> None:
    model = random_model()
    with torch.autocast("cpu", torch.bfloat16):
        logits, end_points = model.train()(images(n=4))
        assert logits.dtype == torch.bfloat16
    (logits.float().sum() + end_points["AuxLogits"].float().sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("training", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compile_takes_the_whole_network_as_one_graph(random_model: Build, training: bool) -> None:
    """The backend aot_eager traces the network like inductor, but needs no C++ compiler."""
    model = random_model(dropout_keep_prob=1.0).train(training)
    batch = images()
    expected = copy.deepcopy(model)(batch)[0]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    logits, end_points = compiled(batch)
    assert relative(logits, expected) < 1e-4
    assert list(end_points) == list(model.end_point_names)


def test_export_gives_the_same_values_for_another_batch_size(random_model: Build) -> None:
    model = random_model()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images(),), dynamic_shapes={"images": {0: batch}})
    batch = images(n=3)
    with torch.inference_mode():
        assert relative(program.module()(batch)[0], model(batch)[0]) < 1e-5


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_whole_and_independent(random_model: Build, copied: Callable[[InceptionV3], InceptionV3]) -> None:
    model, batch = random_model(), images()
    other = copied(model)
    with torch.inference_mode():
        expected, _ = model(batch)
        assert torch.equal(other(batch)[0], expected)
        next(other.parameters()).zero_()
        assert torch.equal(model(batch)[0], expected)
    assert other.settings == model.settings


def test_torch_func_computes_the_gradient_of_each_image(random_model: Build) -> None:
    model = random_model(image_size=75).double()
    parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}
    buffers = dict(model.named_buffers())
    batch = images(75, 75, 3).double()

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(model, (weights, buffers), (image[None], ()))[0].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch)
    model(batch, ())[0].square().sum().backward()
    for name in ("Conv2d_1a_3x3.weights", "Mixed_6c.Branch_2.Conv2d_0b_7x1.weights", "Logits.Conv2d_1c_1x1.biases"):
        assert relative(each[name].sum(0), model.get_parameter(name).grad) < 1e-9, name  # type: ignore[arg-type]


def test_gradients_reach_every_parameter(random_model: Build) -> None:
    model = random_model().train()
    logits, end_points = model(images(n=4))
    (logits.square().sum() + end_points["AuxLogits"].square().sum()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing
