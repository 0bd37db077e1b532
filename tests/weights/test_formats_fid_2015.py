"""The network of 2015 that FID uses: read from and written for pytorch-fid and torch-fidelity, read from TensorFlow."""

import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import pytorch_fid.inception
import torch
import torchvision
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from conftest import recording, relative
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import GRAPH_2015, Settings
from inception_v3.support.protocol_buffers import encode
from inception_v3.weights.formats import fid_2015, graphdef_2015
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.read import Origin

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
SIZES = {"299x299": (299, 299), "139x171": (139, 171)}


def load(module: ModuleType, path: Path) -> InceptionV3:
    weights = module.read(path)
    model = InceptionV3.from_weights(weights, Origin("", path, "fid-2015"))
    model.preprocessing, model.class_names = weights.preprocessing, weights.class_names
    return model


def network_of_torchvision(num_classes: int = 1008) -> nn.Module:
    """pytorch-fid's network has the same tensors and only computes otherwise."""
    options = {"num_classes": num_classes, "aux_logits": False, "weights": None, "init_weights": False}
    return torchvision.models.inception_v3(**options)


def network_of_pytorch_fid(patch: pytest.MonkeyPatch, weights: Path) -> nn.Module:
    """Build and load the network with pytorch-fid's own function; only the download is replaced."""
    patch.setattr(
        pytorch_fid.inception, "load_state_dict_from_url", lambda url, progress: torch.load(weights, weights_only=True)
    )
    return pytorch_fid.inception.fid_inception_v3().eval()


def publish(path: Path) -> Path:
    """Write a file like the published one, with every tensor random."""
    rng = np.random.default_rng(3)
    state = network_of_torchvision().state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_var", "bn.weight")):
            values = rng.uniform(0.5, 1.5, tensor.shape)
        elif name.endswith("weight"):
            values = rng.normal(0, (2 / np.prod(tensor.shape[1:])) ** 0.5, tensor.shape)
        else:
            values = rng.normal(0, 0.1, tensor.shape)
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(np.asarray(values)))
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("published") / "pt_inception-2015-12-05.pth")


@pytest.fixture(scope="module")
def written(published: Path) -> Path:
    """The published file, read and written by this package."""
    path = published.with_name("written.pth")
    fid_2015.write(load(fid_2015, published).to_weights(), path)
    return path


# --- pytorch-fid and torch-fidelity ---


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_modules_output_the_features_and_the_logits_equal_pytorch_fids(
    published: Path, size: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = network_of_pytorch_fid(monkeypatch, published).to(dtype)
    for name, pair in against_pytorch_fid(load(fid_2015, published).to(dtype), peer, size).items():
        assert relative(*pair) <= TOLERANCE[dtype], name


def against_pytorch_fid(model: InceptionV3, peer: nn.Module, size: tuple[int, int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs of our and pytorch-fid's outputs: of every module, the pooled features and the logits."""
    theirs: dict[str, Tensor] = {}
    for name, module in peer.named_children():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: theirs.update({name: output}))
    images = torch.rand(1, 3, *size, dtype=next(peer.parameters()).dtype) * 2 - 1
    with torch.no_grad():
        theirs["Logits"] = peer(images)
        _, ours = model(images)
    theirs["AvgPool_1a"] = theirs.pop("avgpool")
    modules = {name for name in ours if name.startswith("Mixed_")}
    assert len(modules) == 11
    return {name: (ours[name], theirs[name]) for name in (*modules, "AvgPool_1a", "Logits")}


def test_a_written_file_gives_equal_features_in_pytorch_fids_class(
    published: Path, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network_of_pytorch_fid(monkeypatch, written)
    peer = pytorch_fid.inception.InceptionV3((0, 1, 2, 3), resize_input=False).eval()
    images = torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        theirs = peer(images)
        _, ours = load(fid_2015, published)(images * 2 - 1)
    for name, feature in zip(("MaxPool_3a_3x3", "MaxPool_5a_3x3", "Mixed_6e", "AvgPool_1a"), theirs, strict=True):
        assert relative(ours[name], feature) <= 1e-4, name


@pytest.mark.parametrize("file", ["published", "written"])
def test_features_and_logits_equal_torch_fidelitys(file: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(file)
    peer = FeatureExtractorInceptionV3("inception", ["2048", "logits"], feature_extractor_weights_path=str(path))
    pixels = torch.randint(0, 256, (1, 3, 299, 299), dtype=torch.uint8)
    with torch.no_grad():
        features, logits = peer(pixels)
        ours, end_points = load(fid_2015, request.getfixturevalue("published"))((pixels - 128.0) / 128)
    assert relative(end_points["AvgPool_1a"].flatten(1), features) <= 1e-4
    assert relative(ours, logits) <= 1e-4


def test_reading_and_writing_keeps_every_bit(published: Path, written: Path) -> None:
    before, after = (torch.load(path, weights_only=True) for path in (published, written))
    before = {name: tensor for name, tensor in before.items() if tensor.is_floating_point()}
    after = {name: tensor for name, tensor in after.items() if tensor.is_floating_point()}
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_a_model_without_gamma_is_written_with_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = InceptionV3(1008, mixed_7c_pool="max", global_pool=True).eval()
    fid_2015.write(model.to_weights(), tmp_path / "ones.pth")
    peer = network_of_pytorch_fid(monkeypatch, tmp_path / "ones.pth")
    assert torch.equal(peer.Mixed_5b.branch_pool.bn.weight, torch.ones(32))
    images = torch.rand(1, 3, 139, 139)
    with torch.no_grad():
        assert relative(model(images, end_points=())[0], peer(images)) <= 1e-4


# --- settings and preprocessing ---


def test_the_settings_of_2015() -> None:
    assert dict(GRAPH_2015) == dict(Settings()) | {
        "num_classes": 1008,
        "create_aux_logits": False,
        "batch_norm_scale": True,
        "count_padding": False,
        "mixed_7c_pool": "max",
        "global_pool": True,
        "image_size": (299, 299),
    }


def test_a_loaded_model_has_the_settings_of_2015_and_no_class_names(published: Path) -> None:
    model = load(fid_2015, published)
    assert model.settings == GRAPH_2015
    assert (model.class_names, model.preprocessing) == (None, Preprocessing())
    assert fid_2015.differences(model.to_weights()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"count_padding": True}, "average pools leave the padding out"),
        ({"mixed_7c_pool": "avg"}, "pools by max, this model's by avg"),
        ({"num_classes": 1000}, "1008 classes, this model 1000"),
        ({"depth_multiplier": 0.5}, "published layer widths"),
        ({"min_depth": 64}, "published layer widths"),
        ({"batch_norm_epsilon": 1e-5}, "epsilon is 0.001, this model's 1e-05"),
        ({"final_endpoint": "Mixed_6e"}, "cut at Mixed_6e"),
    ],
)
def test_each_setting_that_pytorch_fid_lacks_is_a_difference(change: dict[str, object], reason: str) -> None:
    with torch.device("meta"):
        model = InceptionV3(**dict(GRAPH_2015) | change)
    (message,) = fid_2015.differences(model.to_weights())
    assert reason in message


@pytest.mark.parametrize("scale", [{"mean": (0.485, 0.456, 0.406)}, {"std": (0.229, 0.224, 0.225)}], ids=str)
def test_another_scale_of_pixels_is_a_difference(scale: dict[str, tuple[float, float, float]]) -> None:
    with torch.device("meta"):
        model = InceptionV3(**GRAPH_2015)
    model.preprocessing = Preprocessing(**scale)
    (message,) = fid_2015.differences(model.to_weights())
    assert "[-1, 1]" in message


def test_a_model_without_all_layers_cannot_be_written(tmp_path: Path) -> None:
    model = InceptionV3(1008, final_endpoint="Mixed_6e")
    with pytest.raises(InputError, match=r"none\.pth: Mixed_7a.* does not exist"):
        fid_2015.write(model.to_weights(), tmp_path / "none.pth")
    assert list(tmp_path.iterdir()) == []


# --- other state dicts ---


def small_file(path: Path, change: Callable[[dict[str, Tensor]], object], num_classes: int = 1008) -> Path:
    """A state dict of few bytes: each tensor is a single value, expanded."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in network_of_torchvision(num_classes).state_dict().items()}
    state = {name: torch.ones(1).expand(shape) for name, shape in shapes.items() if shape}
    change(state)
    torch.save(state, path)
    return path


class Code:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch it-ran",)


def test_a_state_dict_is_recognised_by_its_1008_classes(tmp_path: Path) -> None:
    assert fid_2015.recognises(small_file(tmp_path / "file.bin", lambda state: None))
    assert not fid_2015.recognises(small_file(tmp_path / "torchvision.pth", lambda state: None, num_classes=1000))


def test_nothing_else_is_recognised_and_no_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no weights")
    (tmp_path / "empty").touch()
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"fc.weight": Code()}))
    for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "missing"):
        assert not fid_2015.recognises(path)
        assert not graphdef_2015.recognises(path)
        for module in (fid_2015, graphdef_2015):
            with pytest.raises(InputError) as caught:
                module.read(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("Mixed_6b.branch7x7dbl_3.bn.bias"), r"Mixed_6b\.branch7x7dbl_3\.bn\.bias"),
        (lambda state: state.update({"Mixed_8.conv.weight": torch.ones(1)}), r"Mixed_8\.conv\.weight"),
        (lambda state: state.update({"Conv2d_1a_3x3.conv.weight": torch.ones(32, 3, 5, 5)}), "Conv2d_1a_3x3"),
        (lambda state: state.update({"fc.bias": torch.full((1008,), torch.nan)}), r"fc\.bias"),
        (
            lambda state: state.update({"fc.weight": torch.ones(1000, 2048), "fc.bias": torch.ones(1000)}),
            "it has 1000 classes",
        ),
    ],
    ids=["missing", "extra", "shape", "nan", "classes"],
)
def test_a_tensor_that_does_not_fit_is_named_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    path = small_file(tmp_path / "bad.pth", change)
    with pytest.raises(InputError, match=rf"bad\.pth: .*{message}"):
        fid_2015.read(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = small_file(tmp_path / "cut.pth", lambda state: None)
    path.write_bytes(path.read_bytes()[:-1000])
    assert not fid_2015.recognises(path)
    with pytest.raises(InputError, match=r"cut\.pth"):
        fid_2015.read(path)


# --- TensorFlow's graph ---


def record() -> Path:
    """A folder with the graph that TensorFlow wrote, and what TensorFlow computed from it."""
    return recording("graph_def_2015.py")


@pytest.fixture(scope="module")
def recorded() -> Path:
    return record()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_modules_output_the_features_and_the_logits_equal_tensorflows(recorded: Path, dtype: torch.dtype) -> None:
    assert graphdef_2015.recognises(recorded / "graph.pb")
    for name, pair in against_tensorflow(recorded, dtype).items():
        assert relative(*pair) <= TOLERANCE[dtype], name


def against_tensorflow(recorded: Path, dtype: torch.dtype) -> dict[str, tuple[Tensor, np.ndarray]]:
    """Pairs of our and TensorFlow's outputs: of every module, the pooled features, logits and softmax."""
    model = load(graphdef_2015, recorded / "graph.pb").to(dtype)
    with np.load(recorded / "case.npz") as case:
        prefix = str(dtype).removeprefix("torch.") + "/"
        theirs = {name.removeprefix(prefix): case[name] for name in case.files if name.startswith(prefix)}
        images = torch.from_numpy(case["input"]).permute(0, 3, 1, 2).to(dtype)
    with torch.no_grad():
        _, ours = model(images)
    modules = [name for name in ours if name.startswith("Mixed_")]
    ours |= {f"mixed_{number}" if number else "mixed": ours[name] for number, name in enumerate(modules)}
    ours |= {"pool_3": ours["AvgPool_1a"], "logits": ours["Logits"], "softmax": ours["Predictions"]}
    assert len(theirs) == 14
    return {
        name: (ours[name].permute(0, 2, 3, 1) if ours[name].ndim == 4 else ours[name], value)
        for name, value in theirs.items()
    }


def test_the_scopes_are_those_of_inception_2015_12_05() -> None:
    """torch-fidelity's util_convert_inception_weights.py lists them."""
    theirs = {name: state for name, (state, _) in graphdef_2015.variables().items()}
    assert len(theirs) == 94 * 5 + 2
    known = {
        "conv": "Conv2d_1a_3x3",
        "conv_4": "Conv2d_4a_3x3",
        "mixed/conv": "Mixed_5b.Branch_0.Conv2d_0a_1x1",
        "mixed_1/tower/conv_1": "Mixed_5c.Branch_1.Conv_1_0c_5x5",
        "mixed_2/tower_2/conv": "Mixed_5d.Branch_3.Conv2d_0b_1x1",
        "mixed_3/conv": "Mixed_6a.Branch_0.Conv2d_1a_1x1",
        "mixed_3/tower/conv_2": "Mixed_6a.Branch_1.Conv2d_1a_1x1",
        "mixed_4/tower_1/conv_4": "Mixed_6b.Branch_2.Conv2d_0e_1x7",
        "mixed_8/tower/conv_1": "Mixed_7a.Branch_0.Conv2d_1a_3x3",
        "mixed_8/tower_1/conv_3": "Mixed_7a.Branch_1.Conv2d_1a_3x3",
        "mixed_9/tower/mixed/conv": "Mixed_7b.Branch_1.Conv2d_0b_1x3",
        "mixed_9/tower_1/mixed/conv_1": "Mixed_7b.Branch_2.Conv2d_0d_3x1",
        "mixed_10/tower/mixed/conv_1": "Mixed_7c.Branch_1.Conv2d_0c_3x1",
    }
    assert {scope: theirs[f"{scope}/conv2d_params"].removesuffix(".weights") for scope in known} == known
    assert theirs["conv/batchnorm/gamma"] == "Conv2d_1a_3x3.BatchNorm.gamma"
    assert theirs["softmax/weights"] == "Logits.Conv2d_1c_1x1.weights"


def test_an_imported_graph_with_other_forms_of_constants_has_equal_tensors(recorded: Path) -> None:
    plain, other = (graphdef_2015.read(recorded / name).tensors for name in ("graph.pb", "variants.pb"))
    assert {tensor.dtype for tensor in other.values()} == {torch.float64}  # since some of its constants are float64
    for name, tensor in plain.items():
        expected = tensor[:1].expand_as(tensor) if name.endswith("gamma") else tensor
        assert torch.equal(other[name], expected.double()), name


def node(name: str, op: str, value: bytes = b"", reads: str = "") -> bytes:
    attribute = encode(5, encode(1, b"value") + encode(2, encode(8, value)))
    return encode(
        1, encode(1, name.encode()) + encode(2, op.encode()) + (encode(3, reads.encode()) if reads else attribute)
    )


def tensor(shape: tuple[int, ...], values: bytes = encode(5, struct.pack("<f", 0.5)), dtype: int = 1) -> bytes:
    return encode(1, dtype) + encode(2, b"".join(encode(2, encode(1, length)) for length in shape)) + values


def small_graph(path: Path, changes: dict[str, bytes] | None = None, more: bytes = b"") -> Path:
    """A complete graph of few bytes: each variable is a single value, repeated."""
    nodes = {name: node(name, "Const", tensor(shape)) for name, (_, shape) in graphdef_2015.variables().items()}
    path.write_bytes(b"".join((nodes | (changes or {})).values()) + more)
    return path


BIAS = "softmax/biases"
BIASES = (1008,)


@pytest.mark.parametrize(("dtype", "kind"), [(19, "float16"), (14, "bfloat16"), (2, "float64")])
def test_other_floats_are_read_exactly(tmp_path: Path, dtype: int, kind: str) -> None:
    values = torch.linspace(-2, 2, 1008).to(getattr(torch, kind))
    content = encode(4, values.view(torch.uint8).numpy().tobytes())
    path = small_graph(tmp_path / "other.pb", {BIAS: node(BIAS, "Const", tensor(BIASES, content, dtype))})
    read = graphdef_2015.read(path).tensors["Logits.Conv2d_1c_1x1.biases"]
    assert torch.equal(read, values.to(torch.float64 if kind == "float64" else torch.float32))


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"mixed_3/tower/conv_2/batchnorm/beta": b""}, b"", "lacks 'mixed_3/tower/conv_2/batchnorm/beta'"),
        ({}, node("mixed_11/conv/conv2d_params", "Const"), "has 'mixed_11/conv/conv2d_params', which"),
        ({BIAS: node(BIAS, "Const", tensor((1000,)))}, b"", r"'softmax/biases' .*shape is \[1000\], not \[1008\]"),
        ({BIAS: node(BIAS, "Const", tensor((1 << 60, 1 << 60)))}, b"", "'softmax/biases' .*not"),
        ({BIAS: node(BIAS, "Const", tensor(BIASES, encode(4, bytes(4000))))}, b"", "biases' .*1000 values .*1008"),
        ({BIAS: node(BIAS, "Const", tensor(BIASES, encode(6, bytes(8))))}, b"", "biases' .*cannot be read"),
        ({BIAS: node(BIAS, "Const", tensor(BIASES, b"", 3))}, b"", "biases' .*type 3 is not a float"),
        ({BIAS: node(BIAS, "Const", tensor(BIASES, encode(5, struct.pack("<f", np.nan))))}, b"", "biases' .*NaN"),
        ({BIAS: node(BIAS, "VariableV2")}, b"", "biases' .*is a 'VariableV2', not a constant"),
        ({BIAS: node(BIAS, "Identity", reads=BIAS)}, b"", "biases' .*cycle"),
        ({BIAS: node(BIAS, "Identity", reads="gone")}, b"", "biases' .*'gone' is missing"),
        ({}, node(BIAS, "Const"), "two nodes are called 'softmax/biases'"),
        ({}, node("copy/mixed_10/tower_2/conv/conv2d_params", "Const"), "2 times, under '' and 'copy/'"),
    ],
    ids=["missing", "extra", "shape", "huge", "short", "list", "type", "nan", "variable", "cycle", "gone", "twice",
         "copies"],
)  # fmt: skip
def test_a_node_that_does_not_fit_is_named_in_one_line(
    tmp_path: Path, changes: dict[str, bytes], more: bytes, message: str
) -> None:
    path = small_graph(tmp_path / "bad.pb", changes, more)
    with pytest.raises(InputError, match=rf"^\S*bad\.pb: .*{message}.*$"):
        graphdef_2015.read(path)


def test_the_graph_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tensorflow_inception_graph.pb"
    path.write_bytes(node("conv2d0_w", "Const", tensor((7, 7, 3, 64))))
    assert not graphdef_2015.recognises(path)
    with pytest.raises(InputError, match="not the Inception V3 of 2015"):
        graphdef_2015.read(path)


def damaged(whole: bytes) -> Iterator[bytes]:
    rng = np.random.default_rng(5)
    for end in rng.integers(1, len(whole), 20):
        yield whole[:end]
    for position in rng.integers(0, len(whole), 30):
        yield whole[:position] + bytes([whole[position] ^ 1 << rng.integers(8)]) + whole[position + 1 :]


def test_a_graph_that_is_truncated_or_has_a_flipped_bit_is_refused_or_still_a_network(tmp_path: Path) -> None:
    """A GraphDef has no checksum, so that a flipped bit in a value is read as another value."""
    whole = small_graph(tmp_path / "whole.pb").read_bytes()
    path = tmp_path / "damaged.pb"
    messages = []
    for content in damaged(whole):
        path.write_bytes(content)
        graphdef_2015.recognises(path)
        try:
            graphdef_2015.read(path)
        except InputError as error:
            messages.append(str(error))
        else:
            assert len(content) == len(whole)
    assert len(messages) >= 30
    assert [line for line in messages if not line.startswith(f"{path}: ") or "\n" in line] == []
