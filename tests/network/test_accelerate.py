"""Faster training kernels on a CPU have the gradients of the plain layers, whatever PyTorch does to the module."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from conftest import relative
from inception_v3.network import accelerate as accelerate_module
from inception_v3.network.accelerate import accelerate
from inception_v3.network.network import InceptionV3Network
from inception_v3.network.settings import Settings
from inception_v3.network.sync_batch_norm import synchronise_batch_norm
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]


def images(height: int = 107, width: int = 107, n: int = 2) -> Tensor:
    return torch.rand(n, 3, height, width) * 2 - 1


def plain_and_accelerated(random_model: Build, **options: object) -> tuple[InceptionV3, InceptionV3, Tensor]:
    """Two equal networks in training, the second accelerated, and a batch for them."""
    plain = random_model(dropout_keep_prob=1.0, **options).double().to(memory_format=torch.channels_last).train()
    batch = images(n=3).double().contiguous(memory_format=torch.channels_last)
    return plain, accelerate(copy.deepcopy(plain)), batch


def train_once(model: torch.nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """Gradients and moving averages after one forward and backward pass."""
    model.zero_grad()
    logits, end_points = model(batch, ("AuxLogits",))
    (logits.square().sum() + end_points["AuxLogits"].square().sum()).backward()
    gradients = {name: tensor.grad.clone() for name, tensor in model.named_parameters()}  # type: ignore[union-attr]
    return gradients | {name: tensor.clone() for name, tensor in model.named_buffers()}


def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the fused kernels, each time that one is used from now on."""
    used: list[str] = []
    for name in ("run_starts", "conv_then_max"):
        original = getattr(accelerate_module, name)
        monkeypatch.setattr(
            accelerate_module, name, lambda *args, name=name, original=original: used.append(name) or original(*args)
        )
    return used


@pytest.mark.parametrize(
    "options", [{}, {"batch_norm_scale": True}, {"count_padding": True}, {"mixed_7c_pool": "max"}], ids=str
)
def test_training_on_channels_last_has_the_gradients_of_the_plain_layers(
    random_model: Build, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, accelerated, batch = plain_and_accelerated(random_model, **options)
    used = fused_calls(monkeypatch)
    requested = set(plain.end_point_names) - {"Conv2d_2b_3x3", "Conv2d_4a_3x3"}
    for model in (plain, accelerated):
        assert not used
        _, end_points = model(batch, requested)
        sum(tensor.square().sum() for tensor in end_points.values()).backward()  # type: ignore[union-attr]
    assert (used.count("run_starts"), used.count("conv_then_max")) == (11, 2), "every module and max pool"
    for name, expected in plain.named_parameters():
        assert relative(accelerated.get_parameter(name).grad, expected.grad) < 1e-9, name  # type: ignore[arg-type]
    for name, expected in plain.named_buffers():
        assert relative(accelerated.get_buffer(name), expected) < 1e-9, name


def test_end_points_before_a_max_pool_include_the_relu_in_training(random_model: Build) -> None:
    plain, accelerated, batch = plain_and_accelerated(random_model)
    for name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
        output, expected = (model.base(batch, "Mixed_5b", [name])[1][name] for model in (accelerated, plain))
        assert output.min() == 0
        assert relative(output, expected) < 1e-9


@pytest.mark.parametrize("kernel", [(1, 3), (3, 1), (3, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_convolutions_of_small_maps(kernel: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    net = torch.randn(3, 5, 8, 9, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = torch.randn(7, 5, *kernel, dtype=torch.float64, requires_grad=True)
    padding = kernel[0] // 2, kernel[1] // 2
    outputs = [
        accelerate_module._SmallMapConvolution.apply(net, weights, stride, padding),
        torch.nn.functional.conv2d(net, weights, None, stride, padding),
    ]
    first = [torch.autograd.grad(output.sin().sum(), (net, weights), create_graph=True) for output in outputs]
    for gradient, expected in zip(*first, strict=True):
        assert relative(gradient, expected) < 1e-12
    second = [
        torch.autograd.grad(net_grad.square().sum() + weights_grad.square().sum(), weights)[0]
        for net_grad, weights_grad in first
    ]
    assert relative(*second) < 1e-12


def test_a_module_in_bf16_is_as_exact_as_its_layers(random_model: Build) -> None:
    plain, accelerated, _ = plain_and_accelerated(random_model)
    exact = copy.deepcopy(accelerated)
    first = plain.get_parameter("Mixed_7c.Branch_0.Conv2d_0a_1x1.weights")
    net = torch.randn(6, first.shape[1], 8, 8).relu().contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        for model in (plain, accelerated):
            model.float().Mixed_7c(net).float().sin().sum().backward()  # type: ignore[operator]
    exact.Mixed_7c(net.double()).sin().sum().backward()  # type: ignore[operator]
    for name, expected in exact.Mixed_7c.named_parameters("Mixed_7c"):  # type: ignore[union-attr]
        ours, theirs = (
            relative(model.get_parameter(name).grad.double(), expected.grad) for model in (accelerated, plain)
        )  # type: ignore[union-attr, arg-type]
        assert ours < 1.5 * theirs + 0.01, name


def test_compilers_get_the_plain_layers(random_model: Build) -> None:
    plain, accelerated, _ = plain_and_accelerated(random_model)
    net = torch.randn(2, 32, 9, 9, dtype=torch.float64)[:, : plain.Mixed_5b.Branch_0.Conv2d_0a_1x1.weights.shape[1]]  # type: ignore[union-attr, index]
    net = net.contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(accelerated.Mixed_5b, backend="eager", fullgraph=True)
    assert relative(compiled(net), plain.Mixed_5b(net)) < 1e-12  # type: ignore[operator]


def test_layers_with_statistics_of_several_processes_are_not_fused(random_model: Build) -> None:
    _, model, batch = plain_and_accelerated(random_model)
    parts = list(model.Mixed_5b.children())  # type: ignore[union-attr]
    assert accelerate_module.applies(batch, *parts)
    synchronise_batch_norm(model)
    assert not accelerate_module.applies(batch, *parts)


def test_frozen_statistics_do_not_change_in_training(random_model: Build) -> None:
    """As in fine-tuning, where a BatchNorm in evaluation mode is inside a network in training mode."""
    plain, accelerated, batch = plain_and_accelerated(random_model)
    for model in (plain, accelerated):
        for name, module in model.named_modules():
            if name.startswith("Mixed_5") and name.endswith("BatchNorm"):
                module.eval()
    before = {name: tensor.clone() for name, tensor in accelerated.named_buffers()}
    logits, expected = accelerated(batch)[0], plain(batch)[0]
    assert relative(logits, expected) < 1e-9
    for name, tensor in accelerated.named_buffers():
        assert torch.equal(tensor, before[name]) == name.startswith("Mixed_5"), name


def test_a_hook_on_any_layer_is_called_in_training(random_model: Build) -> None:
    _, model, batch = plain_and_accelerated(random_model)
    called = []
    for name, module in model.named_modules():
        if name.startswith("Mixed_6b."):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    model(batch)
    assert set(called) == {name for name, _ in model.named_modules() if name.startswith("Mixed_6b.")}


def test_second_derivatives_and_torch_func_in_training(random_model: Build) -> None:
    plain, accelerated, batch = plain_and_accelerated(random_model)
    penalties = []
    for model in (plain, accelerated):
        inputs = batch.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(inputs, ())[0].square().sum(), inputs, create_graph=True)
        slope.square().sum().backward()
        penalties.append(model.get_parameter("Conv2d_2b_3x3.weights").grad)
    assert relative(penalties[1], penalties[0]) < 1e-6

    parameters = {name: tensor.detach() for name, tensor in accelerated.named_parameters()}
    statistics = {name: tensor.clone() for name, tensor in accelerated.named_buffers()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(accelerated, (weights, statistics), (batch, ()))[0].square().sum()

    gradient = torch.func.grad(loss)(parameters)
    accelerated.zero_grad()
    accelerated(batch, ())[0].square().sum().backward()
    name = "Mixed_6c.Branch_3.Conv2d_0b_1x1.weights"
    assert relative(gradient[name], accelerated.get_parameter(name).grad) < 1e-9  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_a_copy_trains_as_fast_and_with_the_same_gradients(
    random_model: Build, copied: Callable[[InceptionV3], InceptionV3], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, accelerated, batch = plain_and_accelerated(random_model)
    other = copied(accelerated)
    expected = train_once(plain, batch)
    used = fused_calls(monkeypatch)
    for name, value in train_once(other, batch).items():
        assert relative(value, expected[name]) < 1e-9, name
    assert (used.count("run_starts"), used.count("conv_then_max")) == (11, 2)
    assert accelerated.Conv2d_1a_3x3.weights.grad is None, "the copy shares nothing with the original"  # type: ignore[union-attr]


def test_training_and_evaluation_may_alternate(random_model: Build) -> None:
    plain, accelerated, batch = plain_and_accelerated(random_model)
    for _ in range(2):
        expected, values = train_once(plain.train(), batch), train_once(accelerated.train(), batch)
        for name, value in values.items():
            assert relative(value, expected[name]) < 1e-9, name
        with torch.inference_mode():
            logits, end_points = accelerated.eval()(batch)
            plain_logits, plain_end_points = plain.eval()(batch)
        assert relative(logits, plain_logits) < 1e-9
        for name, value in end_points.items():
            assert relative(value, plain_end_points[name]) < 1e-9, name


def test_it_stays_the_same_model_in_every_other_respect(random_model: Build) -> None:
    plain, accelerated, _ = plain_and_accelerated(random_model)
    assert type(accelerated) is InceptionV3
    assert accelerated.settings == plain.settings
    assert list(accelerated.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in accelerated.named_modules()] == [name for name, _ in plain.named_modules()]
    before = [type(module) for module in accelerated.modules()]
    assert accelerate(accelerated) is accelerated
    assert [type(module) for module in accelerated.modules()] == before, "a second call changes nothing"


def test_a_network_cut_at_an_end_point_is_accelerated_too() -> None:
    network = InceptionV3Network(Settings(depth_multiplier=0.1, min_depth=8, final_endpoint="Mixed_5c"))
    network = network.double().to(memory_format=torch.channels_last).train()
    accelerated = accelerate(copy.deepcopy(network))
    batch = images().double().contiguous(memory_format=torch.channels_last)
    assert relative(accelerated(batch)[0], network(batch)[0]) < 1e-9
