"""The public InceptionV3 is the plain network with preprocessing, classes and origin, for every tool of PyTorch.

tests/network/test_network.py covers calls, copies, pickles, compilation and torch.func; test_hub.py covers
from_pretrained and save_pretrained.
"""

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

import inception_v3
from inception_v3.network.network import InceptionV3Network
from inception_v3.network.settings import Settings
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]


@pytest.fixture
def loaded(tmp_path: Path, random_model: Build) -> InceptionV3:
    """A small model that was loaded from a file, so that it has classes and an origin."""
    model = random_model(num_classes=2, image_size=75, count_padding=True)
    model.class_names = ["cat", "dog"]
    inception_v3.save(model, tmp_path / "model.safetensors")
    return inception_v3.load(tmp_path / "model.safetensors")


def test_the_public_model_is_a_subclass_of_the_network(random_model: Build) -> None:
    assert inception_v3.InceptionV3 is InceptionV3
    assert isinstance(random_model(), InceptionV3Network)


def test_the_network_computes_the_same_without_the_public_class(random_model: Build) -> None:
    model = random_model()
    network = InceptionV3Network(model.settings).eval()
    network.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 107, 107)
    with torch.inference_mode():
        assert torch.equal(network(images)[0], model(images)[0])
    assert not hasattr(network, "save_pretrained")


def test_the_arguments_and_their_defaults_are_the_settings() -> None:
    arguments = list(inspect.signature(InceptionV3).parameters.values())
    assert [argument.name for argument in arguments] == [option.name for option in fields(Settings)]
    for argument, (name, default) in zip(arguments, Settings().items(), strict=True):
        expected = 299 if name == "image_size" else default  # one number stands for height and width
        assert argument.default == expected, name
    with torch.device("meta"):
        assert InceptionV3().settings == Settings()


def test_the_settings_build_the_same_network_again(random_model: Build) -> None:
    model = random_model(image_size=(107, 139), batch_norm_scale=True, mixed_7c_pool="max", create_aux_logits=False)
    rebuilt = InceptionV3(**model.settings)
    assert rebuilt.settings == model.settings
    assert str(rebuilt) == str(model)
    rebuilt.load_state_dict(model.state_dict())


def test_the_settings_cannot_be_changed(loaded: InceptionV3) -> None:
    with pytest.raises(FrozenInstanceError):
        loaded.settings.global_pool = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        loaded.settings["global_pool"] = True  # type: ignore[index]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_keeps_preprocessing_classes_and_origin(loaded: InceptionV3, duplicate: Build) -> None:
    other = duplicate(loaded)
    assert other.origin == loaded.origin
    assert (other.preprocessing, other.class_names) == (loaded.preprocessing, ["cat", "dog"])


def test_a_forward_hook_receives_and_may_replace_the_output(loaded: InceptionV3) -> None:
    seen: list[tuple[int, ...]] = []

    def hook(module: torch.nn.Module, inputs: tuple[Tensor], output: tuple[Tensor, dict[str, Tensor]]) -> Tensor:
        seen.append(tuple(inputs[0].shape))
        return output[0].softmax(1)

    handle = loaded.register_forward_hook(hook)
    images = torch.rand(3, 3, 75, 75)
    with torch.inference_mode():
        probabilities = loaded(images)
        handle.remove()
        logits, _ = loaded(images)
    assert seen == [(3, 3, 75, 75)]
    assert torch.equal(probabilities, logits.softmax(1))


def test_a_loaded_model_compiles(loaded: InceptionV3) -> None:
    images = torch.rand(2, 3, 75, 75)
    with torch.inference_mode():
        compiled = torch.compile(loaded, backend="eager")(images, ())[0]
        assert torch.equal(compiled, loaded(images, ())[0])


def test_functional_call_uses_the_given_parameters(loaded: InceptionV3) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in loaded.named_parameters() if name.startswith("Logits.")}
    with torch.inference_mode():
        logits, _ = torch.func.functional_call(loaded, zeros, (torch.rand(2, 3, 75, 75), ()))
    assert not logits.any()
