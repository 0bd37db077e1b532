"""docs/walkthrough.md and its Chinese twin: up to date, equal in structure, and true of the network."""

import re
import runpy
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import inception_v3
import walkthrough
from inception_v3.network import architecture
from inception_v3.network.architecture import BASE_END_POINTS, Conv, Pool
from inception_v3.weights.model import InceptionV3
from walkthrough import PAGES, PICTURES, POINTS, ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = {language: (ROOT / "docs" / page).read_text("utf-8") for language, page in PAGES.items()}
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LAYERS = [layer for point in architecture.end_points() for layer in point.layers]


def sections(text: str) -> list[tuple[int, str]]:
    """The level of each heading, and the text up to the next, without code."""
    parts = re.split(r"^(#+) ", FENCED.sub("", text), flags=re.MULTILINE)[1:]
    return [(len(level), body) for level, body in zip(parts[::2], parts[1::2], strict=True)]


def links(text: str) -> list[str]:
    """The targets of links and images in order, with the file names of the English page."""
    targets = re.findall(r"\]\(([^)]+)\)", FENCED.sub("", text))
    return [Path(target).name.replace(".zh.", ".") for target in targets]


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """The width and height of each WebP file in a folder."""
    found = {}
    for path in folder.glob("*.webp"):
        with Image.open(path) as image:
            found[path.name] = image.size
    return found


# ------------------------------------------------------------------------------------------------- up to date


def test_every_block_runs_and_the_pages_are_what_make_walkthrough_writes() -> None:
    """Each block of code is run, and its output is the text below it on the page."""
    for language, text in walkthrough.pages().items():
        assert TEXTS[language] == text, f"docs/{PAGES[language]} differs: run `make walkthrough`"


def test_the_drawings_are_what_make_walkthrough_writes() -> None:
    drawings = walkthrough.drawings()
    assert {path.name for path in PICTURES.glob("*.svg")} == drawings.keys()
    for name, text in drawings.items():
        assert (PICTURES / name).read_text("utf-8") == text, f"{name} differs: run `make walkthrough`"


@pytest.mark.parametrize("language", PAGES)
def test_every_picture_is_there_and_every_anchor_is_on_the_page(language: str) -> None:
    text = TEXTS[language]
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert [each for each in pictures if not (ROOT / "docs" / each).exists()] == []
    shown = {Path(each).name for each in pictures}
    assert shown >= {walkthrough.file_name(name, language) for name in (*walkthrough.MODULES, "AuxLogits")}
    anchors = re.findall(r'<a id="([^"]+)"></a>', text)
    assert len(anchors) == len({*anchors})
    assert {*re.findall(r"\]\(#([^)]+)\)", text)} <= {*anchors}


def test_the_example_draws_the_feature_maps_of_any_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inception_v3.save(InceptionV3(depth_multiplier=0.1, create_aux_logits=False), tmp_path / "model.safetensors")
    monkeypatch.setattr("sys.argv", ["", str(tmp_path / "model.safetensors"), "--out", str(tmp_path)])
    runpy.run_path(str(ROOT / "examples" / "walkthrough_pictures.py"), run_name="__main__")
    assert sizes(tmp_path) == sizes(PICTURES)
    assert len(sizes(PICTURES)) == 3


# ---------------------------------------------------------------------------------------- one page in two languages


def test_both_languages_have_the_same_headings_anchors_links_and_code() -> None:
    english, chinese = TEXTS["en"], TEXTS["zh"]
    assert [level for level, _ in sections(english)] == [level for level, _ in sections(chinese)]
    assert FENCED.findall(english) == FENCED.findall(chinese)
    for pattern in (r'<a id="[^"]+"></a>', r"^<(?:/?details|summary)", r"^\| --- .*$", r"^(?:- |\*\*\d)", r"`[^`\n]+`"):
        count = [Counter(re.findall(pattern, FENCED.sub("", text), re.MULTILINE)) for text in (english, chinese)]
        assert count[0] == count[1], pattern
    assert Counter(links(english)) - Counter(["walkthrough.zh.md"]) == Counter(links(chinese))


def test_both_languages_have_the_same_numbers_in_every_section() -> None:
    def numbers(text: str) -> Counter[str]:
        without_targets = re.sub(r"\]\([^)]+\)|<a id=.*?>", "", text)
        return Counter(re.findall(r"\d[\d,.]*(?<![,.])", without_targets))

    for (_, english), (_, chinese) in zip(sections(TEXTS["en"]), sections(TEXTS["zh"]), strict=True):
        assert numbers(english) == numbers(chinese), english.partition("\n")[0]


# -------------------------------------------------------------------------------------------------- true statements


@pytest.mark.parametrize("language", PAGES)
def test_every_layer_of_the_network_is_on_the_page(language: str) -> None:
    for layer in LAYERS:
        *_, name = layer.name.split("/")
        shown = {"AvgPool_1a_8x8": "AvgPool_1a", "Conv2d_1c_1x1": "Logits"}.get(name, name)
        output = f"{layer.output.size[0]}x{layer.output.size[1]}x{layer.out_channels}"
        row = rf"^\|.*`{shown}` \|.* {output} \| {layer.parameters:,} \|"
        assert re.search(row, TEXTS[language], re.MULTILINE), layer.name


@pytest.mark.parametrize("language", PAGES)
def test_every_end_point_and_every_option_of_tf_slim_is_named(language: str) -> None:
    options = ("num_classes", "final_endpoint", "depth_multiplier", "min_depth", "dropout_keep_prob", "spatial_squeeze")
    for name in (*POINTS, *options, "create_aux_logits", "is_training", "prediction_fn", "reuse"):
        if "/" not in name:
            assert name in TEXTS[language], name


def test_padding_is_symmetric_in_every_layer_with_same() -> None:
    same = [layer for layer in LAYERS if layer.table.padding == "SAME"]
    assert {layer.table.stride for layer in same} == {1}
    assert all(side % 2 for layer in same for side in layer.kernel)
    stem = [node.name for node in architecture.STEM if node.padding == "SAME"]
    assert stem == ["Conv2d_2b_3x3"]


def test_the_most_expensive_layer_and_the_largest_module_are_those_that_the_page_names() -> None:
    assert max(LAYERS, key=lambda layer: layer.macs).name == "Conv2d_4a_3x3"
    assert max(walkthrough.MODULES, key=lambda name: POINTS[name].parameters) == "Mixed_7c"


def test_an_image_of_300x300_has_maps_of_the_same_sizes() -> None:
    sizes = [[point.output.size for point in architecture.end_points(height=n, width=n)] for n in (299, 300)]
    assert sizes[0] == sizes[1]


def test_the_names_that_look_wrong_are_variables_of_the_network() -> None:
    text = TEXTS["en"].partition('<a id="names"></a>')[2].partition("```")[0]
    odd = re.findall(r"^\| `(Mixed[^`]+)`", text, re.MULTILINE)
    layers = {layer.name: layer for layer in LAYERS}
    assert len(odd) == 5
    assert {*odd} <= layers.keys()
    misnamed = {name for name, layer in layers.items() if not name.endswith("x".join(map(str, layer.kernel)))}
    assert misnamed == {"Mixed_6a/Branch_0/Conv2d_1a_1x1", "Mixed_6a/Branch_1/Conv2d_1a_1x1"} < {*odd}


def test_only_these_names_break_the_pattern_that_the_page_states() -> None:
    odd = dict(re.findall(r"^\| `(Mixed[^`]+/[^`]+)` \| `([^`]+)`", TEXTS["en"], re.MULTILINE))
    before: Counter[tuple[str, int]] = Counter()
    broken = {}
    for layer in (each for each in LAYERS if "Branch_" in each.name):
        branch, name = layer.name.rsplit("/", 1)
        kind = "Conv2d" if isinstance(layer.table, Conv) else name.partition("_")[0]
        digit = layer.table.stride - 1
        expected = f"{kind}_{digit}{'abcde'[before[branch, digit]]}_{'x'.join(map(str, layer.kernel))}"
        before[branch, digit] += 1
        if name != expected:
            broken[layer.name] = expected
    assert broken == odd


@pytest.mark.parametrize("language", PAGES)
def test_the_percentages_of_the_text_follow_from_their_formulas(language: str) -> None:
    text = re.sub(r"(?<=\d) %", "%", TEXTS[language])
    assert f"(9 + 9) / 25 = {(9 + 9) / 25:.0%}" in text
    saved = [1 - (9 + 9) / 25, 1 - (7 + 7) / 7**2, 1 - (3 + 3) / 3**2]
    left_of_the_start = [0.9997**1_000, 0.9997**15_000]
    for share in (*saved, *left_of_the_start):
        assert re.search(rf"\D{share:.0%}", text)


def test_both_wide_branches_of_mixed_5b_have_the_field_of_the_page() -> None:
    assert POINTS["Mixed_5b/Branch_1"].receptive_field == POINTS["Mixed_5b/Branch_2"].receptive_field == (63, 63)
    assert POINTS["Mixed_5b/Branch_1"].parameters < POINTS["Mixed_5b/Branch_2"].parameters


def test_a_path_through_the_module_itself_is_as_long_as_the_page_counts() -> None:
    """The figures of the page come from the table; these come from the PyTorch modules."""
    model = InceptionV3(depth_multiplier=0.05, min_depth=1, create_aux_logits=False)
    longest = shortest = branches = 0
    for name in BASE_END_POINTS:
        module = model.get_submodule(name)
        steps = [branch.steps for branch in module.children() if hasattr(branch, "steps")] or [[[name]]]
        lengths = [sum("Pool" not in step[0] for step in branch) for branch in steps]
        longest, shortest = longest + max(lengths), shortest + min(lengths)
        branches += len(lengths) if len(lengths) > 1 else 0
    kernels = [name for name, _ in model.named_parameters() if name.endswith("weights") and "Logits" not in name]
    counts = walkthrough.count()
    assert (len(kernels), longest, shortest, branches) == (94, 47, 14, 42)
    assert (counts.convolutions, counts.longest, counts.shortest, counts.branches) == (94, 47, 14, 42)


def test_only_the_pools_of_the_heads_and_their_kernel_shrink() -> None:
    tables = (*architecture.AUX_LOGITS, *architecture.LOGITS)
    assert [table.kernel for table in tables if table.shrinks] == [(5, 5), (5, 5), (8, 8)]
    assert isinstance(tables[0], Pool)
    assert isinstance(tables[2], Conv)


def test_no_block_refutes_its_page() -> None:
    printed = [line for kind, text in FENCED.findall(TEXTS["en"]) if kind == "text" for line in text.splitlines()]
    assert [line for line in printed if line.endswith("False")] == ["inside differs: False"]
    assert sum(line.endswith("True") for line in printed) == 9


def test_the_answers_of_the_exercises_are_right() -> None:
    exercises = TEXTS["en"].partition('<a id="exercises"></a>')[2]
    sizes, parameters, ratio, widths, paths, reach, shares = (
        text.splitlines() for kind, text in FENCED.findall(exercises) if kind == "text"
    )
    last = ("Mixed_5d", "Mixed_6e", "Mixed_7c")
    groups = [
        tuple(point.height for point in architecture.end_points(height=side, width=side) if point.name in last)
        for side in (150, 299)
    ]
    assert sizes == ["{} {}".format(*groups), "{} {} {}".format(*groups[0])]
    assert parameters == [str(POINTS["Mixed_5b/Branch_1/Conv2d_0b_5x5"].parameters)] * 2
    assert ratio == [f"{14 * 192**2:,} {49 * 192**2:,} {49 / 14}"]
    assert widths == ["[384, 96, 288] 768"]
    assert paths == [f"{4**3 * 3 * 4**4 * 3 * (1 + 2 + 2 + 1) ** 2:,}"]
    assert reach[-1].startswith("Mixed_6b")
    for what, line in zip(("parameters", "macs"), shares[1:], strict=True):
        group = sum(getattr(POINTS[f"Mixed_7{letter}"], what) for letter in "abc")
        assert line == f"{what} {group / sum(getattr(point, what) for point in walkthrough.BASE):.0%}"
