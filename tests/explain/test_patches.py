"""The images and positions that excite each channel most."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inception_v3 import InceptionV3, load, save
from inception_v3.errors import InputError
from inception_v3.explain import find_patches
from inception_v3.explain.patches import search as search_module
from inception_v3.explain.patches.cut import SIDE, cut_equal_boxes
from inception_v3.explain.patches.fields import measure_fields, module_names, typical_fields
from inception_v3.explain.patches.found import COUNT
from inception_v3.explain.patches.images import ImageSet, LabelledSource, find_images
from inception_v3.explain.patches.search import search
from inception_v3.explain.patches.top import NO_IMAGE, TopList
from inception_v3.explain.views import View
from inception_v3.images.find import ImageSource
from inception_v3.inference.choose import describe_opened, open_model
from inception_v3.inference.engines.graph import add_peaks, build_graph, swap_pools
from inception_v3.inference.engines.pytorch import PyTorchEngine
from inception_v3.inference.engines.registry import load_engine
from inception_v3.inference.export import export
from inception_v3.network.settings import Settings

Run = Callable[..., tuple[int, str, str]]
FILES = 12
MODULES = ("Mixed_5b", "Mixed_6a", "Mixed_7c")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and images in two class folders with hostile names."""
    folder = tmp_path_factory.mktemp("patches")
    torch.manual_seed(0)
    model = InceptionV3(num_classes=3, depth_multiplier=0.2, image_size=107)
    model.class_names = ["cat", "dog", "<b>"]
    save(model, folder / "model.safetensors")
    generator = np.random.default_rng(0)
    for number in range(FILES):
        path = folder / "images" / ("<b>x" if number % 3 else "do&g") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (10, 10, 3), np.uint8)
        Image.fromarray(pixels).resize((200, 150)).save(path)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> InceptionV3:
    return load(folder / "model.safetensors")


@pytest.fixture
def run(folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `patches` in the folder: exit status, standard output, standard error."""
    monkeypatch.chdir(folder)
    return partial(command, "patches")


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "patches.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def arrays(*images: np.ndarray) -> ImageSet:
    """Images in memory, called 0, 1, 2 ..., without classes."""

    def read() -> Iterator[LabelledSource]:
        return (LabelledSource(str(i), None, ImageSource(str(i), pixels)) for i, pixels in enumerate(images))

    return ImageSet("arrays", read, len(images), has_classes=False)


# ------------------------------------------------------------------------------------------------ the engines


def test_the_whole_network_has_10048_channels_in_11_modules() -> None:
    points = {point.name: point.channels for point in Settings().end_points()}
    assert len(module_names(Settings())) == 11
    assert sum(points[name] for name in module_names(Settings())) == 10_048


@pytest.mark.parametrize("name", ["pytorch", "onnxruntime", "openvino", "ncnn"])
def test_an_engine_finds_the_first_largest_value_of_each_channel(model: InceptionV3, name: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 107, 107, 3), np.uint8)
    pixels[2] = 90  # one colour: equal values in all positions but those at the border
    graph = swap_pools(build_graph(model, outputs=("Logits", *MODULES)))
    engine = load_engine(name)
    device = engine.resolve_device("cpu")
    maps, peaks = (engine(each, "fp32", device).run(pixels) for each in (graph, add_peaks(graph, MODULES)))
    assert list(peaks) == ["Logits", *(f"{name}/{kind}" for name in MODULES for kind in ("peak", "place"))]
    for module in MODULES:
        flat = maps[module].reshape(*maps[module].shape[:2], -1)
        assert peaks[f"{module}/peak"] == pytest.approx(flat.max(2), abs=1e-6)
        assert (peaks[f"{module}/place"] == flat.argmax(2)).mean() > 0.999  # rounding may decide between equal ones
    assert peaks["Logits"] == pytest.approx(maps["Logits"], abs=1e-5)


def test_places_are_exact_in_bf16() -> None:
    torch.manual_seed(0)
    model = InceptionV3(num_classes=2, depth_multiplier=0.1, image_size=299, final_endpoint="Mixed_5b").eval()
    pixels = np.random.default_rng(1).integers(0, 256, (1, 299, 299, 3), np.uint8)
    graph = add_peaks(build_graph(model, outputs=["Mixed_5b"]), ["Mixed_5b"])
    places = PyTorchEngine(graph, "bf16").run(pixels)["Mixed_5b/place"]
    assert places.max() > 1000
    assert (places[places > 256] % 2 == 1).any()  # which bf16 cannot hold


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_exported_files_find_them_too(folder: Path, model: InceptionV3, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"model{suffix}"
    export(load(folder / "model.safetensors"), file)
    exported = find_patches(file, folder / "images", MODULES, per_class=True)
    own = find_patches(folder / "model.safetensors", folder / "images", MODULES, per_class=True, engine="onnxruntime")
    assert exported.numpy() == pytest.approx(own.numpy(), abs=1e-5, nan_ok=True)
    assert (exported.places == own.places).mean() > 0.99
    assert exported.groups[0].field == typical_fields(["Mixed_5b"])["Mixed_5b"]


def test_an_exported_file_without_the_module_is_refused(folder: Path, tmp_path: Path) -> None:
    export(load(folder / "model.safetensors"), tmp_path / "short.onnx", outputs=["Mixed_5d"])
    with pytest.raises(InputError, match=r"short.onnx: has no map Mixed_7c; give the model itself, or export it again"):
        find_patches(tmp_path / "short.onnx", folder / "images", ["Mixed_7c"])


def test_maps_of_an_engine_that_cannot_reduce_them_are_reduced_outside(folder: Path, model: InceptionV3) -> None:
    images, fields = find_images(str(folder / "images")), dict.fromkeys(MODULES, 31)
    graph = swap_pools(build_graph(model, outputs=MODULES))
    results = []
    for each in (graph, add_peaks(graph, MODULES)):
        opened = describe_opened(model, each, PyTorchEngine(each), "fp32", "")
        results.append(search(opened, images, MODULES, fields))
    assert (results[0].numpy() == pytest.approx(results[1].numpy(), nan_ok=True)) is True
    assert (results[0].numbers == results[1].numbers).all()
    assert (results[0].places == results[1].places).all()


# ------------------------------------------------------------------------------------------------- the top list


def test_the_list_keeps_the_largest_values_and_of_equal_ones_the_earlier_images() -> None:
    values = np.random.default_rng(0).integers(0, 30, (200, 50)).astype(np.float32)  # many are equal
    top = TopList(50, COUNT, 0.0)
    for image, row in enumerate(values):
        top.add(image, row, np.full(50, 7 * image))
    for channel in range(50):
        order = np.argsort(-values[:, channel], kind="stable")[:COUNT]
        assert top.images[channel].tolist() == order.tolist()
        assert top.values[channel].tolist() == values[order, channel].tolist()
        assert top.places[channel].tolist() == (7 * order).tolist()


def test_values_of_zero_and_fewer_images_than_the_list_leave_it_partly_empty() -> None:
    top = TopList(2, COUNT, np.array([0, -np.inf], np.float32))
    for image, values in enumerate(([0.0, -3.0], [2.0, -5.0], [0.0, -4.0])):
        top.add(image, np.array(values), np.zeros(2))
    assert top.images[0].tolist() == [1] + 8 * [NO_IMAGE]
    assert top.images[1].tolist() == [0, 2, 1] + 6 * [NO_IMAGE]


def test_memory_holds_only_the_names_of_listed_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "HELD_NAMES", 20)
    groups = (search_module.Group("Mixed_5b", slice(0, 4), 5, 31),)
    found = search_module._Found(groups)
    for number in range(2000):  # each image is larger than all before it
        source = LabelledSource(str(number), None, ImageSource(str(number), b""))
        values = np.full(4, number + 1, np.float32)
        found.add(number, source, {"values": values, "places": values, "content": np.uint64(number)})
        assert len(found._sources) <= 21
    assert set(found.top.images.ravel().tolist()) <= set(found._sources)


# ------------------------------------------------------------------------------------------------- the search


def test_the_table_equals_a_search_through_all_maps_in_float64(
    run: Run, folder: Path, model: InceptionV3, tmp_path: Path
) -> None:
    status, printed, err = run("model.safetensors", "images", "--out", tmp_path / "out", "--per-class", "--json")
    assert status == 0, err
    names = module_names(model.settings)
    files = sorted((folder / "images").glob("*/*.png"))
    double = load(folder / "model.safetensors").double().eval()
    maps: dict[str, list[np.ndarray]] = {name: [] for name in (*names, "Logits")}
    for file in files:
        with Image.open(file) as image, torch.no_grad():
            net = model.preprocessing.scale(model.preprocessing.pixels(image).double()[None])
            outputs = double(net, end_points=[*names, "Logits"])[1]
        for name in maps:
            maps[name].append(outputs[name].numpy()[0])
    rows = read_table(tmp_path / "out")
    numbers = {f"{file.parent.name}/{file.name}": number for number, file in enumerate(files)}
    written = {(row["module"], int(row["channel"]), int(row["rank"])): row for row in rows}
    assert len(written) == len(rows)
    count = 0
    for name, values in maps.items():
        flat = np.stack(values).reshape(FILES, len(values[0]), -1)
        for channel in range(flat.shape[1]):
            peaks = flat[:, channel].max(1)
            order = np.argsort(-peaks, kind="stable")[:COUNT]
            order = order if name == "Logits" else order[peaks[order] > 0]
            for rank, image in enumerate(order.tolist(), 1):
                row = written[name, channel, rank]
                count += 1
                tolerance = 1e-4 * abs(peaks[order[0]]) + 1e-7
                assert abs(float(row["value"]) - peaks[image]) <= tolerance  # approx would take seconds
                chosen = numbers[row["image"]]
                assert row["class"] == files[chosen].parent.name
                place = 0
                if name != "Logits":
                    place = int(row["row"]) * values[0].shape[2] + int(row["column"])
                assert abs(flat[chosen, channel, place] - peaks[image]) <= tolerance
            images = [written[name, channel, rank]["image"] for rank in range(1, len(order) + 1)]
            assert len(set(images)) == len(images)
    assert count == len(rows)
    result = json.loads(printed)
    assert result["images"] == FILES
    assert list(result["modules"]) == [*names, "Logits"]


def seeing_network() -> InceptionV3:
    """A network whose channel 0 of Mixed_5b is the largest red value, 0 to 1, near each position, and nothing else."""
    model = InceptionV3(num_classes=2, depth_multiplier=0.1, min_depth=8, image_size=107, final_endpoint="Mixed_5b")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weights"):
                parameter.zero_()
                if "Branch" not in name or "Branch_0" in name:
                    parameter[0, 0, parameter.shape[2] // 2, parameter.shape[3] // 2] = 1
    return model.eval()


@pytest.mark.parametrize("place", [(20, 30), (0, 0), (80, 100), (45, 112)])
def test_a_planted_pattern_is_found_where_it_is(place: tuple[int, int], tmp_path: Path) -> None:
    model = seeing_network()
    generator = np.random.default_rng(3)
    images = [generator.integers(0, 140, (120, 160, 3), np.uint8) for _ in range(20)]
    view = View.of("", Image.fromarray(images[13]), model.preprocessing)
    top, left = (max(place[0], int(view.box[1]) + 1), max(place[1], int(view.box[0]) + 1))
    images[13][top : top + 12, left : left + 12] = (255, 0, 0)
    opened = open_model(model, outputs=(), peaks=["Mixed_5b"])
    result = search(opened, arrays(*images), ["Mixed_5b"], {"Mixed_5b": 41})
    assert result.numbers[0, 0] == 13
    result.save(tmp_path)
    row = read_table(tmp_path)[0]
    assert (row["image"], row["rank"]) == ("13", "1")
    box = [float(row[edge]) for edge in ("left", "top", "right", "bottom")]
    assert box[0] - 1 <= left + 6 <= box[2] + 1
    assert box[1] - 1 <= top + 6 <= box[3] + 1
    assert 0 <= box[0] < box[2] <= 160
    with Image.open(tmp_path / "sprites" / "Mixed_5b-0000.webp") as sprite:
        patch = np.asarray(sprite.convert("RGB"))[:SIDE, :SIDE].astype(int)
    assert (patch[..., 0] - patch[..., 1] > 150).sum() > 20


def test_an_image_that_is_there_twice_counts_once(folder: Path) -> None:
    pixels = [np.random.default_rng(seed).integers(0, 256, (107, 107, 3), np.uint8) for seed in range(4)]
    opened = open_model(load(folder / "model.safetensors"), outputs=(), peaks=MODULES)
    twice = search(opened, arrays(*pixels, *pixels, pixels[0]), MODULES, dict.fromkeys(MODULES, 31), batch_size=3)
    once = search(opened, arrays(*pixels), MODULES, dict.fromkeys(MODULES, 31))
    assert (twice.count, twice.duplicates, once.duplicates) == (9, 5, 0)
    assert (twice.numbers == once.numbers).all()


def test_the_most_frequent_class_of_a_row_is_named(folder: Path) -> None:
    result = find_patches(folder / "model.safetensors", folder / "images", ["Mixed_7c"])
    classes = [result.sources[number][1] for number in result.numbers[0].tolist() if number != NO_IMAGE]
    top = result.top_class(0)
    assert top is not None
    assert top[1] == max(classes.count(name) for name in classes)
    assert classes.count(top[0]) == top[1]


def test_results_are_shown_in_notebooks_and_plotted(folder: Path) -> None:
    result = find_patches(folder / "model.safetensors", folder / "images", ["Mixed_7c"], per_class=True)
    assert "<td>Mixed_7c</td><td>406</td>" in result._repr_html_()
    assert len(result.plot("Logits:dog").axes) == COUNT
    assert result.numpy().shape == (409, COUNT)
    for name, message in (
        ("Mixed_7b:1", "no end point 'Mixed_7b' in this network"),
        ("Mixed_7c:406", "Mixed_7c has the channels 0 to 405"),
        ("Logits:dgo", "no class dgo; did you mean dog"),
    ):
        with pytest.raises((ValueError, InputError), match=message):
            result.plot(name)


def test_fields_are_those_of_the_effective_receptive_fields(folder: Path, model: InceptionV3) -> None:
    from inception_v3.explain import effective_field

    images = find_images(str(folder / "images"))
    prepared = [model.preprocess(source.open()) for _, source in zip(range(2), images.read(), strict=False)]
    expected = effective_field(model, torch.cat(prepared), "Mixed_6a").size
    assert measure_fields(model, images, ["Mixed_6a"]) == {"Mixed_6a": max(expected, 16)}


# ------------------------------------------------------------------------------------------------- the patches


def test_a_patch_shows_the_original_image_in_its_own_pixels() -> None:
    pixels = np.zeros((400, 600, 3), np.uint8)
    pixels[100:200, 300:400] = 255
    view = View("", Image.fromarray(pixels), (100.0, 0.0, 500.0, 400.0))  # a centre crop, as 100x100
    patches, boxes = cut_equal_boxes(view, (100, 100), np.array([(50, 25, 75, 50), (0, 0, 25, 25)]))
    assert boxes.tolist() == [[300, 100, 400, 200], [100, 0, 200, 100]]
    assert patches[0, 1:-1, 1:-1].min() > 250  # resizing mixes the borders with what is beyond
    assert patches[1].max() < 5


def test_a_patch_is_gray_outside_what_the_network_sees() -> None:
    view = View("", Image.new("RGB", (600, 400), "white"), (100.0, 0.0, 500.0, 400.0))
    boxes = np.array([(-10, -10, 10, 10), (-30, -30, -10, -10), (90, 40, 110, 60)])
    patches, shown = cut_equal_boxes(view, (100, 100), boxes)
    assert shown[0].tolist() == [100, 0, 140, 40]
    assert (patches[0, : SIDE // 2] == 128).all()
    assert (patches[0, :, : SIDE // 2] == 128).all()
    assert (patches[0, SIDE // 2 :, SIDE // 2 :] == 255).all()
    assert np.isnan(shown[1]).all()
    assert (patches[1] == 128).all()
    assert shown[2].tolist() == [460, 160, 500, 240]
    assert (patches[2, :, : SIDE // 2] == 255).all()
    assert (patches[2, :, SIDE // 2 :] == 128).all()


def test_an_image_with_two_scales_and_a_border_is_cut_where_the_network_sees_it() -> None:
    """Across, an input pixel is half an image pixel; down, one. The input has a border on its right."""
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[40:60, 50:90] = 255
    view = View("", Image.fromarray(pixels), (0.0, 0.0, 200.0, 100.0))
    patches, shown = cut_equal_boxes(view, (200, 100), np.array([(25, 80, 45, 120), (40, 80, 60, 120)]))
    assert shown.tolist() == [[50, 40, 90, 60], [80, 40, 100, 60]]
    assert patches[0, 1:-1, 1:-1].min() > 250
    assert (patches[1, :, SIDE // 2 :] == 128).all()


# ------------------------------------------------------------------------------------------------- the command


def test_the_page_shows_every_channel_and_loads_its_sprites_lazily(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, printed, err = run("model.safetensors", "images", "--out", out, "--modules", "Mixed_5b,Mixed_7c")
    assert status == 0, err
    assert re.fullmatch(r"\S+/out/index.html: [\d,]+ of 473 channels are active in 12 images\n", printed)
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "patches.csv", "sprites"]
    page = (out / "index.html").read_text("utf-8")
    assert len(re.findall("<li data-class=", page)) == 473
    sources = re.findall('<img src="([^"]*)" loading="lazy"', page)
    assert len(sources) > 300
    assert {f"sprites/{path.name}" for path in (out / "sprites").iterdir()} >= set(sources)
    assert "img-src data: 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'" in page
    assert not re.search("https?://", page)
    assert "<b>x" not in page  # the name of a class and of its images
    assert "&lt;b&gt;x" in page
    assert r"\u003cb\u003ex/" in page


def test_damaged_images_are_counted_and_do_not_stop_the_others(run: Run, folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((folder / "images" / "do&g" / f"{3 * number:02}.png").read_bytes())
    path.write_bytes(b"text")
    options = ("--out", tmp_path / "out", "--modules", "Mixed_5b")
    status, _, err = run("model.safetensors", tmp_path / "images", *options)
    assert status == 3
    assert "2.png: not a supported image" in err
    assert "1 of 3 images could not be read" in err
    assert {row["image"] for row in read_table(tmp_path / "out")} == {str(path.with_stem(name)) for name in "01"}
    assert {row["class"] for row in read_table(tmp_path / "out")} == {""}
    status, _, _ = run("model.safetensors", tmp_path / "images", *options, "--overwrite", "--allow-unreadable")
    assert status == 0


def test_an_interrupted_run_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inception_v3.explain.patches.folder.write_page", interrupted)
    status, _, _ = run("model.safetensors", "images", "--out", tmp_path / "out", "--modules", "Mixed_5b")
    assert status == 130
    assert list(tmp_path.iterdir()) == []


def test_both_splits_of_a_data_set_are_searched_under_different_names(folder: Path, tmp_path: Path) -> None:
    for split, number in (("train", 0), ("val", 3)):
        path = tmp_path / split / "dog" / "same.png"
        path.parent.mkdir(parents=True)
        path.write_bytes((folder / "images" / "do&g" / f"{number:02}.png").read_bytes())
    sources = list(find_images(str(tmp_path)).read())
    assert [(source.name, source.class_name) for source in sources] == [
        ("training/dog/same.png", "dog"),
        ("held-out/dog/same.png", "dog"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("images", "--modules", "Mixed_5x"), "did you mean Mixed_5"),
        (("-",), "-: images are read twice, and standard input only once; save them in a folder"),
        (("missing",), "missing: no such folder or file"),
        (("images", "--precision", "int8"), "int8 is calibrated on images"),
        (("images", "--out", "images/out"), "inside images, where it would be taken for a class"),
    ],
)
def test_wrong_arguments_are_refused_with_the_remedy(
    run: Run, folder: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    out = () if "--out" in arguments else ("--out", tmp_path / "out")
    status, printed, err = run("model.safetensors", *arguments, *out)
    assert (status, printed) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()
    assert not (folder / "images" / "out").exists()


def test_a_folder_with_files_is_only_replaced_if_asked_for_and_keeps_other_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    status, _, err = run("model.safetensors", "images", "--out", tmp_path, "--modules", "Mixed_5b")
    assert (status, f"{tmp_path}: is not empty; give another --out, or --overwrite" in err) == (2, True)
    for modules in ("Mixed_5b", "Mixed_5c"):
        status, _, err = run("model.safetensors", "images", "--out", tmp_path, "--modules", modules, "--overwrite")
        assert status == 0, err
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {path.name[:8] for path in (tmp_path / "sprites").iterdir()} == {"Mixed_5c"}


def test_a_network_with_outputs_that_are_not_finite_gives_no_patches(folder: Path, tmp_path: Path) -> None:
    model = load(folder / "model.safetensors")
    with torch.no_grad():
        next(model.get_submodule("Mixed_7c").parameters()).fill_(float("nan"))
    opened = open_model(model, "pytorch", outputs=(), peaks=MODULES)
    with pytest.raises(InputError, match=r"no image can be read; .*the network's outputs are not finite"):
        search(opened, find_images(str(folder / "images")), MODULES, dict.fromkeys(MODULES, 31))


def test_images_that_changed_after_the_search_are_noticed(folder: Path, tmp_path: Path) -> None:
    result = find_patches(folder / "model.safetensors", folder / "images", ["Mixed_5b"])
    others = replace(result, images=arrays(*[np.zeros((107, 107, 3), np.uint8)] * FILES))
    with pytest.raises(InputError, match="its images have changed meanwhile; start again"):
        others.save(tmp_path / "out")


@dataclass(frozen=True)
class _Gone:
    """An image that cannot be opened any more."""

    name: str

    def open(self, minimum_size: object = None) -> Image.Image:
        raise InputError(f"{self.name}: no such file")


def test_an_image_that_was_deleted_after_the_search_has_an_empty_patch(folder: Path, tmp_path: Path) -> None:
    result = find_patches(folder / "model.safetensors", folder / "images", ["Mixed_5b"])
    gone = [LabelledSource(source.name, None, _Gone(source.name)) for source in result.images.read()]
    lost = replace(result, images=replace(result.images, read=lambda: iter(gone))).save(tmp_path / "out")
    assert len(lost) == FILES
    assert {(row["left"], row["value"] == "") for row in read_table(tmp_path / "out")} == {("", False)}
