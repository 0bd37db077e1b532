"""PyTorch's files as people save them: training states, replaced heads, whole models, TorchScript, folders of shards.

Every network has random weights and statistics, is written by its own program, and is compared with its own forward.
"""

import argparse
import copy
import json
import pickle
import re
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_formats_torchvision_timm import random_peer, relative
from timm.utils import CheckpointSaver
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import inception_v3
from inception_v3.errors import InputError
from inception_v3.weights.inspect import inspect_weights
from inception_v3.weights.model import InceptionV3

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:FutureWarning",
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:The TorchScript type system:UserWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
    "ignore::torch.jit.TracerWarning",
)

LIMIT = 1e-4
IMAGES = torch.rand(2, 3, 107, 99, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def base() -> nn.Module:
    """torchvision's network with random weights. Tests replace its head, and leave everything else as it is."""
    torch.manual_seed(0)
    return random_peer("torchvision", torch.float32)


@pytest.fixture(scope="module")
def features(base: nn.Module) -> Tensor:
    """Its pooled features of IMAGES."""
    head, base.fc = base.fc, nn.Identity()
    with torch.no_grad():
        pooled = base(IMAGES)
    base.fc = head
    return pooled


@pytest.fixture
def with_head(base: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], nn.Module]:
    """The network with another `fc`, whose weights and statistics become random."""

    def replace(head: nn.Module) -> nn.Module:
        monkeypatch.setitem(base._modules, "fc", randomised(head))
        return base

    return replace


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(0, 1 / tensor[0].numel() ** 0.5)
    return module.eval()


def load(path: Path, **options: Any) -> tuple[InceptionV3, str]:
    """Load a file; return the model and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = inception_v3.load(path, **options)
    lines = [str(each.message) for each in caught if "are assumed (--" not in str(each.message)]  # test_facts.py
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in lines)
    return model, "\n".join(lines)


def logits(model: InceptionV3) -> Tensor:
    with torch.no_grad():
        return model(IMAGES, ())[0]


def assert_logits(model: InceptionV3, expected: Tensor) -> None:
    assert relative(logits(model), expected) <= LIMIT


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        load(path, **options)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def small(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict that makes a small file: every tensor is a single value, expanded."""
    return {name: torch.full((), 0.25).expand(tensor.shape) for name, tensor in state.items()}


# ------------------------------------------------------------------------------------------------- training states


def plain_head(network: nn.Module, features: Tensor) -> Tensor:
    with torch.no_grad():
        return network.fc(features)


def test_the_average_of_torchvisions_training_script_is_read_and_state_chooses_the_raw_weights(
    with_head: Callable[..., nn.Module], features: Tensor, tmp_path: Path
) -> None:
    network = with_head(nn.Linear(2048, 4))
    averaged = AveragedModel(network.fc, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # only its names are needed
    assert {"n_averaged", "module.weight"} <= averaged.state_dict().keys()
    raw = network.state_dict() | {"fc.bias": torch.zeros(4)}
    average = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    arguments = argparse.Namespace(lr=0.1, output_dir=Path("out"), device=torch.device("cpu"))
    state = {"model": raw, "model_ema": {"n_averaged": torch.tensor(7)} | average, "args": arguments, "epoch": 3}
    torch.save(state | {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}}, tmp_path / "checkpoint.pth")
    model, lines = load(tmp_path / "checkpoint.pth")
    assert "has the networks model, model_ema.module; the average model_ema.module is read, --state KEY" in lines
    assert "its auxiliary head has 1000 classes and the network 4, so it is left out" in lines
    assert_logits(model, plain_head(network, features))
    model, _ = load(tmp_path / "checkpoint.pth", state="model")
    assert_logits(model, plain_head(network, features) - network.fc.bias.detach())
    assert "no network under the key nothing; it has model, model_ema.module" in refused(
        tmp_path / "checkpoint.pth", state="nothing"
    )


def test_timms_checkpoints_are_read_with_the_preprocessing_of_their_arguments(tmp_path: Path) -> None:
    network = random_peer("timm", torch.float32, aux=False, num_classes=6)
    arguments = argparse.Namespace(model="inception_v3", mean=[0.1, 0.2, 0.3], std=None, crop_pct=0.9, interpolation="")
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    saver = CheckpointSaver(network, optimizer, args=arguments, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, 1.0)
    model, lines = load(tmp_path / "last.pth.tar")
    assert model.origin is not None
    assert (model.origin.format, lines) == ("timm", "")
    assert (model.preprocessing.mean, model.preprocessing.resize) == ((0.1, 0.2, 0.3), 332)
    with torch.no_grad():
        assert_logits(model, network(IMAGES))


@pytest.mark.parametrize("prefix", ["module.", "model.", "net._orig_mod.", "a.b.c.d."])
def test_a_network_below_any_prefix_at_any_depth_is_found(prefix: str, base: nn.Module, tmp_path: Path) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in small(base.state_dict()).items()}
    state |= {"criterion.weight": torch.ones(3), "train_accuracy.total": torch.ones(())}
    nested = {"hyper_parameters": {"lr": 0.1}, "fold": [{"weights": {"best": state}}], "loss": [0.1] * 5}
    torch.save(nested, tmp_path / "w.ckpt")
    assert load(tmp_path / "w.ckpt", state="fold.0.weights.best")[1] == ""
    assert load(tmp_path / "w.ckpt")[0].settings.num_classes == 1000


def test_wrappers_inside_the_names_are_left_out(base: nn.Module, tmp_path: Path) -> None:
    state = {name.replace("Mixed_5b.", "Mixed_5b._orig_mod."): t for name, t in small(base.state_dict()).items()}
    torch.save(state, tmp_path / "w.pth")
    assert load(tmp_path / "w.pth")[1] == ""


def test_equal_candidates_are_refused_with_their_keys(base: nn.Module, tmp_path: Path) -> None:
    one, two = small(base.state_dict()), {name: t * 2 for name, t in small(base.state_dict()).items()}
    torch.save({"one": one, "two": {"net": two}}, tmp_path / "w.pth")
    assert "has 2 networks, one, two.net; choose one with --state KEY" in refused(tmp_path / "w.pth")
    assert load(tmp_path / "w.pth", state="two")[0].Conv2d_1a_3x3.weights.max() == 0.5
    torch.save({f"{name}.{key}": t for name, state in (("teacher", one), ("student", two)) for key, t in state.items()},
               tmp_path / "w.pth")  # fmt: skip
    assert "has 2 networks, teacher, student" in refused(tmp_path / "w.pth")
    torch.save({"one": one, "best": one}, tmp_path / "w.pth")  # the same tensors twice
    assert load(tmp_path / "w.pth")[1] == ""


def test_state_is_refused_for_a_format_with_one_network(random_model: Any, tmp_path: Path) -> None:
    inception_v3.save(random_model(), tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"--state x: .* is a native file, which holds one network"):
        inception_v3.load(tmp_path / "m.safetensors", state="x")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_folder_of_shards_with_an_index_is_read(kind: str, base: nn.Module, features: Tensor, tmp_path: Path) -> None:
    state = {f"timm_model.{name}": tensor for name, tensor in base.state_dict().items()}
    names = list(state)
    start = "model" if kind == "safetensors" else "pytorch_model"
    write = safetensors.torch.save_file if kind == "safetensors" else torch.save
    shards = {f"{start}-{n + 1:05}-of-00002.{kind}": names[n::2] for n in range(2)}
    for file, part in shards.items():
        write({name: state[name] for name in part}, tmp_path / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / f"{start}.{kind}.index.json").write_text(json.dumps(index))
    model, _ = load(tmp_path)
    assert_logits(model, plain_head(base, features))
    (tmp_path / next(iter(shards))).unlink()
    with pytest.raises(InputError, match="there is no such file"):
        inception_v3.load(tmp_path)
    index["weight_map"]["fc.bias"] = "../other.bin"
    (tmp_path / f"{start}.{kind}.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"names \.\./other\.bin, which is not a file beside it|no such file"):
        inception_v3.load(tmp_path)


def test_a_folder_of_mlflow_is_read(base: nn.Module, features: Tensor, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "MLmodel").write_text("flavors: {pytorch: {model_data: data}}")
    torch.save(base, tmp_path / "data" / "model.pth")
    assert_logits(load(tmp_path / "data" / "model.pth")[0], plain_head(base, features))
    with pytest.warns(UserWarning, match="transform_input is off"):
        assert_logits(inception_v3.load(tmp_path), plain_head(base, features))


def test_inspect_shows_the_source_of_each_setting_of_timms_config(base: nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in small(base.state_dict()).items()}, tmp_path / "model.safetensors"
    )
    config = {"architecture": "inception_v3", "pretrained_cfg": {"crop_mode": "squash", "mean": [0.4, 0.5, 0.6]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = inspect_weights(str(tmp_path)).preprocessing
    assert facts is not None
    assert (facts["fit"].value, facts["fit"].source) == ("stretch", "config.json beside it")


def test_a_distributed_checkpoint_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    folder = tmp_path / "pytorch_model_fsdp_0"
    folder.mkdir()
    (folder / ".metadata").touch()
    for path in (tmp_path, folder, folder / "__0_0.distcp"):
        message = refused(path)
        assert "a distributed checkpoint; turn it into one file: python -m torch.distributed.checkpoint" in message
        assert message.endswith(f"dcp_to_torch {folder} model.pth")


# ------------------------------------------------------------------------------------------------- replaced heads


def hidden(*between: nn.Module, first: int = 24) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2048, first), *between, nn.Linear(first, 3))


HEADS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.3), nn.Linear(2048, 5)), {"num_classes": 5}),
    "no bias": (lambda: nn.Linear(2048, 5, bias=False), {"num_classes": 5}),
    "hidden": (lambda: hidden(nn.ReLU(), nn.Dropout(0.2)), {"hidden_units": (24,), "hidden_activation": ("relu",)}),
    "batch norm": (
        lambda: hidden(nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2)),
        {"hidden_batch_norm": "before", "hidden_batch_norm_epsilon": 1e-5},
    ),
    "batch norm after": (lambda: hidden(nn.ReLU(), nn.BatchNorm1d(24), nn.Dropout()), {"hidden_batch_norm": "after"}),
    "no activation": (lambda: hidden(), {"hidden_activation": ("linear",)}),
    "two hidden": (
        lambda: nn.Sequential(
            nn.Linear(2048, 9), nn.ReLU(), nn.Sequential(nn.Linear(9, 8), nn.ReLU()), nn.Linear(8, 2)
        ),
        {"hidden_units": (9, 8), "hidden_activation": ("relu", "relu")},
    ),
    "mixed batch norms": (
        lambda: nn.Sequential(
            nn.BatchNorm1d(2048), nn.Dropout(), nn.Linear(2048, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(),
            nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 2)
        ),
        {"hidden_units": (9, 8), "hidden_batch_norm": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("whole", [False, True], ids=["state dict", "whole model"])
@pytest.mark.parametrize("name", HEADS)
def test_a_replaced_head_gives_its_own_outputs(
    name: str, whole: bool, with_head: Callable[..., nn.Module], features: Tensor, tmp_path: Path
) -> None:
    build, settings = HEADS[name]
    network = with_head(build())
    torch.save(network if whole else network.state_dict(), tmp_path / "w.pth")
    model, lines = load(tmp_path / "w.pth")
    assert_logits(model, plain_head(network, features))
    assert dict(model.settings).items() >= settings.items()
    assert ("ReLU is assumed" in lines) == (not whole and name not in ("dropout", "no bias", "no activation"))
    assert "1000 classes" in lines


def test_a_hidden_head_is_saved_and_loaded_again(
    with_head: Callable[..., nn.Module], features: Tensor, tmp_path: Path
) -> None:
    network = with_head(hidden(nn.BatchNorm1d(24), nn.Tanh(), nn.Dropout(0.25)))
    torch.save(network, tmp_path / "w.pth")
    model, _ = load(tmp_path / "w.pth")
    assert model.settings.hidden_activation == ("tanh",)
    assert model.settings.hidden_dropout_keep_prob == 0.75
    assert model.settings.dropout_keep_prob == 0.5
    inception_v3.save(model, tmp_path / "m.safetensors")
    assert_logits(inception_v3.load(tmp_path / "m.safetensors"), plain_head(network, features))


def test_another_activation_than_relu_can_be_given_for_a_state_dict(
    with_head: Callable[..., nn.Module], features: Tensor, tmp_path: Path
) -> None:
    network = with_head(hidden(nn.Tanh()))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model, lines = load(tmp_path / "w.pth", hidden_activation="tanh")
    assert "load it in Python with hidden_activation=..." in lines
    assert_logits(model, plain_head(network, features))


class Wrapper(nn.Module):
    """As people wrap the network: the head stands outside it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.drop = nn.Dropout(0.5)
        self.classifier = randomised(nn.Sequential(nn.Linear(2048, 7), nn.ReLU(), nn.Linear(7, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.drop(self.backbone(images)))


@pytest.mark.parametrize("whole", [False, True], ids=["state dict", "whole model"])
def test_a_head_outside_the_network_is_found(
    whole: bool, with_head: Callable[..., nn.Module], features: Tensor, tmp_path: Path
) -> None:
    network = Wrapper(with_head(nn.Identity()))
    saved = {f"net.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(network if whole else {"state_dict": saved}, tmp_path / "w.pth")
    model, lines = load(tmp_path / "w.pth")
    assert "has no classifier" not in lines
    with torch.no_grad():
        assert_logits(model, network.classifier(features))


@pytest.mark.parametrize("attribute", ["last_linear", "classifier", "head"])
def test_other_names_of_the_head_are_read(attribute: str, base: nn.Module, features: Tensor, tmp_path: Path) -> None:
    state = {name.replace("fc.", f"{attribute}.") if name.startswith("fc.") else name: tensor
             for name, tensor in base.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "w.pth")
    model, _ = load(tmp_path / "w.pth")
    assert model.settings.create_aux_logits
    assert_logits(model, plain_head(base, features))


def test_a_network_without_a_head_is_a_feature_extractor(
    with_head: Callable[..., nn.Module], features: Tensor, tmp_path: Path
) -> None:
    network = with_head(nn.Identity())
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model, lines = load(tmp_path / "w.pth")
    assert "has no classifier; it is read as a feature extractor" in lines
    assert model.settings.final_endpoint == "Mixed_7c"
    assert relative(logits(model).mean((2, 3)), features) <= LIMIT


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (lambda: nn.Linear(1024, 3), r"fc\.weight with 1024 inputs, which does not fit the 2048 features"),
        (lambda: hidden(nn.LeakyReLU()), r"fc\.1 of the class LeakyReLU in its head"),
        (lambda: hidden(nn.LayerNorm(24)), r"fc\.1 of the class LayerNorm in its head"),
        (lambda: hidden(nn.ELU(alpha=0.5)), r"fc\.1 of the class ELU in its head"),
        (lambda: nn.Linear(2048, 1), "has one output, and does not determine whether a sigmoid follows it"),
    ],
)
def test_a_head_that_cannot_be_computed_is_refused_by_name(
    head: Callable[[], nn.Module], message: str, with_head: Callable[..., nn.Module], tmp_path: Path
) -> None:
    torch.save(with_head(head()), tmp_path / "w.pth")
    assert re.search(message, refused(tmp_path / "w.pth"))


def test_one_output_with_a_sigmoid_needs_no_option(with_head: Callable[..., nn.Module], tmp_path: Path) -> None:
    torch.save(with_head(nn.Sequential(nn.Linear(2048, 1), nn.Sigmoid())), tmp_path / "w.pth")
    assert load(tmp_path / "w.pth")[0].settings.output_activation == "sigmoid"
    torch.save(with_head(nn.Linear(2048, 1)), tmp_path / "w.pth")
    assert load(tmp_path / "w.pth", output_activation="sigmoid")[0].settings.output_activation == "sigmoid"


def test_a_layer_behind_the_networks_own_head_is_refused(base: nn.Module, tmp_path: Path) -> None:
    state = {f"base.{name}": tensor for name, tensor in small(base.state_dict()).items()}
    torch.save(state | {"out.weight": torch.ones(5, 1000), "out.bias": torch.ones(5)}, tmp_path / "w.pth")
    assert "has out.weight beside the network's own base.fc.weight" in refused(tmp_path / "w.pth")


def test_buffers_that_are_not_used_are_reported(base: nn.Module, tmp_path: Path) -> None:
    state = {f"base.{name}": tensor for name, tensor in small(base.state_dict()).items()}
    torch.save(state | {"threshold": torch.ones(3)}, tmp_path / "w.pth")
    assert "has tensors outside the network, which are not used: threshold" in load(tmp_path / "w.pth")[1]


def test_an_incomplete_auxiliary_head_is_left_out(base: nn.Module, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in small(base.state_dict()).items() if name != "AuxLogits.fc.bias"}
    torch.save(state, tmp_path / "w.pth")
    model, lines = load(tmp_path / "w.pth")
    assert "its auxiliary head has other layers, so it is left out" in lines
    assert not model.settings.create_aux_logits


# ------------------------------------------------------------------------------------- whole models and TorchScript


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_whole_model_is_read_without_its_classes(
    is_zip: bool, protocol: int, base: nn.Module, features: Tensor, tmp_path: Path
) -> None:
    torch.save(base, tmp_path / "w.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    with pytest.warns(UserWarning, match="its transform_input is off, so images with ImageNet's mean and std are"):
        model = inception_v3.load(tmp_path / "w.pth")
    assert model.settings.create_aux_logits
    assert model.preprocessing.mean == (0.485, 0.456, 0.406)
    assert_logits(model, plain_head(base, features))


def test_a_whole_model_keeps_its_epsilon_and_its_pool_is_checked(
    base: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in base.modules():
        if isinstance(module, nn.BatchNorm2d):
            monkeypatch.setattr(module, "eps", 0.01)
    torch.save(base, tmp_path / "w.pth")
    model, _ = load(tmp_path / "w.pth")
    with torch.no_grad():
        assert_logits(model, base(IMAGES))
    monkeypatch.setitem(base._modules, "avgpool", nn.AdaptiveMaxPool2d(1))
    torch.save(base, tmp_path / "w.pth")
    assert "its avgpool is a AdaptiveMaxPool2d" in refused(tmp_path / "w.pth")


def test_a_subclass_is_reported_since_its_own_code_is_not_run(base: nn.Module, tmp_path: Path) -> None:
    class Custom(type(base)):  # type: ignore[misc]
        pass

    Custom.__qualname__ = "Custom"
    globals()["Custom"] = Custom
    kind, base.__class__ = type(base), Custom
    try:
        torch.save(base, tmp_path / "w.pth")
    finally:
        base.__class__ = kind
    _, lines = load(tmp_path / "w.pth")
    assert "its class test_formats_torch_files.Custom is not torchvision's; it is assumed to run as" in lines


@pytest.mark.parametrize("form", ["script", "trace"])
def test_torchscript_is_read_and_a_frozen_one_is_refused_by_name(form: str, tmp_path: Path) -> None:
    network = random_peer("torchvision", torch.float32, aux=False, num_classes=3)
    program = torch.jit.script(network) if form == "script" else torch.jit.trace(network, IMAGES)
    program.save(tmp_path / "w.pt")
    model, _ = load(tmp_path / "w.pt")
    with torch.no_grad():
        assert_logits(model, network(IMAGES))
    if form == "trace":
        torch.jit.freeze(program).save(tmp_path / "frozen.pt")
        assert "a frozen TorchScript program, whose layers have lost their names" in refused(tmp_path / "frozen.pt")


def test_a_program_of_torch_export_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "w.pt2")
    message = refused(tmp_path / "w.pt2")
    assert "torch.save(torch.export.load('w.pt2').state_dict, 'model.pth')" in message


def test_a_quantised_network_is_refused_by_name(tmp_path: Path) -> None:
    """Its state dict, written by hand: PyTorch needs seconds to quantise a network."""
    packed = torch.quantize_per_tensor(torch.ones(32, 3, 3, 3), 0.1, 0, torch.qint8)
    torch.save({"Conv2d_1a_3x3.conv.weight": packed, "quant.zero_point": torch.zeros(1)}, tmp_path / "w.pth")
    assert "not an Inception V3, but a quantised network" in refused(tmp_path / "w.pth")


# ------------------------------------------------------------------------- other pickles, numbers instead of names


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", ["tensors", "arrays", "model", "arrays in torch.save"])
def test_a_file_of_pickle_dump_and_numpy_arrays_are_read(
    kind: str, protocol: int, with_head: Callable[..., nn.Module], features: Tensor, tmp_path: Path
) -> None:
    network = with_head(nn.Linear(2048, 4))
    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    content = {"tensors": network.state_dict(), "model": network}.get(kind, {"epoch": 3, "params": arrays})
    if kind == "arrays in torch.save":
        torch.save(content, tmp_path / "w.pkl", pickle_protocol=protocol)
    else:
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
    assert_logits(load(tmp_path / "w.pkl")[0], plain_head(network, features))


def numbered(network: nn.Module) -> nn.Sequential:
    """As people cut the head off: `nn.Sequential(*model.children())` without AuxLogits and `fc`."""
    return nn.Sequential(*[child for name, child in network.named_children() if name not in ("AuxLogits", "fc")])


def test_synchronised_batch_norms_are_read(base: nn.Module, features: Tensor, tmp_path: Path) -> None:
    network = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(base))
    torch.save(network, tmp_path / "w.pth")
    assert_logits(load(tmp_path / "w.pth")[0], plain_head(base, features))


@pytest.mark.parametrize("whole", [False, True], ids=["state dict", "whole model"])
def test_children_with_numbers_are_read_by_their_order(
    whole: bool, base: nn.Module, features: Tensor, tmp_path: Path
) -> None:
    head = randomised(nn.Linear(2048, 3))
    network = nn.Sequential(numbered(base), nn.Flatten(), head)
    torch.save(network if whole else {"net": network.state_dict()}, tmp_path / "w.pth")
    model, lines = load(tmp_path / "w.pth")
    assert ("its layers have numbers" in lines) == (not whole)
    with torch.no_grad():
        assert_logits(model, head(features))


def test_children_with_the_auxiliary_head_in_the_chain_are_refused(base: nn.Module, tmp_path: Path) -> None:
    torch.save(nn.Sequential(*list(base.children())[:-1]).state_dict(), tmp_path / "w.pth")
    assert "with its auxiliary head in the chain" in refused(tmp_path / "w.pth")


def test_layers_of_a_head_are_in_the_order_of_their_numbers(
    with_head: Callable[..., nn.Module], features: Tensor, tmp_path: Path
) -> None:
    """safetensors sorts by name: fc.10 before fc.2."""
    between = [each for _ in range(5) for each in (nn.ReLU(), nn.Linear(8, 8))]
    network = with_head(hidden(*between, nn.ReLU(), first=8))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert_logits(load(tmp_path / "w.safetensors")[0], plain_head(network, features))


def test_an_average_without_statistics_is_not_preferred(base: nn.Module, tmp_path: Path) -> None:
    state = small(base.state_dict())
    shadow = {name: state[name] * 2 for name, _ in base.named_parameters()}
    torch.save({"model": state, "shadow": shadow}, tmp_path / "w.pth")
    model, lines = load(tmp_path / "w.pth")
    assert model.Conv2d_1a_3x3.weights.max() == 0.25
    assert "the only complete network model is read, --state KEY chooses another" in lines


def test_one_network_of_a_pickled_ensemble_is_read(
    with_head: Callable[..., nn.Module], features: Tensor, tmp_path: Path
) -> None:
    network = with_head(nn.Linear(2048, 4))
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.fc.bias += 1
    torch.save(nn.ModuleDict({"models": nn.ModuleList([network, other])}), tmp_path / "w.pth")
    assert "has 2 networks, models.0, models.1" in refused(tmp_path / "w.pth")
    assert_logits(load(tmp_path / "w.pth", state="models.1")[0], plain_head(network, features) + 1)


class SiLUConv(nn.Module):
    """A layer of a network that is not torchvision's."""


CHANGES: dict[str, tuple[str, str, Any, str]] = {
    "stride": ("Conv2d_1a_3x3.conv", "stride", (1, 1), "its Conv2d_1a_3x3.conv has another stride than torchvision's"),
    "padding": ("Conv2d_2b_3x3.conv", "padding", (0, 0), "its Conv2d_2b_3x3.conv has another padding"),
    "ceil mode": ("maxpool2", "ceil_mode", True, "its maxpool2 has another ceil_mode"),
    "pool": ("maxpool1", "__class__", nn.AvgPool2d, "its maxpool1 is a AvgPool2d, not a MaxPool2d"),
    "norm": ("Mixed_7c.branch1x1.bn", "__class__", nn.InstanceNorm2d, "its Mixed_7c.branch1x1.bn is of the class"),
    "block": ("Mixed_5b.branch1x1", "__class__", SiLUConv, "SiLUConv, which is not a layer of torchvision's network"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_whole_model_with_other_layers_is_refused_by_their_name(
    change: str, base: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, option, value, message = CHANGES[change]
    monkeypatch.setattr(base.get_submodule(name), option, value)
    torch.save(base, tmp_path / "w.pth")
    assert message in refused(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (
            lambda fc: prune.l1_unstructured(fc, "weight", 0.3),
            "is pruned; call torch.nn.utils.prune.rem",
        ),
        (torch.nn.utils.weight_norm, "is split by weight_norm; call torch.nn.utils.remove_weight_norm"),
        (torch.nn.utils.spectral_norm, "is under spectral_norm; call torch.nn.utils.remove_spectral_norm"),
        (torch.nn.utils.parametrizations.weight_norm, "is parametrised (weight_norm, spectral_norm ...)"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_that_are_computed_are_refused_with_the_remedy(
    rewrite: Callable[[nn.Module], Any], message: str, with_head: Callable[..., nn.Module], tmp_path: Path
) -> None:
    network = with_head(nn.Linear(2048, 3))
    rewrite(network.fc)
    torch.save(small(network.state_dict()), tmp_path / "w.pth")
    assert message in refused(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("features.28.weight", "VGG"),
        ("features.denseblock1.denselayer1.norm1.weight", "DenseNet"),
        ("blocks.0.attn.qkv.weight", "a vision transformer"),
        ("inception_3a_1x1.weight", "BN-Inception (Inception V2)"),
        ("Conv2d_1a_3x3.conv.bias", "one whose BatchNorms were fused into its convolutions"),
        ("base_model.model.Conv2d_1a_3x3.conv.lora_A.default.weight", "adapted by LoRA (PEFT)"),
    ],
)
def test_other_networks_are_named(name: str, network: str, tmp_path: Path) -> None:
    torch.save({name: torch.ones(1)}, tmp_path / "w.pth")
    assert network in refused(tmp_path / "w.pth")


def test_a_tensor_beside_the_layers_is_reported_and_not_taken_for_one(base: nn.Module, tmp_path: Path) -> None:
    torch.save(small(base.state_dict()) | {"temperature": torch.ones(1)}, tmp_path / "w.pth")
    assert "has tensors outside the network, which are not used: temperature" in load(tmp_path / "w.pth")[1]


class OwnPool(nn.Module):
    """A pool without tensors, of a class that the file only names."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveMaxPool2d(1)


def test_a_pool_that_is_no_average_is_named(
    base: nn.Module, with_head: Callable[..., nn.Module], tmp_path: Path
) -> None:
    for head in (nn.Linear(4096, 3), nn.Sequential(nn.BatchNorm1d(4096), nn.Dropout(), nn.Linear(4096, 3))):
        torch.save(small(with_head(head).state_dict()), tmp_path / "w.pth")
        assert "AdaptiveConcatPool2d (fastai) or catavgmax (timm)" in refused(tmp_path / "w.pth")
    network = nn.Sequential(numbered(base)[:18], OwnPool(), nn.Flatten(), nn.Linear(2048, 3))
    torch.save(network, tmp_path / "w.pth")
    assert "has 1 of the class OwnPool in its head" in refused(tmp_path / "w.pth")


# ------------------------------------------------------------------------------------------- no code of a file runs


class Reduced:
    """An object that a pickle would create by calling `function(*args)`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


class WithState:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["path"].touch()


def test_neither_a_reduce_nor_a_setstate_nor_an_import_of_a_file_runs(base: nn.Module, tmp_path: Path) -> None:
    ran, state = tmp_path / "ran", small(base.state_dict())
    (tmp_path / "imported_by_a_pickle.py").write_text(f"open({str(ran)!r}, 'w')")
    codes: dict[str, Any] = {
        "eval": Reduced(eval, f"open({str(ran)!r}, 'w')"),
        "touch": [{"deep": (Reduced(Path.touch, ran),)}],
        "state": WithState(ran),
        "import": Reduced(__import__, "imported_by_a_pickle"),
        "nested": Reduced(torch._utils._rebuild_parameter, Reduced(Path.touch, ran), False, {}),
    }
    for name, code in codes.items():
        torch.save({"model": state, name: code}, tmp_path / "w.pth")
        assert load(tmp_path / "w.pth")[0].settings.num_classes == 1000
        torch.save({"model": state | {"fc.bias": code}}, tmp_path / "w.pth")
        assert "fc.bias is not a dense tensor" in refused(tmp_path / "w.pth")
        torch.save(code, tmp_path / "w.pth")
        refused(tmp_path / "w.pth")
    base.code = codes["eval"]
    try:
        torch.save(base, tmp_path / "w.pth")
    finally:
        del base.code
    load(tmp_path / "w.pth")
    assert not ran.exists()


def saved(content: bytes, path: Path) -> Path:
    """A file in the form before PyTorch 1.6 whose objects are this pickle."""
    start = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join([*start, content, pickle.dumps([], 2)]))
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def dictionary(value: bytes, count: int) -> bytes:
    return b"}(" + b"".join(text(f"{n}.Conv2d_1a_3x3.conv.weight") + value for n in range(count)) + b"u"


FLOAT = b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
BOMBS = {
    "copies of a dictionary": b"\x80\x02" + dictionary(b"N", 50_000) + b"q\0(" + b"ca\nB\n)Rh\0b" * 10_000 + b"t.",
    "copies of a text": b"\x80\x02"
    + text("a" * 10**7)
    + b"q\0("
    + (b"c_codecs\nencode\n(h\0" + text("latin1") + b"tR") * 1000
    + b"t.",
    "long names of classes": b"\x80\x04" + text("a" * 10**6) + b"q\0(" + b"h\0h\0\x93" * 100_000 + b"t.",
    "a huge integer": b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".",
    "many prefixes": b"\x80\x02" + FLOAT + b"K\1tQK\0K\1\x85K\1\x85\x89NtRq\0" + dictionary(b"h\0", 100_000) + b".",
    "a tensor of a negative size": b"\x80\x02" + FLOAT + b"K\1tQK\0J\xff\xff\xff\xff\x85K\1\x85\x89NtR.",
    "a tensor outside its storage": b"\x80\x02" + FLOAT + b"K\1tQK\1K\1\x85K\1\x85\x89NtR.",
    "objects": b"\x80\x02]" + b"}a" * 1_600_000 + b".",
    "lists that contain the list before them twice": b"\x80\x02]q\0" + b"]q\1(h\0h\0eq\0" * 1000 + b".",
    "a key of nested tuples": b"\x80\x02}K\1q\0" + b"(K\1K\1tq\0" + b"(h\0h\0tq\0" * 60 + b"K\2s.",
    "deep lists": b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b".",
    "a huge frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "huge bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"N.",
    "a huge string": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"N.",
    "an extension": b"\x80\x02\x82\x01.",
    "a buffer": b"\x80\x05\x97.",
    "an empty stack": b"\x80\x020000.",
    "a class whose name is a list": b"\x80\x04]]\x93.",
    "a reduce of nothing": b"\x80\x02NNR.",
    "a persistent id": b"\x80\x02NQ.",
    "a tensor of nothing": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR.",
    "a tensor of a tensor of nothing": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\0(h\0h\0h\0h\0tR.",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "objects" else name for name in BOMBS]
)  # "objects" takes 11 s; "deep lists" is refused for the same reason
def test_a_pickle_that_would_take_all_time_or_memory_is_refused(name: str, tmp_path: Path) -> None:
    path, start = saved(BOMBS[name], tmp_path / "w.pth"), time.monotonic()
    refused(path)
    path.write_bytes(BOMBS[name])  # as pickle.dump writes it
    refused(path)
    assert time.monotonic() - start < 60  # 10 s for each of the readings, on busy cores


def test_a_pickle_stops_after_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("inception_v3.weights.formats.pickled.MAX_SECONDS", -1.0)
    assert "more than" in refused(saved(b"\x80\x02N.", tmp_path / "w.pth"))


def test_a_pickle_stops_at_its_memory(tmp_path: Path) -> None:
    message = refused(saved(BOMBS["copies of a text"], tmp_path / "w.pth"))
    assert "its objects take more than 2 GiB of memory, too much for a network" in message


def test_a_storage_of_100_gb_is_not_allocated(base: nn.Module, tmp_path: Path) -> None:
    count = b"\x8a\x05" + (25 * 10**9).to_bytes(5, "little")
    content = b"\x80\x02}("
    for name, tensor in base.state_dict().items():
        numbers = [
            b"(" + b"".join(b"J" + struct.pack("<i", n) for n in of) + b"t" for of in (tensor.shape, tensor.stride())
        ]
        content += text(name) + FLOAT + count + b"tQK\0" + b"".join(numbers) + b"\x89NtR"
    message = refused(saved(content + b"u.", tmp_path / "w.pth"))
    assert "it is truncated: a tensor is not in the file" in message


# ---------------------------------------------------------------------------------------------- small images


def test_the_auxiliary_head_is_left_out_for_images_that_are_too_small_for_it(base: nn.Module, tmp_path: Path) -> None:
    torch.save(base.state_dict(), tmp_path / "w.pth")
    model, _ = load(tmp_path / "w.pth")
    images = torch.rand(1, 3, 211, 299) * 2 - 1
    with torch.no_grad():
        ours, end_points = model(images)
        assert relative(ours, base(images)) <= LIMIT
    assert "AuxLogits" not in end_points
    assert "Predictions" in end_points
    with pytest.raises(ValueError, match="leave AuxLogits out of end_points"), torch.no_grad():
        model(images, ["AuxLogits"])
    with pytest.raises(ValueError, match="auxiliary head"):
        model.train()(images)
