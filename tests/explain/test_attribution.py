"""Attributions, beside Captum's and pytorch-grad-cam's in float64."""

import numpy as np
import pytest
import torch
from captum.attr import DeepLift, GuidedBackprop, IntegratedGradients, NoiseTunnel, Occlusion, Saliency
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from inception_v3 import InceptionV3
from inception_v3.explain.attribution import cams, gradients
from inception_v3.explain.attribution.occlusion import occlusion, places
from inception_v3.explain.attribution.result import Head
from inception_v3.explain.attribution.scores import class_scores, network_scores
from inception_v3.network.layers import BatchNorm, Conv2d, HiddenLayer
from inception_v3.network.network import InceptionV3Network

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings(
        "ignore:Input Tensor 0 did not already require gradients", "ignore:Setting (forward|backward)"
    ),
]

TOLERANCE = 1e-6  # relative to the largest value
CLASSES = torch.tensor([3, 1])


def random_network(**options: object) -> InceptionV3:
    """A small network in float64 with all statistics random, which sees every position of an image."""
    torch.manual_seed(0)
    model = InceptionV3(
        num_classes=10, depth_multiplier=0.2, image_size=107, global_pool=True, batch_norm_scale=True, **options
    )
    for name, tensor in model.state_dict().items():
        if "moving_variance" in name or "gamma" in name:
            tensor.uniform_(0.5, 2)
        elif tensor.dim() == 1:
            tensor.normal_(0, 0.3)
    return model.double().eval()


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    return random_network()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 107, 107, generator=torch.Generator().manual_seed(1)).double().clamp(-1, 1)


class LogitsOf(nn.Module):
    """The network as other libraries expect it: from images to logits."""

    def __init__(self, model: InceptionV3Network, head: Head = "Logits") -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, images: Tensor) -> Tensor:
        _, outputs = self.model(images, end_points=(self.head,))
        return outputs[self.head]


class WithModule(Conv2d):
    """A layer whose activation is a module, as Captum needs it."""

    module: nn.Module

    def forward(self, net: Tensor) -> Tensor:
        return self.module(self.BatchNorm(self.convolve(net)))


def twin(model: InceptionV3) -> nn.Module:
    """The same network with an unshared module for every activation."""
    copied = InceptionV3(**model.settings).double().eval()
    copied.load_state_dict(model.state_dict())
    modules = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
    for layer in list(copied.modules()):
        if isinstance(layer, Conv2d) and layer.BatchNorm is not None:
            layer.module = modules[layer.activation if isinstance(layer, HiddenLayer) else "relu"]()
            layer.__class__ = WithModule
    return LogitsOf(copied)


def assert_equal(ours: Tensor | NDArray[np.floating], theirs: Tensor | NDArray[np.floating]) -> None:
    ours, theirs = (np.asarray(each.detach() if isinstance(each, Tensor) else each) for each in (ours, theirs))
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


# ------------------------------------------------------------------------------------------------ class activation maps


@pytest.mark.parametrize("head", ["Logits", "AuxLogits"])
@pytest.mark.parametrize("end_point", ["Mixed_5b", "Mixed_6e", None])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(cams.grad_cam, GradCAM), (cams.grad_cam_plus_plus, GradCAMPlusPlus), (cams.layer_cam, LayerCAM)],
)
def test_class_activation_maps_equal_those_of_pytorch_grad_cam(
    model: InceptionV3, images: Tensor, ours: object, theirs: type, end_point: str | None, head: Head
) -> None:
    maps = library_map(theirs, model, images, end_point or ("Mixed_7c" if head == "Logits" else "Mixed_6e"), head)
    computed = ours(model, images, CLASSES, end_point, head)  # type: ignore[operator]
    if maps.max() == 0:
        assert computed.max() == 0
    else:
        assert_equal(computed, maps)


def library_map(method: type, model: InceptionV3, images: Tensor, end_point: str, head: Head) -> NDArray[np.floating]:
    """The maps (N, h, w) of pytorch-grad-cam, before it scales them to [0, 1]."""
    layer = model.get_submodule(end_point)
    with method(LogitsOf(model, head), [layer]) as library:
        library.activations_and_grads(images)
        before = library.activations_and_grads
        outputs = before(images.clone())
        targets = [ClassifierOutputTarget(int(label)) for label in CLASSES]
        sum(target(output) for target, output in zip(targets, outputs, strict=True)).backward()
        maps = library.get_cam_image(
            images, layer, targets, before.activations[-1].numpy(), before.gradients[0].numpy(), False
        )
    return np.maximum(maps, 0)


# ------------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("head", ["Logits", "AuxLogits"])
def test_integrated_gradients_equal_captums(model: InceptionV3, images: Tensor, head: Head) -> None:
    baselines = torch.full_like(images[:1], -0.3)
    theirs = IntegratedGradients(LogitsOf(model, head)).attribute(
        images, baselines, CLASSES, n_steps=20, internal_batch_size=20
    )
    ours = gradients.integrated_gradients(model, images, CLASSES, head, baselines=baselines, steps=20, batch_size=7)
    assert_equal(ours, theirs)


def test_integrated_gradients_sum_to_the_difference_of_the_scores(model: InceptionV3, images: Tensor) -> None:
    values = gradients.integrated_gradients(model, images, CLASSES, steps=100, batch_size=40)
    before, after = (network_scores(model, each, CLASSES)[0].detach() for each in (torch.zeros_like(images), images))
    error = (values.sum((1, 2, 3)) - (after - before)).abs()
    assert (error < 0.02 * values.abs().sum((1, 2, 3))).all()


@pytest.fixture(scope="module")
def hidden() -> InceptionV3:
    return random_network(
        create_aux_logits=False, hidden_units=(9, 8), hidden_activation=("tanh", "elu"), hidden_batch_norm="before"
    )


@pytest.mark.parametrize("name", ["model", "hidden"])
def test_deep_lift_and_guided_backpropagation_equal_captums_on_a_network_of_modules(
    name: str, images: Tensor, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    baselines = torch.full_like(images, 0.2)
    assert_equal(
        gradients.deep_lift(model, images, CLASSES, baselines=baselines),
        DeepLift(twin(model)).attribute(images, baselines, CLASSES),
    )
    assert_equal(
        gradients.guided_backprop(model, images, CLASSES), GuidedBackprop(twin(model)).attribute(images, CLASSES)
    )


def test_captum_returns_the_plain_gradient_for_activations_that_are_no_modules(
    model: InceptionV3, images: Tensor
) -> None:
    """Why Captum cannot judge this network itself, nor torchvision's: it looks for `nn.ReLU` and finds none."""
    network, plain = LogitsOf(model), gradients.plain_gradient(model, images, CLASSES)
    assert_equal(GuidedBackprop(network).attribute(images, CLASSES), plain)
    assert_equal(DeepLift(network).attribute(images, torch.zeros_like(images), CLASSES), plain * images)
    assert (gradients.guided_backprop(model, images, CLASSES) - plain).abs().max() > 0.1 * plain.abs().max()


def test_the_plain_gradient_is_captums(model: InceptionV3, images: Tensor) -> None:
    theirs = Saliency(LogitsOf(model)).attribute(images, CLASSES, abs=False)
    assert_equal(gradients.plain_gradient(model, images, CLASSES, batch_size=1), theirs)


def test_folding_batch_norm_changes_neither_the_scores_nor_the_network(model: InceptionV3, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = gradients.folded(model)
    assert_equal(network_scores(folded, images, CLASSES)[0], network_scores(model, images, CLASSES)[0])
    assert not any(isinstance(module, BatchNorm) for module in folded.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_smooth_grad_is_the_mean_gradient_of_the_images_with_the_same_noise(model: InceptionV3, images: Tensor) -> None:
    noise = gradients.smooth_grad_noise(images, samples=5, level=0.1, seed=4)
    each = [gradients.plain_gradient(model, images + one, CLASSES) for one in noise]
    assert_equal(gradients.smooth_grad(model, images, CLASSES, noise=noise, batch_size=3), torch.stack(each).mean(0))
    assert noise.std() == pytest.approx(0.2, rel=0.01)
    assert torch.equal(noise, gradients.smooth_grad_noise(images, samples=5, level=0.1, seed=4))


def test_smooth_grad_equals_captums_noise_tunnel(model: InceptionV3, images: Tensor) -> None:
    torch.manual_seed(7)
    theirs = NoiseTunnel(Saliency(LogitsOf(model))).attribute(
        images, nt_type="smoothgrad", nt_samples=4, stdevs=0.2, target=CLASSES, abs=False
    )
    torch.manual_seed(7)
    noise = torch.normal(0, torch.full((2 * 4, *images.shape[1:]), 0.2)).double()
    for number, image in enumerate(images):
        ours = gradients.smooth_grad(
            model, image[None], CLASSES[number : number + 1], noise=noise[4 * number : 4 * number + 4]
        )
        assert_equal(ours[0], theirs[number])


def test_one_output_with_a_sigmoid_explains_both_classes(images: Tensor) -> None:
    model = random_network(create_aux_logits=False).settings
    network = InceptionV3(**model | {"num_classes": 1, "output_activation": "sigmoid"}).double().eval()
    second, first = (gradients.plain_gradient(network, images, torch.tensor([label] * 2)) for label in (1, 0))
    assert_equal(first, -second)
    assert_equal(second, Saliency(LogitsOf(network)).attribute(images, target=0, abs=False))


def test_nothing_is_left_behind_in_the_network(images: Tensor) -> None:
    model = random_network()
    before = gradients.plain_gradient(model, images, CLASSES)
    gradients.guided_backprop(model, images, CLASSES)
    gradients.deep_lift(model, images, CLASSES)
    cams.grad_cam(model, images, CLASSES)
    assert torch.equal(gradients.plain_gradient(model, images, CLASSES), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


# ------------------------------------------------------------------------------------------------------------ occlusion


@pytest.mark.parametrize(("window", "stride"), [(30, 20), (25, 25), (107, 50), (20, 13)])
def test_occlusion_equals_captums(model: InceptionV3, images: Tensor, window: int, stride: int) -> None:
    theirs = Occlusion(LogitsOf(model)).attribute(
        images, (3, window, window), (3, stride, stride), baselines=0.1, target=CLASSES, perturbations_per_eval=4
    )
    for image, label, expected in zip(images, CLASSES, theirs, strict=True):

        def scores(batch: NDArray[np.generic], label: Tensor = label) -> NDArray[np.floating]:
            with torch.no_grad():
                logits, _ = model(torch.from_numpy(batch), end_points=())
            return class_scores(logits, label.expand(len(batch))).numpy()

        ours = occlusion(scores, image.numpy(), 0.1, window=window, stride=stride, axes=(1, 2), batch_size=7)
        assert_equal(np.broadcast_to(ours, (3, *ours.shape)), expected)


@pytest.mark.parametrize(("size", "window", "stride"), [((75, 90), 30, 15), ((75, 75), 7, 7), ((80, 75), 100, 10)])
def test_the_windows_cover_the_image(size: tuple[int, int], window: int, stride: int) -> None:
    covered = np.zeros(size, int)
    for rows, columns in places(*size, window, stride):
        covered[rows, columns] += 1
    assert covered.min() > 0


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_network_that_cannot_be_explained_is_refused_with_the_reason(images: Tensor) -> None:
    network = random_network(create_aux_logits=False)
    with pytest.raises(ValueError, match="no head 'AuxLogits'"):
        cams.grad_cam(network, images, CLASSES, head="AuxLogits")
    with pytest.raises(ValueError, match="PreLogits has no map"):
        cams.grad_cam(network, images, CLASSES, "PreLogits")
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        gradients.plain_gradient(random_network().train(), images, CLASSES)
    with pytest.raises(ValueError, match="ends at Mixed_5b and has no classes"):
        gradients.plain_gradient(InceptionV3(final_endpoint="Mixed_5b").eval(), images, CLASSES)


def test_an_end_point_behind_the_head_is_refused(model: InceptionV3, images: Tensor) -> None:
    with pytest.raises(ValueError, match="the score of AuxLogits does not depend on Mixed_7c"):
        cams.grad_cam(model, images, CLASSES, "Mixed_7c", head="AuxLogits")
