"""What `look` computes of an image, the command, and what it refuses."""

import base64
import io
import json
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import randomise
from inception_v3 import InceptionV3, save
from inception_v3.explain.ablation import ablate
from inception_v3.explain.attribution.cams import grad_cam
from inception_v3.explain.effective_fields import effective_field
from inception_v3.explain.look.channels import strongest_channels
from inception_v3.explain.look.exported import exported_looker, open_exported_look
from inception_v3.explain.look.measure import look_at
from inception_v3.explain.look.outline import outline
from inception_v3.explain.look.result import Look, LookOptions
from inception_v3.explain.look.shown import cam_classes
from inception_v3.explain.receptive_fields import receptive_field
from inception_v3.explain.views import View
from inception_v3.inference.export import export
from inception_v3.network.architecture import with_inner
from inception_v3.network.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]
THIN: dict[str, Any] = {"num_classes": 3, "depth_multiplier": 0.1, "min_depth": 8, "image_size": 107}


def network(**options: Any) -> InceptionV3:
    model = InceptionV3(**THIN | options)
    randomise(model)
    if not options.get("final_endpoint"):
        model.class_names = ["cat", "dog", "newt"][: model.settings.class_count]
    return model.eval()


def noise(height: int = 120, width: int = 150, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def decoded(address: str) -> np.ndarray:
    content = base64.b64decode(address.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)))


def maps(look: Look, name: str) -> np.ndarray:
    """The maps of a part's strongest channels as the page has them, (channels, height, width), back as values."""
    channels = look.parts[name]
    grays = decoded(channels.sprite).reshape(-1, *channels.map_size) / 255
    low, high = (np.array(each)[:, None, None] for each in (channels.low, channels.high))
    return low + grays * (high - low)


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    return network()


@pytest.fixture(scope="module")
def view(model: InceptionV3) -> View:
    return View.of("noise.png", noise(), model.preprocessing)


@pytest.fixture(scope="module")
def look(model: InceptionV3, view: View) -> Look:
    return look_at(model, view)


@pytest.fixture(scope="module")
def outputs(model: InceptionV3, view: View) -> dict[str, torch.Tensor]:
    names = [*model.end_point_names, *model.inner_end_point_names]
    with torch.no_grad():
        return model(model.preprocess(view.image), end_points=names)[1]


def test_every_end_point_branch_and_layer_has_its_shape_and_its_strongest_channels(
    model: InceptionV3, look: Look, outputs: dict[str, torch.Tensor]
) -> None:
    table = with_inner(model.settings.end_points())
    assert {*look.parts} == {*table}
    for name, point in table.items():
        channels, values = look.parts[name], outputs[name][0]
        values = values if values.dim() == 3 else values[:, None, None]
        assert channels.shape == (point.height, point.width, point.channels)
        means = values.mean((1, 2))
        ranked = sorted(means.tolist(), reverse=True)[: 8 if "/" in name else 12]
        assert means[channels.numbers].tolist() == pytest.approx(ranked, rel=1e-3, abs=1e-4)
        assert channels.high == pytest.approx(values.amax((1, 2))[channels.numbers].tolist(), rel=1e-3, abs=1e-4)
        if channels.sprite:
            step = (np.array(channels.high) - channels.low).max() / 255
            assert np.abs(maps(look, name) - values[channels.numbers].numpy()).max() <= 0.51 * step + 1e-3
            for map, (row, column) in zip(maps(look, name), channels.peaks, strict=True):
                assert map[row, column] == map.max()


def test_the_outline_states_what_the_table_states() -> None:
    settings = Settings()
    parts, table = {part.name: part for part in outline(settings)}, with_inner(settings.end_points())
    assert {*parts} == {*table}
    for name, part in parts.items():
        point, field = table[name], receptive_field(name, settings=settings)
        assert (part.parameters, part.macs) == (point.parameters, point.macs)
        assert (part.field, part.jump, part.offset) == (field.size, field.stride, field.padding)
        assert part.parent == name.rpartition("/")[0]
    branch = parts["Mixed_5b/Branch_2"]
    assert (branch.kind, branch.built_as) == ("branch", ["1x1 64 → 3x3 96 → 3x3 96"])
    layer = parts["Mixed_6a/Branch_0/Conv2d_1a_1x1"]
    assert (layer.operation, layer.kernel, layer.stride, layer.padding, layer.in_channels) == (
        "conv",
        (3, 3),
        2,
        "VALID",
        288,
    )
    narrow = {part.name: part for part in outline(Settings(depth_multiplier=0.25, output_activation="sigmoid"))}
    assert narrow["Mixed_5b/Branch_2"].built_as == ["1x1 16 → 3x3 24 → 3x3 24"]
    assert narrow["Mixed_7c"].built_as[1] == "1x1 96 → (1x3 96 ‖ 3x1 96)"
    assert narrow["Mixed_6a"].built_as[2] == "max 3x3/2 V"
    assert narrow["AuxLogits"].built_as == ["avg 5x5/3 V → 1x1 32 → 5x5 V 192 → 1x1 1000"]
    assert narrow["Predictions"].built_as == ["sigmoid"]
    hidden = {part.name: part for part in outline(Settings(hidden_units=(64,), hidden_activation="tanh"))}
    assert (hidden["Hidden_1"].operation, hidden["Hidden_1"].built_as) == ("dense", ["1x1 64 → tanh"])
    order = [part.name for part in outline(settings) if part.name.startswith("Mixed_5b")]
    assert order[:4] == ["Mixed_5b", "Mixed_5b/Branch_0", "Mixed_5b/Branch_0/Conv2d_0a_1x1", "Mixed_5b/Branch_1"]


def test_heads_heat_maps_fields_and_branches_are_those_of_the_other_explanations(
    model: InceptionV3, view: View, look: Look, outputs: dict[str, torch.Tensor]
) -> None:
    pixels = model.preprocess(view.image)
    for head in ("Logits", "AuxLogits"):
        expected = torch.softmax(outputs[head][0], 0)
        assert [each.value for each in look.heads[head]] == pytest.approx(
            expected.sort(descending=True)[0].tolist(), abs=1e-5
        )
        assert [each.name for each in look.heads[head]] == [
            model.class_names[i] for i in expected.argsort(descending=True)
        ]
    assert [cam.index for cam in look.cams] == [each.index for each in look.main[:3]]
    for cam in look.cams:
        assert [*cam.maps] == [*model.base_end_points]
        for name in ("Conv2d_2a_3x3", "Mixed_6a", "Mixed_7c"):
            expected = grad_cam(model, pixels, torch.tensor([cam.index]), name)[0].numpy()
            assert cam.high[name] == pytest.approx(expected.max(), rel=1e-3, abs=1e-7)
            assert decoded(cam.maps[name]) / 255 * cam.high[name] == pytest.approx(
                expected, abs=0.003 * cam.high[name] + 1e-9
            )
    for name in ("Conv2d_1a_3x3", "Mixed_5b", "Mixed_7c"):
        expected = effective_field(model, pixels, name)
        assert (look.fields[name].size, look.fields[name].unit) == (expected.size, expected.unit)
        gray = np.round(expected.gradient / expected.gradient.max() * 255).astype(np.uint8)
        reduced = np.asarray(Image.fromarray(gray).reduce(2))  # the input has 107 pixels, and the page at most 100
        assert decoded(look.fields[name].map) == pytest.approx(reduced, abs=2)
    without = ablate(model, view)
    assert [each.name for each in look.silenced] == list(without.silenced)
    for each, row in zip(look.silenced, without.silenced_probability, strict=True):
        assert each.values == pytest.approx([row[prediction.index] for prediction in look.main], abs=1e-4)
        assert (each.top.name, each.top.value) == (model.class_names[row.argmax()], pytest.approx(row.max(), abs=1e-4))


def test_a_requested_class_has_heat_maps_first(model: InceptionV3, view: View, look: Look) -> None:
    least = look.main[-1]
    found = look_at(model, view, LookOptions(top=1, class_name=least.name))
    assert [each.name for each in found.cams] == [least.name, found.main[0].name]
    assert len(found.main) == 1


def test_at_most_three_classes_have_heat_maps() -> None:
    labels = ["a", "b", "c", "d", "e"]
    assert cam_classes([4, 2, 0, 1], LookOptions(), labels) == [4, 2, 0]
    assert cam_classes([4, 2, 0, 1], LookOptions(class_name="b"), labels) == [1, 4, 2]
    assert cam_classes([4, 2, 0, 1], LookOptions(class_name=2), labels) == [2, 4, 0]


def test_values_that_are_not_finite_are_counted_and_found_where_they_start(view: View) -> None:
    model = network()
    with torch.no_grad():
        model.get_submodule("Mixed_5c.Branch_1.Conv2d_0b_1x1").weights[0, 0, 0, 0] = float("nan")
    found = look_at(model, view)
    start = "Mixed_5c/Branch_1/Conv2d_0b_1x1"
    assert found.not_finite_from == start
    height, width, _ = found.parts[start].shape
    assert found.parts[start].not_finite == height * width
    assert found.parts["Mixed_5c"].not_finite == found.parts["Mixed_5c/Branch_1"].not_finite > height * width
    assert found.parts["Mixed_5b"].not_finite == 0
    assert found.parts[start].numbers != []
    assert (found.heads, found.cams, found.silenced) == ({}, [], [])
    assert {*found.missing.values()} == {"not_finite"}
    assert {"Mixed_5b"} <= {*found.fields}
    json.dumps(found.as_dict(), allow_nan=False)


def test_values_that_are_not_finite_in_the_input_are_found_in_the_image() -> None:
    model = network(image_size=75)
    model.preprocessing = replace(model.preprocessing, std=(1e-39, 1.0, 1.0))
    found = look_at(model, View.of("noise.png", noise(), model.preprocessing))
    assert found.not_finite_from == "image"


@pytest.mark.parametrize(
    ("options", "parts", "missing"),
    [
        ({"create_aux_logits": False}, 17 + 4, {"aux": "aux"}),
        ({"final_endpoint": "Mixed_6a"}, 8, {"heads": "cut"}),
        ({"hidden_units": (5,)}, 17 + 6, {}),
        ({"num_classes": 1, "output_activation": "sigmoid"}, 18 + 5, {}),
        ({"output_activation": "sigmoid"}, 18 + 5, {}),
        ({"output_activation": "none"}, 18 + 5, {}),
        ({"image_size": (80, 120), "global_pool": True}, 18 + 5, {}),
    ],
)
def test_every_kind_of_network_can_be_looked_at(options: dict[str, Any], parts: int, missing: dict[str, str]) -> None:
    model = network(**{"image_size": 75} | options)
    view = View.of("noise.png", noise(), model.preprocessing)
    found = look_at(model, view)
    assert {*found.parts} == {*with_inner(model.settings.end_points())}
    assert found.missing == missing
    if not options.get("final_endpoint"):
        with torch.no_grad():
            logits, _ = model(model.preprocess(view.image))
        assert len(found.main) == model.settings.class_count == len(found.cams)
        assert "AuxLogits" in found.heads or not model.settings.create_aux_logits
        assert len(found.silenced) == 42
        if options.get("output_activation") == "none":
            assert found.main[0].value == pytest.approx(float(logits.max()), abs=1e-4)
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_network_for_another_size_than_its_auxiliary_head_is_looked_at_without_that(view: View) -> None:
    model = network()
    model.preprocessing = model.preprocessing.at(139)
    found = look_at(model, View.of("noise.png", noise(), model.preprocessing))
    assert (found.missing, [*found.heads]) == ({"aux": "aux_size"}, ["Logits"])
    assert found.parts["Conv2d_1a_3x3"].shape[:2] == (69, 69)


def test_a_network_in_training_mode_or_with_several_predictions_is_refused(view: View) -> None:
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        look_at(network().train(), view)
    large = network(image_size=363, spatial_squeeze=False)
    with pytest.raises(ValueError, match="build it with global_pool=True"):
        look_at(large, View.of("noise.png", noise(), large.preprocessing))


def test_values_below_zero_and_equal_values_have_maps_too() -> None:
    found = strongest_channels(np.array([[[-2.0, 1.0]], [[0.0, 0.0]], [[3.0, 3.0]]]), 3)
    assert (found.numbers, found.low, found.high) == ([2, 1, 0], [0.0, 0.0, -2.0], [3.0, 0.0, 1.0])
    assert decoded(found.sprite).tolist() == [[255, 255], [0, 0], [0, 255]]
    assert (found.silent, found.low_of_all, found.high_of_all) == (1, -2.0, 3.0)


def test_a_map_that_is_too_large_for_the_page_is_reduced_but_its_peak_is_not() -> None:
    values = np.zeros((2, 400, 200))
    values[1, 399, 150] = 9
    found = strongest_channels(values, 2)
    assert (found.shape, found.map_size, found.peaks) == ((400, 200, 2), (134, 67), [(399, 150), (0, 0)])
    assert decoded(found.sprite).shape == (2 * 134, 67)


@pytest.mark.filterwarnings("error")
def test_channels_with_the_largest_finite_values_are_ranked_too() -> None:
    largest = np.finfo(np.float32).max
    found = strongest_channels(np.array([[[largest, 0.0]], [[largest, largest]]], np.float32), 2)
    assert (found.numbers, found.not_finite) == ([1, 0], 0)


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def inputs(model: InceptionV3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save(model, folder / "model.safetensors")
    export(model, folder / "model.onnx")
    for number in range(3):
        noise(seed=number).save(folder / f"{number}.png")
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def page_values(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The data of a page and of its images, as its script reads them."""
    found = re.findall(r'<script type="application/json" ([^>]*)>(.*?)</script>', file.read_text("utf-8"), re.S)
    (data,) = [json.loads(text) for kind, text in found if "id=" in kind]
    return data, [json.loads(text) for kind, text in found if "class=" in kind]


def test_the_command_writes_one_page_that_loads_nothing(inputs: Path, tmp_path: Path, command: Run) -> None:
    out = tmp_path / "page.html"
    arguments = (inputs / "model.safetensors", inputs / "0.png", inputs / "1.png", "--out", out, "--language", "zh")
    status, printed, err = command("look", *arguments, "--guess", "--top", "2", "--end-point", "Mixed_6a/Branch_1")
    assert (status, err) == (0, "")
    assert re.fullmatch(rf"{out}: 2 images, \d+\.\d MB\n", printed)
    data, images = page_values(out)
    assert [image["name"] for image in images] == data["names"] == [str(inputs / f"{number}.png") for number in (0, 1)]
    assert (data["language"], data["guess"], data["open"]) == ("zh", True, "Mixed_6a/Branch_1")
    assert [len(image["heads"]["Logits"]) for image in images] == [2, 2]
    assert (data["model"]["name"], data["model"]["classes"]) == ("model.safetensors", ["cat", "dog", "newt"])
    text = out.read_text("utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert "default-src 'none'" in text
    assert re.search(r"script-src 'sha256-[^']+'", text)


def test_a_damaged_image_among_others_is_left_out_and_counted(inputs: Path, tmp_path: Path, command: Run) -> None:
    out = tmp_path / "page.html"
    images = [inputs / name for name in ("0.png", "damaged.png", "1.png")]
    status, printed, err = command("look", inputs / "model.safetensors", *images, "--out", out, "--json")
    assert status == 3
    assert "1 of 3 images could not be read" in err
    assert "damaged.png" in err
    result = json.loads(printed)
    assert [Path(each["image"]).name for each in result["images"]] == ["0.png", "1.png"]
    assert [each["page"] for each in result["images"]] == [str(out)] * 2
    assert len(page_values(out)[1]) == 2
    out.unlink()
    status, printed, err = command("look", inputs / "model.safetensors", inputs / "damaged.png", "--out", out)
    assert (status, printed, out.exists()) == (3, "", False)


def test_a_folder_gets_a_page_of_each_image(inputs: Path, tmp_path: Path, command: Run) -> None:
    out = tmp_path / "pages"
    status, printed, err = command("look", inputs / "model.safetensors", inputs / "[01].png", "--out", out)
    assert (status, err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == ["0000-0.html", "0001-1.html"]
    assert len(printed.splitlines()) == 2
    status, _, err = command("look", inputs / "model.safetensors", inputs / "[01].png", "--out", out)
    assert status == 2
    assert "is not empty" in err
    arguments = (inputs / "model.safetensors", inputs / "[01].png", "--out", out, "--overwrite", "--json")
    result = json.loads(command("look", *arguments)[1])
    assert [Path(each["image"]).name for each in result["images"]] == ["0.png", "1.png"]
    assert [each["page"] for each in result["images"]] == [str(out / name) for name in ("0000-0.html", "0001-1.html")]
    for each in result["images"]:
        assert page_values(Path(each["page"]))[0]["names"] == [each["image"]]


def test_an_exported_file_shows_what_can_be_had_and_why_the_rest_cannot(
    inputs: Path, tmp_path: Path, command: Run, look: Look
) -> None:
    out = tmp_path / "page.html"
    status, _, err = command("look", inputs / "model.onnx", inputs / "0.png", "--out", out)
    assert status == 0, err
    data, (image,) = page_values(out)
    assert data["model"]["exported"]
    moved = {name for name in look.parts if name.endswith("/AvgPool_0a_3x3")}  # behind the convolution, which is faster
    assert {*image["parts"]} == {name for name in look.parts if not name.startswith("AuxLogits")} - moved
    for name in (
        "Mixed_5b",
        "Mixed_7c/Branch_1",
        "Mixed_6b/Branch_2/Conv2d_0d_7x1",
        "Logits/Conv2d_1c_1x1",
        "PreLogits",
    ):
        assert image["parts"][name]["high"] == pytest.approx(look.parts[name].high, rel=0.02, abs=0.02)
    assert [each["name"] for each in image["heads"]["Logits"]] == [each.name for each in look.main]
    assert [each["value"] for each in image["heads"]["Logits"]] == pytest.approx(
        [each.value for each in look.main], abs=0.01
    )
    assert [*image["cams"][0]["maps"]] == ["Mixed_7c"]
    assert image["cams"][0]["high"]["Mixed_7c"] == pytest.approx(look.cams[0].high["Mixed_7c"], rel=0.05)
    assert image["missing"] == {
        "fields": "exported_fields",
        "aux": "exported_aux",
        "silenced": "exported_silenced",
        "cams": "exported_cams",
        "parts": "exported_parts",
    }
    assert all(f"missing_{key}" in data["texts"] for key in image["missing"].values())


def test_an_exported_file_has_the_heat_map_of_a_requested_class_first(
    inputs: Path, tmp_path: Path, command: Run, look: Look
) -> None:
    least, out = look.main[-1].name, tmp_path / "page.html"
    status, _, err = command("look", inputs / "model.onnx", inputs / "0.png", "--class", least, "--out", out)
    assert status == 0, err
    assert next(each["name"] for each in page_values(out)[1][0]["cams"]) == least


@pytest.mark.parametrize(
    ("options", "outputs", "reason", "missing"),
    [
        ({"hidden_units": (5,)}, ("Logits",), "hidden", {"cams": "exported_no_cams"}),
        ({}, ("Mixed_5b",), "no_map", {"heads": "exported_heads"}),
        ({"final_endpoint": "Mixed_5b"}, ("Mixed_5b",), "no_map", {"heads": "cut"}),
    ],
)
def test_an_exported_file_without_classes_or_a_linear_head_gives_the_reason(
    tmp_path: Path, options: dict[str, Any], outputs: tuple[str, ...], reason: str, missing: dict[str, str]
) -> None:
    model, file = network(**options), tmp_path / "model.onnx"
    export(model, file, outputs=outputs)
    opened = open_exported_look(file, LookOptions())
    found = exported_looker(opened, LookOptions())(View.of("noise.png", noise(), model.preprocessing))
    assert opened.facts.no_cam_reason == reason
    assert (found.cams, {key: found.missing[key] for key in missing}) == ([], missing)
    assert bool(found.heads) == ("heads" not in missing)


def test_more_images_than_a_page_holds_are_refused_before_the_model_is_loaded(tmp_path: Path, command: Run) -> None:
    for number in range(21):
        (tmp_path / f"{number}.png").touch()
    status, printed, err = command("look", "no-model", tmp_path / "*.png", "--out", tmp_path / "page.html")
    assert (status, printed) == (2, "")
    assert "page.html: 21 images, and one page shows at most 20; give fewer images, or a folder as --out" in err


def test_more_images_in_an_archive_than_a_page_holds_are_refused_when_they_are_read(
    inputs: Path, tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["inception_v3.cli.look"], "MAX_IMAGES", 1)
    out = tmp_path / "page.html"
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in ("0.png", "1.png"):
            archive.write(inputs / name, name)
    status, printed, err = command("look", inputs / "model.safetensors", tmp_path / "images.zip", "--out", out)
    assert (status, printed, out.exists()) == (2, "", False)
    assert "page.html: 2 images, and one page shows at most 1; give fewer images" in err


def test_options_that_an_exported_file_does_not_take_are_refused(inputs: Path, tmp_path: Path, command: Run) -> None:
    for option, message in (
        (("--device", "cuda"), "--device cuda: "),
        (("--mean", "0.5"), "--mean"),
        (("--class", "bird"), "no class bird; there are cat, dog, newt"),
    ):
        arguments = (inputs / "model.onnx", inputs / "0.png", *option, "--out", tmp_path / "page.html")
        status, printed, err = command("look", *arguments)
        assert (status, printed, len(err.splitlines())) == (2, "", 1)
        assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{0}/no.png", "no.png: no such file"),
        ("{0}/0.png --class bird", "no class bird; there are cat, dog, newt"),
        ("{0}/0.png --end-point Mixed_5x", "--end-point Mixed_5x: not in model.safetensors; did you mean Mixed_5"),
        ("{0}/0.png --language fr", "--language: no such value fr; choose from en, zh"),
        ("{0}/0.png --top 0", "--top"),
        ("{0}/0.png --out page.pdf", "page.pdf: a page is saved as .html or .htm; change the suffix"),
        ("{0}/0.png --out {0}/0.png/page.html", "0.png"),
        ("{0}/0.png --patches {0}", "holds no patches; write them with `inception-v3 patches"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    inputs: Path, tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, printed, err = command("look", inputs / "model.safetensors", *arguments.format(inputs).split())
    assert (status, printed) == (2 if "0.png/page" not in arguments and "no.png" not in arguments else status, "")
    assert status in (1, 2)
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_network_without_classes_shows_its_maps_but_explains_no_class(tmp_path: Path, command: Run) -> None:
    save(network(final_endpoint="Mixed_5b"), tmp_path / "cut.safetensors")
    noise().save(tmp_path / "image.png")
    arguments = ("look", tmp_path / "cut.safetensors", tmp_path / "image.png", "--out", tmp_path / "page.html")
    status, _, err = command(*arguments, "--class", "cat")
    assert status == 2
    assert "--class cat: cut.safetensors ends at Mixed_5b and has no classes; leave it out" in err
    assert command(*arguments)[0] == 0
    data, (image,) = page_values(tmp_path / "page.html")
    assert ([*image["parts"]][-1], image["missing"]) == ("Mixed_5b/Branch_3/Conv2d_0b_1x1", {"heads": "cut"})
    assert data["model"]["classes"] == []


def test_the_images_that_excite_a_channel_are_shown_beside_it(inputs: Path, tmp_path: Path, command: Run) -> None:
    pictures, patches, out = tmp_path / "pictures", tmp_path / "patches", tmp_path / "page.html"
    for number in range(3):
        (pictures / "any").mkdir(parents=True, exist_ok=True)
        noise(seed=number).save(pictures / "any" / f"{number}.png")
    status, _, err = command(
        "patches",
        inputs / "model.safetensors",
        pictures,
        "--out",
        patches,
        "--modules",
        "Mixed_5b",
        "--engine",
        "pytorch",
    )
    assert status == 0, err
    status, _, err = command("look", inputs / "model.safetensors", inputs / "0.png", "--out", out, "--patches", patches)
    assert status == 0, err
    data, (image,) = page_values(out)
    strongest = image["parts"]["Mixed_5b"]["numbers"]
    assert {*data["patches"]} == {f"Mixed_5b:{number}" for number in strongest}
    sprite = np.asarray(Image.open(patches / "sprites" / "Mixed_5b-0000.webp").convert("RGB")).astype(float)
    number = next(each for each in strongest if each < 32)
    shown = decoded(data["patches"][f"Mixed_5b:{number}"]).astype(float)
    assert shown.shape == (48, 5 * 48, 3)
    assert np.abs(shown - sprite[number * 48 : number * 48 + 48, : 5 * 48]).mean() < 12
