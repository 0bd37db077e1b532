"""torchvision's and timm's Inception V3, read and written: every layer's output equals that of their own programs."""

import contextlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm as their_timm
import torch
import torchvision as their_torchvision
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import load_checkpoint
from timm.models._hub import save_for_hf
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transform

from conftest import randomise, relative
from inception_v3.errors import InputError
from inception_v3.weights.formats import state_dict_file, timm, torchvision
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.registry import recognise
from inception_v3.weights.formats.torch_file import StoredTensor
from inception_v3.weights.formats.weights import Weights
from inception_v3.weights.model import InceptionV3

AUX_SIZES = ((299, 299), (331, 309))
OTHER_SIZE = (267, 203)  # too small for the auxiliary head
LIMITS = {torch.float64: 1e-9, torch.float32: 1e-4}


def torchvision_peer(aux: bool = True, **options: Any) -> nn.Module:
    return their_torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=aux, **options).eval()


def timm_peer(aux: bool = True, **options: Any) -> nn.Module:
    return their_timm.create_model("inception_v3", aux_logits=aux, **options).eval()


PEERS: dict[str, tuple[WritableFormat, Callable[..., nn.Module]]] = {
    "torchvision": (torchvision.FORMAT, torchvision_peer),
    "timm": (timm.FORMAT, timm_peer),
}


def random_peer(name: str, dtype: torch.dtype = torch.float64, aux: bool = True, **options: Any) -> nn.Module:
    """A network of the other program with every kernel, scale, offset and statistic random."""
    peer = PEERS[name][1](aux, **options).to(dtype)
    with torch.no_grad():
        for key, tensor in peer.state_dict().items():
            if key.endswith(("running_var", "bn.weight")):
                tensor.uniform_(0.5, 1.5)
            elif key.endswith("weight"):
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
            elif key.endswith("num_batches_tracked"):
                tensor.fill_(0)
            else:
                tensor.normal_(0, 0.1)
    return peer


def build(weights: Weights) -> InceptionV3:
    with torch.device("meta"):
        model = InceptionV3(**weights.settings)
    model.load_state_dict(weights.tensors, assign=True)
    model.preprocessing = weights.preprocessing
    return model.eval()


def random_ours(**options: Any) -> InceptionV3:
    with torch.device("meta"):
        model = InceptionV3(**options)
    model.to_empty(device="cpu")  # drawing initial weights would take seconds
    randomise(model)
    return model.eval()


def read(name: str, path: Path) -> InceptionV3:
    return build(PEERS[name][0].read(path))


def save(name: str, peer: nn.Module, path: Path) -> Path:
    """Save it as the users of the other program do."""
    if name == "torchvision":
        torch.save(peer.state_dict(), path)
    else:
        safetensors.torch.save_file(peer.state_dict(), path, {"format": "pt"})
    return path


def their_end_points(peer: nn.Module, images: Tensor, aux: bool) -> dict[str, Tensor]:
    """The output of every layer of the other network, under the architecture table's names."""
    pools = iter(("MaxPool_3a_3x3", "MaxPool_5a_3x3"))
    end_points: dict[str, Tensor] = {}
    handles = []
    for child, module in peer.named_children():
        name = child
        if isinstance(module, nn.MaxPool2d):
            name = next(pools)
        elif child in ("avgpool", "global_pool"):
            name = "AvgPool_1a"
        elif not child.startswith(("Conv2d_", "Mixed_")):
            continue
        handles.append(module.register_forward_hook(lambda _, __, out, name=name: end_points.update({name: out})))
    # Of the outermost module only: torchvision then returns auxiliary logits, and dropout and BatchNorm stay in
    # evaluation mode.
    peer.training = aux
    peer.aux_logits = aux
    with torch.no_grad():
        out = peer(images)
    peer.training = False
    for handle in handles:
        handle.remove()
    end_points["Logits"], *rest = out if aux else (out,)
    return end_points | ({"AuxLogits": rest[0]} if aux else {})


def check_parity(model: InceptionV3, peer: nn.Module, size: tuple[int, int], aux: bool = False) -> None:
    for name, difference in differences(model, peer, size, aux).items():
        assert difference <= LIMITS[next(peer.parameters()).dtype], f"{name}: {difference}"


def differences(model: InceptionV3, peer: nn.Module, size: tuple[int, int], aux: bool = False) -> dict[str, float]:
    """The relative difference of each end point of the other network."""
    images = torch.rand(1, 3, *size, dtype=next(peer.parameters()).dtype) * 2 - 1
    theirs = their_end_points(peer, images, aux)
    with torch.no_grad():
        logits, ours = model(images, theirs)
    assert logits is ours["Logits"]
    assert len(theirs) == 18 + 2 + aux  # the base, the pooled features, the logits
    return {
        name: relative(*(value.flatten(1) if name == "AvgPool_1a" else value for value in (ours[name], tensor)))
        for name, tensor in theirs.items()
    }


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


# ----------------------------------------------------------------------------------------------------- the names


@pytest.mark.parametrize("aux", [True, False])
@pytest.mark.parametrize("name", PEERS)
def test_the_names_and_shapes_are_those_of_the_other_programs(name: str, aux: bool) -> None:
    with torch.device("meta"):
        theirs = PEERS[name][1](aux, num_classes=7).state_dict()
        ours = InceptionV3(num_classes=7, create_aux_logits=aux, batch_norm_scale=True).state_dict()
    names = torchvision.state_names(aux)
    assert {*names} == {key for key in theirs if not key.endswith("num_batches_tracked")}
    assert sorted(names.values()) == sorted(ours)
    assert all(theirs[key].shape == ours[name].shape[: theirs[key].dim()] for key, name in names.items())


def test_irregular_published_names_are_mapped_to_the_right_layers() -> None:
    names = torchvision.state_names(aux=True)
    assert names["Mixed_5c.branch5x5_2.conv.weight"] == "Mixed_5c.Branch_1.Conv_1_0c_5x5.weights"
    assert names["Mixed_6a.branch3x3.bn.running_var"] == "Mixed_6a.Branch_0.Conv2d_1a_1x1.BatchNorm.moving_variance"
    assert names["Mixed_7a.branch7x7x3_4.bn.weight"] == "Mixed_7a.Branch_1.Conv2d_1a_3x3.BatchNorm.gamma"
    assert names["Mixed_7b.branch3x3_2b.conv.weight"] == "Mixed_7b.Branch_1.Conv2d_0b_3x1.weights"
    assert names["AuxLogits.fc.bias"] == "AuxLogits.Conv2d_2b_1x1.biases"


# ---------------------------------------------------------------------------------- the other programs' outputs


@pytest.mark.parametrize("name", PEERS)
def test_reading_float64_gives_equal_outputs(name: str, tmp_path: Path) -> None:
    peer = random_peer(name)
    path = save(name, peer, tmp_path / "weights")
    assert PEERS[name][0].recognises(path)
    model = read(name, path)
    for size in AUX_SIZES:
        check_parity(model, peer, size, aux=True)
    check_parity(model, peer, OTHER_SIZE)


@pytest.mark.parametrize("name", PEERS)
def test_reading_float32_without_an_auxiliary_head_gives_equal_outputs(name: str, tmp_path: Path) -> None:
    peer = random_peer(name, torch.float32, aux=False, num_classes=11)
    model = read(name, save(name, peer, tmp_path / "weights"))
    assert not model.settings.create_aux_logits
    for size in (AUX_SIZES[0], OTHER_SIZE):
        check_parity(model, peer, size)


@pytest.mark.parametrize(("name", "file"), [("torchvision", "w.pth"), ("timm", "w.safetensors"), ("timm", "w.bin")])
def test_a_written_file_is_loaded_strictly_by_the_other_program_with_equal_outputs(
    name: str, file: str, tmp_path: Path
) -> None:
    model = random_ours(batch_norm_scale=True, count_padding=True, global_pool=True).double()
    format, weights = PEERS[name][0], model.to_weights()
    assert format.differences(weights) == []
    format.write(weights, tmp_path / file)
    peer = PEERS[name][1]().double()
    if name == "torchvision":
        peer.load_state_dict(torch.load(tmp_path / file, weights_only=True), strict=True)
    else:
        load_checkpoint(peer, str(tmp_path / file), strict=True)
    check_parity(model, peer, AUX_SIZES[0], aux=True)
    assert_same(read("torchvision", tmp_path / file).state_dict(), model.state_dict())  # read back bit for bit


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("aux", [True, False])
def test_reading_and_writing_is_bit_exact(name: str, aux: bool, tmp_path: Path) -> None:
    peer = random_peer(name, torch.float32, aux=aux, num_classes=3)
    path = save(name, peer, tmp_path / "theirs")
    PEERS[name][0].write(read(name, path).to_weights(), tmp_path / "ours")
    loaded = torch.load(tmp_path / "ours") if name == "torchvision" else safetensors.torch.load_file(tmp_path / "ours")
    assert_same(loaded, peer.state_dict())
    assert (
        tmp_path / "ours"
    ).stat().st_size < 1.1 * path.stat().st_size  # the storage of which tensors are views is not written


def test_a_model_without_gamma_is_written_with_ones(tmp_path: Path) -> None:
    model = random_ours(num_classes=3, create_aux_logits=False, count_padding=True, global_pool=True)
    torchvision.write(model.to_weights(), tmp_path / "w.pth")
    peer = torchvision_peer(aux=False, num_classes=3)
    peer.load_state_dict(torch.load(tmp_path / "w.pth"), strict=True)
    assert torch.equal(peer.Mixed_5b.branch1x1.bn.weight, torch.ones(64))
    check_parity(model, peer, OTHER_SIZE)


# ------------------------------------------------------------------------------------------------ preprocessing


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(3, 23, 31, generator=generator)
    return transform.to_pil_image(transform.resize(small, [431, 377], antialias=True).clamp(0, 1))


def test_images_are_prepared_as_by_torchvision(picture: Image.Image) -> None:
    preset = their_torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preset.mean, preset.std))
    difference = torchvision.PREPROCESSING.pixels(picture) - (preset(picture) * std + mean) * 255
    assert difference.abs().max() < 0.001, "equal levels of 255, but for rounding errors of the scaling"


def test_torchvisions_input_transform_undoes_its_normalisation(picture: Image.Image, tmp_path: Path) -> None:
    peer = random_peer("torchvision", torch.float32, transform_input=True)
    model = read("torchvision", save("torchvision", peer, tmp_path / "w.pth"))
    preset = their_torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.transforms()
    pixels = model.preprocessing.pixels(picture)[None]
    with torch.no_grad():
        theirs = peer(transform.normalize(pixels / 255, preset.mean, preset.std))
        ours, _ = model(model.preprocessing.scale(pixels), ())
    assert relative(ours, theirs) <= 1e-4


def test_images_normalised_for_imagenet_in_float64(tmp_path: Path) -> None:
    peer = random_peer("torchvision", aux=False, transform_input=True)
    model = read("torchvision", save("torchvision", peer, tmp_path / "w.pth"))
    pixels = torch.rand(1, 3, 139, 155, dtype=torch.float64)
    with torch.no_grad():
        theirs = peer(transform.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        ours, _ = model(pixels * 2 - 1, ())
    assert relative(ours, theirs) <= 1e-9


@pytest.mark.parametrize("variant", ["inception_v3.tf_in1k", "inception_v3.gluon_in1k"])
def test_images_are_prepared_as_by_timm(variant: str, picture: Image.Image, tmp_path: Path) -> None:
    peer = random_peer("timm", torch.float32, aux=False)
    peer.pretrained_cfg = their_timm.create_model(variant).pretrained_cfg
    save_for_hf(peer, tmp_path, safe_serialization="both")
    theirs = create_transform(**resolve_data_config({}, model=peer))(picture)[None]
    for file in ("model.safetensors", "pytorch_model.bin"):
        assert timm.recognises(tmp_path / file), "the config.json beside a pickle shows that it is timm's"
        model = read("timm", tmp_path / file)
        assert model.preprocessing.mean == peer.pretrained_cfg["mean"]
        std = torch.tensor(model.preprocessing.std).view(3, 1, 1)
        levels = ((model.preprocess(picture) - theirs) * std).abs() * 255
        assert levels.max() < 0.001


def test_a_file_with_a_thousand_classes_has_imagenet_class_names(tmp_path: Path) -> None:
    torch.save(small_state_dict(1000), tmp_path / "w.pth")
    names = torchvision.read(tmp_path / "w.pth").class_names
    assert names is not None
    assert (len(names), names[0]) == (1000, "tench")


def test_an_unusable_config_file_is_named_in_the_error(tmp_path: Path) -> None:
    torch.save(small_state_dict(), tmp_path / "w.bin")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "inception_v3", "pretrained_cfg": {"mean": [0.5, 0.5]}})
    )
    with pytest.raises(InputError, match=r"config\.json: its mean .* is not a number for each of three channels"):
        timm.read(tmp_path / "w.bin")


# -------------------------------------------------------------------------------------------------- recognising


def small_state_dict(num_classes: int = 5, aux: bool = False) -> dict[str, Tensor]:
    """A complete state dict that makes a small file: every tensor is a single value, expanded."""
    with torch.device("meta"):
        theirs = torchvision_peer(aux, num_classes=num_classes).state_dict()
    return {key: torch.full((), 0.25).expand(tensor.shape) for key, tensor in theirs.items()}


def recognised(path: Path) -> set[str]:
    return {name for name, (format, _) in PEERS.items() if format.recognises(path)}


def test_a_file_is_recognised_by_its_content(tmp_path: Path) -> None:
    torch.save(small_state_dict(), tmp_path / "a.safetensors")
    assert recognised(tmp_path / "a.safetensors") == {"torchvision"}
    half = {key: tensor.half().contiguous() for key, tensor in small_state_dict().items()}
    safetensors.torch.save_file(half, tmp_path / "a.pth")
    assert recognised(tmp_path / "a.pth") == {"timm"}
    safetensors.torch.save_file(half, tmp_path / "a.pth", {"format": "inception_v3"})
    assert recognised(tmp_path / "a.pth") == set()


def test_1008_classes_belong_to_torchvision_only_with_an_auxiliary_head(tmp_path: Path) -> None:
    torch.save(small_state_dict(1008), tmp_path / "fid.pth")
    assert recognise(tmp_path / "fid.pth").name == "fid-2015"
    torch.save(small_state_dict(1008, aux=True), tmp_path / "aux.pth")
    assert recognise(tmp_path / "aux.pth").name == "torchvision"


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x80\x06", b"\xff" * 7 + b"\x7f{", b"{" * 100, b"text"])
def test_other_files_are_not_recognised(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    assert recognised(tmp_path / "w.pth") == recognised(tmp_path) == recognised(tmp_path / "none") == set()
    refuse(tmp_path / "w.pth", "cannot be read")


# -------------------------------------------------------------------------------------------- forms of a state dict


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "state_dict_ema"])
def test_wrappers_and_prefixes_are_removed(wrapper: str, tmp_path: Path) -> None:
    wrapped = {f"module.{key}": tensor for key, tensor in small_state_dict(aux=True).items()}
    torch.save({"epoch": 3, wrapper: wrapped}, tmp_path / "w.pth")
    assert recognised(tmp_path / "w.pth") == {"torchvision"}
    assert torchvision.read(tmp_path / "w.pth").settings.create_aux_logits


def test_torchs_old_pickles_and_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.save(small_state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(small_state_dict(), tmp_path / "unsummed.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    for file in ("old.pth", "unsummed.pth"):
        assert recognised(tmp_path / file) == {"torchvision"}
        assert torchvision.read(tmp_path / file).settings.num_classes == 5


def test_half_and_bfloat16_become_float32(tmp_path: Path) -> None:
    state = small_state_dict()
    state["fc.bias"] = state["fc.bias"].to(torch.bfloat16)
    state["fc.weight"] = state["fc.weight"].half()
    state["Conv2d_1a_3x3.bn.bias"] = state["Conv2d_1a_3x3.bn.bias"].double()
    torch.save(state, tmp_path / "w.pth")
    tensors = torchvision.read(tmp_path / "w.pth").tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert torch.equal(tensors["Logits.Conv2d_1c_1x1.biases"], torch.full((5,), 0.25))


# ---------------------------------------------------------------------------------------------------- bad input


def refuse(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        torchvision.read(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"Mixed_6b.branch7x7_2.bn.running_var": None}, r"lacks Mixed_6b\.branch7x7_2\.bn\.running_var;"),
        ({"fc2.weight": torch.zeros(3)}, r"has the unknown fc2\.weight"),
        ({"fc.bias": torch.zeros(6)}, r"has fc\.bias of shape \(6,\) for 5 outputs"),
        ({"fc.bias": torch.zeros(0)}, r"has fc\.bias of shape \(0,\) for 5 outputs"),
        ({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 1, 3, 3)}, r"Conv2d_1a_3x3\.conv\.weight has shape \(32, 1"),
        ({"fc.bias": torch.tensor(0.0).expand(10**6, 10**6)}, r"has fc\.bias of shape"),
        ({"fc.bias": 5}, r"fc\.bias is not a dense tensor"),
        ({"fc.bias": torch.zeros(5).to_sparse()}, r"fc\.bias is not a dense tensor"),
        ({"fc.bias": torch.zeros(5, device="meta")}, r"fc\.bias is not a dense tensor"),
        ({"fc.bias": torch.zeros(5, dtype=torch.int64)}, r"fc\.bias is torch\.int64, not floats"),
        ({"Mixed_7c.branch_pool.bn.bias": torch.full((192,), torch.nan)}, r"Mixed_7c\.branch_pool\.bn\.bias holds NaN"),
        ({"fc.bias": torch.full((5,), -torch.inf)}, r"fc\.bias holds NaN or infinity"),
        ({"fc.bias": torch.full((5,), 1e300, dtype=torch.float64)}, r"fc\.bias holds NaN or infinity"),  # in float32
    ],
)
def test_variables_that_do_not_fit_are_named(change: dict[str, Any], match: str, tmp_path: Path) -> None:
    state = {key: value for key, value in (small_state_dict() | change).items() if value is not None}
    torch.save(state, tmp_path / "w.pth")
    refuse(tmp_path / "w.pth", match)


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("inception_v4", "Inception V4"),
        ("resnet18", "ResNet"),
        ("inception_resnet_v2", "Inception-ResNet V2"),
        ("googlenet", r"GoogLeNet \(Inception V1\)"),
    ],
)
def test_other_networks_are_refused_by_name(network: str, name: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        if network == "googlenet":  # Inception V1
            model = their_torchvision.models.googlenet(weights=None, init_weights=False)
        else:
            model = their_timm.create_model(network)
    torch.save({key: torch.zeros(()).expand(t.shape) for key, t in model.state_dict().items()}, tmp_path / "w.pth")
    refuse(tmp_path / "w.pth", f"not an Inception V3, but {name}")


class Malicious:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("saver", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what, 2))])
def test_code_in_a_pickle_does_not_run(saver: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    saver(Malicious(tmp_path / "ran"), path)
    refuse(path, "holds code|cannot be read")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {1: torch.zeros(1)}, torch.zeros(3), {}])
def test_a_pickle_that_is_not_a_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    refuse(tmp_path / "w.pth", "not a state dict|not an Inception V3")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path / "none.pth", "there is no such file")


@pytest.fixture(scope="module", params=["zip", "pickle", "safetensors"])
def bytes_of_a_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "w"
    state = {"fc.bias": torch.full((50,), 0.25), "fc.weight": torch.full((50, 8), 0.25)}
    if request.param == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=request.param == "zip")
    return path.read_bytes()


def test_a_truncated_file_is_refused(bytes_of_a_file: bytes, tmp_path: Path) -> None:
    for twentieths in range(20):
        (tmp_path / "w").write_bytes(bytes_of_a_file[: len(bytes_of_a_file) * twentieths // 20])
        recognised(tmp_path / "w")  # raises nothing
        refuse(tmp_path / "w", "cannot be read")


def test_flipped_bits_are_refused_or_harmless(bytes_of_a_file: bytes, tmp_path: Path) -> None:
    """Only a zip has checksums of the values, so that there no changed value passes."""
    for position in torch.randint(len(bytes_of_a_file), (300,)).tolist():
        damaged = bytearray(bytes_of_a_file)
        damaged[position] ^= 1 << position % 8
        (tmp_path / "w").write_bytes(damaged)
        recognised(tmp_path / "w")  # raises nothing
        with contextlib.suppress(InputError):
            file = state_dict_file.open_file(tmp_path / "w")
            root = file.root if isinstance(file.root, dict) else {}  # a flipped bit can make it another object
            tensors = [file.read(name, each) for name, each in root.items() if isinstance(each, StoredTensor)]
            if bytes_of_a_file.startswith(b"PK"):
                assert all(bool((tensor == 0.25).all()) for tensor in tensors)


def test_a_flipped_bit_in_the_values_of_a_zip_is_refused(tmp_path: Path) -> None:
    state = small_state_dict() | {"fc.bias": torch.full((5,), 1234.5)}
    torch.save(state, tmp_path / "w.pth")
    content = bytearray((tmp_path / "w.pth").read_bytes())
    content[content.index(torch.tensor(1234.5).numpy().tobytes())] ^= 1
    (tmp_path / "w.pth").write_bytes(content)
    refuse(tmp_path / "w.pth", r"cannot be read \(BadZipFile: Bad CRC-32")


def test_declared_sizes_beyond_the_file_are_refused(tmp_path: Path) -> None:
    header = json.dumps(
        {"fc.bias": {"dtype": "F32", "shape": [10**9, 10**3], "data_offsets": [0, 4 * 10**12]}}
    ).encode()
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    refuse(tmp_path / "w", "cannot be read")
    (tmp_path / "w").write_bytes((2**62).to_bytes(8, "little") + header)
    refuse(tmp_path / "w", "cannot be read")


def test_a_zip_whose_pickle_declares_a_huge_tensor_is_refused(tmp_path: Path) -> None:
    torch.save(small_state_dict() | {"fc.bias": torch.ones(70_001)}, tmp_path / "small")
    small, huge = ((b"J" + number.to_bytes(4, "little")) for number in (70_001, 2**31 - 1))
    with zipfile.ZipFile(tmp_path / "small") as source, zipfile.ZipFile(tmp_path / "w.pth", "w") as changed:
        for record in source.namelist():
            content = source.read(record)
            if record.endswith("data.pkl"):
                assert content.count(small) == 2  # the storage, and the tensor
                content = content.replace(small, huge)
            changed.writestr(record, content)
    refuse(tmp_path / "w.pth", "for 5 outputs")
    file = state_dict_file.open_file(tmp_path / "w.pth")
    with pytest.raises(InputError, match="a tensor is not in the file"):
        file.read("fc.bias", file.root["fc.bias"])


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    torch.save(small_state_dict(), tmp_path / "small")
    with (
        zipfile.ZipFile(tmp_path / "small") as source,
        zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as changed,
    ):
        for record in source.namelist():
            changed.writestr(record, source.read(record))
    refuse(tmp_path / "w.pth", "compressed records")


# ----------------------------------------------------------------------------------------------------- differences


FITS = {"num_classes": 3, "batch_norm_scale": True, "count_padding": True, "global_pool": True}


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        ({}, []),
        ({"batch_norm_scale": False}, []),
        ({"create_aux_logits": False}, []),
        ({"global_pool": False}, []),  # at 299 pixels the window of 8x8 is the whole map
        ({"global_pool": False, "image_size": 331}, ["averages the whole last map"]),
        ({"count_padding": False}, ["average pools count the padding"]),
        ({"mixed_7c_pool": "max"}, ["pools by avg, this model's by max"]),
        ({"batch_norm_epsilon": 1e-5}, ["epsilon is 0.001, this model's 1e-05"]),
        ({"depth_multiplier": 0.5}, ["published layer widths"]),
        ({"image_size": 107}, ["cannot hold an auxiliary head"]),
        ({"final_endpoint": "Mixed_6e"}, ["cannot hold a network cut at Mixed_6e"]),
        ({"count_padding": False, "mixed_7c_pool": "max"}, ["count the padding", "pools by avg"]),
    ],
)
@pytest.mark.parametrize("name", PEERS)
def test_each_setting_that_the_program_lacks_is_a_difference(
    name: str, options: dict[str, Any], reasons: list[str]
) -> None:
    with torch.device("meta"):
        model = InceptionV3(**FITS | options)
    messages = PEERS[name][0].differences(model.to_weights())
    assert len(messages) == len(reasons), messages
    assert all(reason in message for reason, message in zip(reasons, messages, strict=True))


@pytest.mark.parametrize("name", PEERS)
def test_another_scaling_of_images_is_a_difference(name: str) -> None:
    with torch.device("meta"):
        model = InceptionV3(**FITS)
    model.preprocessing = type(model.preprocessing)(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert re.search(r"\[-1, 1\]", *PEERS[name][0].differences(model.to_weights()))


@pytest.mark.parametrize("options", [{"depth_multiplier": 0.1}, {"final_endpoint": "Mixed_5b"}])
@pytest.mark.parametrize("name", PEERS)
def test_a_network_that_the_format_cannot_hold_is_refused_and_nothing_is_written(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"before")
    with pytest.raises(InputError, match=re.escape(f"{path}: ")):
        PEERS[name][0].write(InceptionV3(**FITS | options).to_weights(), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_auxiliary_head_for_small_images_is_left_out(tmp_path: Path) -> None:
    model = random_ours(**FITS, image_size=107)
    torchvision.write(model.to_weights(), tmp_path / "w.pth")
    assert not torchvision.read(tmp_path / "w.pth").settings.create_aux_logits
