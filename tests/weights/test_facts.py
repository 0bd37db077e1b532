"""What a file does not state is assumed in one line, and what its user states replaces it, in every command."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

import inception_v3
from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.load import with_classes
from inception_v3.errors import InputError
from inception_v3.weights.facts import read_class_names
from inception_v3.weights.formats.weights import imagenet_classes
from inception_v3.weights.wordnet import wordnet_ids

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def peer() -> torch.nn.Module:
    """timm's network with three classes and random weights."""
    torch.manual_seed(0)
    model = timm.create_model("inception_v3", num_classes=3).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module")
def folder(peer: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of that network, under the name and in the form of a training script."""
    folder = tmp_path_factory.mktemp("facts")
    torch.save(peer.state_dict(), folder / "w.pth")
    save_file(dict(peer.state_dict()), folder / "model.safetensors")
    (folder / "names.txt").write_text("\ufeffcat\r\ndog\r\nfox\r\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def image() -> Image.Image:
    torch.manual_seed(0)
    pixels = torch.randint(256, (37, 53, 3), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((241, 163), Image.Resampling.BICUBIC)


def load(path: Path, **facts: Any) -> tuple[inception_v3.InceptionV3, list[str]]:
    """The model, and the lines of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = inception_v3.load(path, **facts)
    return model, [str(each.message) for each in caught]


# ----------------------------------------------------------------------------------------------- what is assumed


def test_one_line_says_what_was_assumed_and_how_to_replace_it(folder: Path) -> None:
    _, (line,) = load(folder / "w.pth")
    assert "pixels in [-1, 1] are assumed (--mean and --std replace this)" in line
    assert "299x299 pixels are assumed (--image-size replaces this)" in line


def test_what_is_given_is_not_called_assumed(folder: Path) -> None:
    _, (line,) = load(folder / "w.pth", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert line.endswith("w.pth: 299x299 pixels are assumed (--image-size replaces this)")
    assert load(folder / "w.pth", mean=(0.5, 0.5, 0.5), image_size=(211, 299))[1] == []


def test_what_is_given_is_in_the_model_and_in_what_is_saved(folder: Path, tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    model, _ = load(folder / "w.pth", mean=(0.1, 0.2, 0.3), std=(1, 1, 1), class_names=names, image_size=(107, 139))
    inception_v3.save(model, tmp_path / "native.safetensors")
    for each in (model, inception_v3.load(tmp_path / "native.safetensors")):
        assert (each.preprocessing.mean, each.preprocessing.std) == ((0.1, 0.2, 0.3), (1, 1, 1))
        assert (each.class_names, each.preprocessing.image_size) == (names, (107, 139))


def test_transform_input_is_torchvisions(folder: Path) -> None:
    assert load(folder / "w.pth", transform_input=True)[0].preprocessing.mean == (0.5, 0.5, 0.5)
    model, _ = load(folder / "w.pth", transform_input=False)
    assert (model.preprocessing.mean, model.preprocessing.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std = (0.1, 0.2, 0.3), (0.9, 0.8, 0.7)
    model, _ = load(folder / "w.pth", transform_input=True, mean=mean, std=std)
    pixels = torch.rand(1, 3, 9, 9) * 255
    means, stds = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    theirs = images * (stds / 0.5).view(3, 1, 1) + ((means - 0.5) / 0.5).view(3, 1, 1)
    assert (model.preprocessing.scale(pixels) - theirs).abs().max() < 1e-5


def test_another_number_of_class_names_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"w\.pth: it has 3 classes, but --class-names .* gives 2 names"):
        load(folder / "w.pth", class_names=["a", "b"])


def test_an_auxiliary_head_for_another_size_is_left_out(tmp_path: Path) -> None:
    network = inception_v3.InceptionV3(num_classes=2, depth_multiplier=0.1, min_depth=8)
    inception_v3.save(network, tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match="its auxiliary head is not for images of 150x150, so it is left out"):
        model = inception_v3.load(tmp_path / "w.safetensors", image_size=150)
    assert (model.settings.create_aux_logits, model.preprocessing.image_size) == (False, (150, 150))


def test_one_output_needs_a_sigmoid(tmp_path: Path, peer: torch.nn.Module) -> None:
    state = peer.state_dict() | {"fc.weight": torch.ones(1, 2048), "fc.bias": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pth")
    for options in ({}, {"output_activation": "softmax"}):
        with pytest.raises(InputError, match=r"has one output, and .*; give --output sigmoid"):
            load(tmp_path / "w.pth", **options)
    model, _ = load(tmp_path / "w.pth", output_activation="sigmoid", class_names=["no", "yes"])
    assert model.class_names == ["no", "yes"]


@pytest.mark.parametrize(
    "content",
    ["cat\ndog\n", "\ufeffcat\r\ndog", '["cat", "dog"]', '{"1": "dog", "0": "cat"}', "cat\ndog".encode("utf-16")],
)
def test_a_list_of_class_names_has_any_of_these_forms(content: str | bytes, tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read_class_names(tmp_path / "names") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (b"a\n\nb", "line 2 is empty"),
        (b"\xff\xfa", "not UTF-8"),
        (b'{"1": "a"}', "without a gap"),
        (b"[1]", "must be a mapping from whole numbers to strings or a list of strings"),
    ],
)
def test_no_list_of_class_names_is_refused_in_one_line(content: bytes, fault: str, tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(InputError, match=fault) as caught:
        read_class_names(tmp_path / "names")
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------- the commands


def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["inception-v3", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        inception_v3.cli.main()
    return int(exited.value.code or 0), *capfd.readouterr()


def test_convert_writes_the_facts_and_predict_uses_them(
    folder: Path, image: Image.Image, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image.save(tmp_path / "image.png")
    facts = ("--class-names", folder / "names.txt", "--no-transform", "--output", "sigmoid", "--image-size", 139)
    status, _, errors = run(capfd, monkeypatch, "convert", folder / "w.pth", tmp_path / "native.safetensors", *facts)
    assert (status, "assumed" in errors) == (0, False)
    model = inception_v3.load(tmp_path / "native.safetensors")
    assert (model.class_names, model.settings.output_activation) == (["cat", "dog", "fox"], "sigmoid")
    assert (model.preprocessing.mean[0], model.image_size) == (0.485, (139, 139))
    outputs = [
        run(capfd, monkeypatch, "predict", *source, tmp_path / "image.png", "--engine", "pytorch", "--json")[1]
        for source in ((folder / "w.pth", *facts), (tmp_path / "native.safetensors",))
    ]
    assert json.loads(outputs[0]) == json.loads(outputs[1])


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("--mean", "1,2", "--mean 1,2: give one number, or three"),
        ("--mean", "127.5", "of pixels scaled to [0, 1]"),
        ("--std", "0", "--std 0: give one number"),
        ("--mean", "nan", "--mean nan"),
        ("--image-size", "9x", "--image-size 9x: give N, or HEIGHTxWIDTH"),
        ("--output", "tanh", "choose from softmax, sigmoid"),
    ],
)
def test_an_option_that_cannot_be_right_is_refused(
    option: str, value: str, fault: str, folder: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, errors = run(capfd, monkeypatch, "convert", folder / "w.pth", "x.safetensors", option, value)
    assert (status, fault in errors, errors.count("\n")) == (2, True, 1), errors


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_an_exported_network_states_all_facts(
    command: str, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = Path(__file__).parents[1] / "version_0_1" / "run.onnx"
    Image.new("RGB", (80, 80)).save(tmp_path / "image.png")
    data = tmp_path / "image.png" if command == "predict" else "digits"
    status, _, errors = run(capfd, monkeypatch, command, exported, data, "--mean", "0.5")
    assert (status, errors.count("\n")) == (2, 1), errors
    assert "--mean: " in errors
    assert "run.onnx is an exported network, which states it; leave it out" in errors


# ------------------------------------------------------------------------------------------------------- WordNet


def data_set(*class_names: str) -> LabelledImages:
    images = [Image.new("RGB", (1, 1))] * len(class_names)
    return LabelledImages(list(class_names), images, list(range(len(class_names))), list(class_names))


def test_folders_of_wordnet_ids_are_the_classes_of_imagenet() -> None:
    assert (len({*wordnet_ids()}), wordnet_ids()[207]) == (1000, "n02099601")
    names = imagenet_classes()
    crane_bird = 134
    for of_model, shift in ((names, 0), (["background", *names], 1)):
        images = with_classes(data_set("n01440764", wordnet_ids()[crane_bird], "n15075141"), of_model, "folder")
        assert list(images.labels) == [0 + shift, crane_bird + shift, 999 + shift]


def test_wordnet_ids_match_the_names_of_some_classes_either_way() -> None:
    assert list(with_classes(data_set("n02099601", "n01440764"), ["tench", "golden retriever"], "x").labels) == [1, 0]
    assert list(with_classes(data_set("golden retriever", "tench"), ["n01440764", "n02099601"], "x").labels) == [1, 0]
    assert list(with_classes(data_set("n02099601"), ["mine", "n02099601"], "x").labels) == [1]


# ---------------------------------------------------------------------------------------------------------- timm

ODD: list[dict[str, Any]] = [
    {"input_size": [3, 139, 139], "crop_pct": 0.9},
    {"input_size": [3, 139, 171], "interpolation": "bilinear"},
    {"input_size": [3, 171, 139], "crop_mode": "squash", "crop_pct": 0.8, "interpolation": "lanczos"},
    {"input_size": [3, 150, 150], "crop_mode": "border", "crop_pct": 0.95, "mean": [0.2, 0.4, 0.6]},
    {"input_size": [3, 150, 150], "crop_mode": "border", "crop_pct": 1.0, "interpolation": "nearest"},
    {"input_size": [3, 139, 139], "crop_pct": 1.2, "std": [0.1, 0.9, 1.0], "interpolation": "box"},
    {"interpolation": "hamming", "mean": [0.5, 0.5, 0.5]},  # the rest is PretrainedCfg's, with 224 pixels
]


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
def test_a_configuration_of_timm_is_obeyed(
    odd: dict[str, Any], flat: bool, peer: torch.nn.Module, folder: Path, image: Image.Image, tmp_path: Path
) -> None:
    labels = {"labels" if flat else "label_names": ["a", "b", "c"]}
    above = {"architecture": "inception_v3", "num_classes": 3}
    config = above | labels | odd if flat else above | labels | {"pretrained_cfg": odd}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    model, lines = load(tmp_path)
    assert lines == []
    assert model.class_names == ["a", "b", "c"]
    pretrained = timm.models.PretrainedCfg(**odd).to_dict()
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=pretrained))(image)[None]
    ours = model.preprocess(image)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-5
    assert model.preprocessing.array(image).tolist() == model.preprocessing.pixels(image).permute(1, 2, 0).tolist()
    if odd is ODD[3]:
        with torch.no_grad():
            expected, (logits, _) = peer(theirs), model(ours, ())
        assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


def written(folder: Path, tmp_path: Path, **settings: Any) -> Path:
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "inception_v3", "pretrained_cfg": settings}))
    return tmp_path


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("crop_mode", "random"),
        ("interpolation", "random"),
        ("input_size", [1, 299, 299]),
        ("global_pool", "max"),
        ("mean", [0.5, 0.5]),
        ("act_layer", "silu"),
        ("crop_pct", "x"),
    ],
)
def test_a_setting_of_timm_that_cannot_be_computed_is_refused_by_name(
    setting: str, value: Any, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"config\.json: .*{setting}"):
        load(written(folder, tmp_path, **{setting: value}))


def test_a_setting_of_timm_that_is_not_understood_is_reported(folder: Path, tmp_path: Path) -> None:
    _, lines = load(written(folder, tmp_path, my_gamma=2.2, license="mit", label_names=["one"]))
    assert [line.partition("config.json: ")[2] for line in lines] == [
        "its setting my_gamma is not understood and not used",
        "its label_names are not the names of 3 classes, and not used",
    ]
