"""Write docs/walkthrough.md and docs/walkthrough.zh.md from the table of the network; `make walkthrough`.

    python tests/walkthrough.py           # print what would change
    python tests/walkthrough.py --write   # write both pages and their drawings

The text is in tests/templates/. A template takes its numbers from the functions of `values`, and every block of code is
run: its output is added below it. tests/test_walkthrough.py holds the pages to what this file makes.
"""

import argparse
import contextlib
import difflib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from inception_v3.network import architecture
from inception_v3.network.architecture import BASE_END_POINTS, Conv, EndPoint, Layer, Mixed, Pool
from inception_v3.network.describe import built_as

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "tests" / "templates"
PAGES = {"en": "walkthrough.md", "zh": "walkthrough.zh.md"}
NOTE = "<!-- Written by `make walkthrough` from tests/templates/{}. Edit that file. -->\n\n"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

POINTS = architecture.with_inner(architecture.end_points())
MODULES = tuple(module.name for module in architecture.MODULES)
HEADINGS = {
    "en": {
        **{"end point": "end point", "layer": "layer", "built as": "built as", "length": "side", "output": "output"},
        **{"parameters": "parameters", "MMAC": "MMAC", "field": "field", "joined": "joined", "max": "max", "avg": "avg"},
        **{"module": "module", "dropout": "dropout", "width": "width of Branch_1 and Branch_2"},
        "drawing": "{} as a drawing: {}",
    },
    "zh": {
        **{"end point": "端点", "layer": "层", "built as": "构成", "length": "边长", "output": "输出"},
        **{"parameters": "参数量", "MMAC": "MMAC", "field": "感受野", "joined": "拼接", "max": "最大池化", "avg": "平均池化"},
        **{"module": "模块", "dropout": "dropout", "width": "Branch_1 与 Branch_2 的中间宽度"},
        "drawing": "{} 结构图：{}",
    },
}


# ------------------------------------------------------------------------------------- numbers for the templates


class Counts:
    """Numbers of the base as a whole."""

    base = architecture.end_points(final_endpoint=BASE_END_POINTS[-1])
    branch_lists = [node.branches if isinstance(node, Mixed) else ((node,),) for node in architecture.BASE]

    modules = len(MODULES)
    base_end_points = len(BASE_END_POINTS)
    parameters = f"{sum(point.parameters for point in base):,}"
    convolutions = sum(isinstance(layer.table, Conv) for point in base for layer in point.layers)
    branches = sum(len(branches) for branches in branch_lists if len(branches) > 1)

    @staticmethod
    def _convolutions_on(branch: architecture.Branch) -> int:
        return sum(not isinstance(step, Pool) for step in branch)

    @property
    def longest(self) -> int:
        return sum(max(map(self._convolutions_on, branches)) for branches in self.branch_lists)

    @property
    def shortest(self) -> int:
        return sum(min(map(self._convolutions_on, branches)) for branches in self.branch_lists)


def hw(name: str) -> str:
    return f"{POINTS[name].height}x{POINTS[name].width}"


def shape(name: str) -> str:
    return f"{hw(name)}x{POINTS[name].channels}"


def params(name: str) -> str:
    return f"{POINTS[name].parameters:,}"


def mmac(name: str) -> str:
    return f"{POINTS[name].macs / 1e6:,.1f}"


def total_mmac() -> str:
    return f"{sum(point.macs for point in Counts.base) / 1e6:,.1f}"


def channels(name: str) -> int:
    return POINTS[name].channels


def field(name: str) -> str:
    """The side of the receptive field, or both sides if they differ."""
    height, width = POINTS[name].receptive_field
    return str(height) if height == width else f"{height}x{width}"


def stem_share(what: str) -> str:
    stem = sum(getattr(point, what) for point in Counts.base if point.name not in MODULES)
    return f"{stem / sum(getattr(point, what) for point in Counts.base):.0%}".replace("%", " %")


def join(name: str) -> str:
    branches = [each.channels for each in POINTS[name].inner if each.name.count("/") == 1]
    return f"{' + '.join(map(str, branches))} = {sum(branches)}"


def valid_text(name: str, kernel: int, stride: int) -> str:
    """The arithmetic of a VALID layer that reads the map of an end point."""
    return length_text(POINTS[name].height, kernel, stride, "VALID")


def length_text(length: int, kernel: int, stride: int, padding: architecture.Padding) -> str:
    """The arithmetic of one output length: `(299 - 3) / 2 + 1 = 149`, or `ceil(147 / 1) = 147`."""
    out = architecture.output_length(length, kernel, stride, padding)
    if padding == "SAME":
        return f"ceil({length} / {stride}) = {out}"
    assert (length - kernel) % stride == 0, "the text says that nothing is left over at 299x299"
    return f"({length} - {kernel}) / {stride} + 1 = {out}"


def grows(before: str, after: str) -> int:
    return POINTS[after].receptive_field[0] - POINTS[before].receptive_field[0]


# --------------------------------------------------------------------------------------- tables for the templates


def table(headings: list[str], rows: list[list[Any]], right: int) -> str:
    """A Markdown table whose last `right` columns are aligned to the right."""
    marks = ["---"] * (len(headings) - right) + ["---:"] * right
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [headings, marks, *rows])


def layer_text(layer: Layer) -> str:
    """One layer in the notation of the first section."""
    kind = f"{layer.table.kind} " if isinstance(layer.table, Pool) else ""
    stride = f"/{layer.table.stride}" if layer.table.stride > 1 else ""
    valid = " V" if layer.table.padding == "VALID" and layer.kernel != (1, 1) else ""
    width = f" {layer.out_channels}" if isinstance(layer.table, Conv) else ""
    return f"`{kind}{'x'.join(map(str, layer.kernel))}{stride}{valid}{width}`"


def tables(words: dict[str, str]) -> dict[str, Callable[..., str]]:
    """The tables, with headings in one language."""

    def heads(*names: str) -> list[str]:
        return [words[name] for name in names]

    def cost(point: EndPoint) -> list[str]:
        return [f"{point.parameters:,}", f"{point.macs / 1e6:,.1f}", field(point.name)]

    def stem_table() -> str:
        rows, net = [], 299
        for point in Counts.base:
            if point.name in MODULES:
                break
            (layer,) = point.layers
            text = length_text(net, layer.kernel[0], layer.table.stride, layer.table.padding)
            rows.append([f"`{point.name}`", layer_text(layer), text, shape(point.name), *cost(point)])
            net = point.height
        return table(heads("end point", "built as", "length", "output", "parameters", "MMAC", "field"), rows, 4)

    def module_table(name: str) -> str:
        module, rows = POINTS[name], []
        for each in module.inner:
            if each.name.count("/") == 2:
                scope, _, layer_name = each.name.removeprefix(f"{name}/").partition("/")
                fork = "‖ " if beside_the_one_before(each.name) else ""
                text = fork + layer_text(each.layers[0])
                rows.append([scope, f"`{layer_name}`", text, shape(each.name), *cost(each)])
        rows.append([f"**{words['joined']}**", "", join(name), f"**{shape(name)}**", *cost(module)])
        return table(["", *heads("layer", "built as", "output", "parameters", "MMAC", "field")], rows, 4)

    def head_table(name: str) -> str:
        if name == "AuxLogits":
            rows = [
                [f"`{each.name.partition('/')[2]}`", layer_text(each.layers[0]), shape(each.name), *cost(each)]
                for each in POINTS[name].inner
            ]
            return table(heads("layer", "built as", "output", "parameters", "MMAC", "field"), rows, 4)
        rows = []
        for point in ("AvgPool_1a", "PreLogits", "Logits", "Predictions"):
            (text,) = built_as(point)
            rows.append([f"`{point}`", f"`{text.replace('classes', '1000')}`", shape(point), *cost(POINTS[point])])
        return table(heads("end point", "built as", "output", "parameters", "MMAC", "field"), rows, 4)

    def widths_table() -> str:
        rows = [
            [f"`{name}`", width(f"{name}/Branch_1/Conv2d_0a_1x1"), params(name), mmac(name), field(name)]
            for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")
        ]
        return table(heads("module", "width", "parameters", "MMAC", "field"), rows, 4)

    return {each.__name__: each for each in (stem_table, module_table, head_table, widths_table)}


def beside_the_one_before(name: str) -> bool:
    """Whether a layer is the second of two convolutions of one input."""
    module, branch, layer = name.split("/")
    table = next(node for node in architecture.MODULES if node.name == module)
    steps = dict(table.named_branches)[branch]
    return any(isinstance(step, tuple) and layer in [each.name for each in step[1:]] for step in steps)


def width(name: str) -> int:
    return POINTS[name].channels


def values(language: str) -> dict[str, Any]:
    """Everything that a template may use."""
    words = HEADINGS[language]

    def drawing(name: str) -> str:
        suffix = "" if language == "en" else f".{language}"
        return f"![{words['drawing'].format(name, shape(name))}](pictures/walkthrough/{name}{suffix}.svg)"

    numbers = (hw, shape, params, mmac, total_mmac, channels, field, stem_share, join, valid_text, grows, width)
    return {
        **{each.__name__: each for each in numbers},
        **tables(words),
        "drawing": drawing,
        "counts": Counts(),
        "minimum": architecture.minimum_size(),
        "length": architecture.output_length,
        "same_zeros": lambda kernel: architecture.same_padding(35, kernel, 1)[0],
    }


# ------------------------------------------------------------------------------------------------- code and pages


def template_text(language: str) -> str:
    """The page of a language without the output of its blocks."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    return environment.get_template(PAGES[language]).render(values(language))


def outputs(text: str) -> Iterator[str]:
    """Run the blocks of a page in order, Python in one session, and yield what each prints."""
    names: dict[str, Any] = {"__name__": "walkthrough"}
    for number, (kind, code) in enumerate(BLOCK.findall(text), 1):
        if kind == "console":
            yield run_commands(code)
        else:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, f"walkthrough, block {number}", "exec"), names)
            yield printed.getvalue()


def run_commands(code: str) -> str:
    """What commands print on a terminal of 80 columns."""
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "PYTHONPATH": str(ROOT / "src")}
    printed = []
    for line in code.splitlines():
        words = line.removeprefix("$ inception-v3 ").split()
        call = [sys.executable, "-m", "inception_v3", *words]
        printed.append(subprocess.run(call, capture_output=True, text=True, check=True, env=environment).stdout)
    return "".join(printed)


def pages() -> dict[str, str]:
    """Both pages by language. The code is the same in both, so it runs once."""
    texts = {language: template_text(language) for language in PAGES}
    blocks = {language: BLOCK.findall(text) for language, text in texts.items()}
    assert blocks["en"] == blocks["zh"], "the blocks of both templates must be equal"
    printed = list(outputs(texts["en"]))
    return {
        language: NOTE.format(PAGES[language]) + with_outputs(text, iter(printed)) for language, text in texts.items()
    }


def with_outputs(text: str, printed: Iterator[str]) -> str:
    """The page with the output of each block below it."""

    def add(block: re.Match[str]) -> str:
        lines = "\n".join(line.rstrip() for line in next(printed).strip("\n").splitlines())
        return f"{block[0]}\n\n```text\n{lines}\n```" if lines else block[0]

    return BLOCK.sub(add, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the pages and their drawings")
    write = parser.parse_args().write
    for language, text in pages().items():
        path = ROOT / "docs" / PAGES[language]
        if write:
            path.write_text(text, "utf-8")
        else:
            old = path.read_text("utf-8").splitlines() if path.exists() else []
            print("\n".join(difflib.unified_diff(old, text.splitlines(), str(path), "now", lineterm="")))


if __name__ == "__main__":
    main()
