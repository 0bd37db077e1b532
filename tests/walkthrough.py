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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from inception_v3.network import architecture, describe, drawing
from inception_v3.network.architecture import BASE_END_POINTS, Conv, EndPoint, Mixed, Pool
from inception_v3.network.settings import Settings

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "tests" / "templates"
PICTURES = ROOT / "docs" / "pictures" / "walkthrough"
PAGES = {"en": "walkthrough.md", "zh": "walkthrough.zh.md"}
NOTE = "<!-- Written by `make walkthrough` from tests/templates/{}. Edit that file. -->\n\n"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

POINTS = architecture.with_inner(architecture.end_points())
BASE = architecture.end_points(final_endpoint=BASE_END_POINTS[-1])
MODULES = tuple(module.name for module in architecture.MODULES)
# Headings of the tables, and the description of a drawing.
WORDS = {
    "en": {
        "end point": "end point",
        "branch": "branch",
        "layer": "layer",
        "built as": "built as",
        "side": "side",
        "output": "output",
        "parameters": "parameters",
        "MMAC": "MMAC",
        "field": "field",
        "joined": "joined",
        "module": "module",
        "width": "width inside Branch_1 and Branch_2",
        "drawing": "{} as a drawing, with the output {}",
    },
    "zh": {
        "end point": "端点",
        "branch": "分支",
        "layer": "层",
        "built as": "构成",
        "side": "边长",
        "output": "输出",
        "parameters": "参数量",
        "MMAC": "MMAC",
        "field": "感受野",
        "joined": "拼接",
        "module": "模块",
        "width": "Branch_1 与 Branch_2 的中间宽度",
        "drawing": "{} 的结构图，输出为 {}",
    },
}


# ------------------------------------------------------------------------------------- numbers for the templates


@dataclass(frozen=True)
class Counts:
    """Numbers of the base as a whole. A path takes one branch of each module, and one side of each fork."""

    modules: int
    base_end_points: int
    parameters: str
    convolutions: int
    branches: int
    longest: int  # convolutions on the longest path
    shortest: int


def count() -> Counts:
    modules = [node for node in architecture.BASE if isinstance(node, Mixed)]
    paths = [
        [sum(not isinstance(step, Pool) for step in branch) for branch in branches]
        for branches in (node.branches if isinstance(node, Mixed) else ((node,),) for node in architecture.BASE)
    ]
    return Counts(
        modules=len(modules),
        base_end_points=len(BASE),
        parameters=f"{sum(point.parameters for point in BASE):,}",
        convolutions=sum(isinstance(layer.table, Conv) for point in BASE for layer in point.layers),
        branches=sum(len(module.branches) for module in modules),
        longest=sum(max(lengths) for lengths in paths),
        shortest=sum(min(lengths) for lengths in paths),
    )


def hw(name: str) -> str:
    return f"{POINTS[name].height}x{POINTS[name].width}"


def shape(name: str) -> str:
    return f"{hw(name)}x{POINTS[name].channels}"


def params(name: str) -> str:
    return f"{POINTS[name].parameters:,}"


def mmac(name: str) -> str:
    return f"{POINTS[name].macs / 1e6:,.1f}"


def total_mmac() -> str:
    return f"{sum(point.macs for point in BASE) / 1e6:,.1f}"


def channels(name: str) -> int:
    return POINTS[name].channels


def field(name: str) -> str:
    """The side of the receptive field, or both sides if they differ."""
    height, width = POINTS[name].receptive_field
    return str(height) if height == width else f"{height}x{width}"


def stem_share(what: str) -> str:
    stem = sum(getattr(point, what) for point in BASE if point.name not in MODULES)
    return f"{stem / sum(getattr(point, what) for point in BASE):.0%}".replace("%", " %")


def join(name: str) -> str:
    """How the branches of a module add up: `64 + 64 + 96 + 32 = 256`."""
    return describe.steps(POINTS[name])[-1].channels


def side(name: str) -> str:
    """How the side of a layer's output is computed: `(299 − 3) / 2 + 1 = 149`, or `⌈147 / 1⌉ = 147`."""
    text, _ = describe.steps(POINTS[name])[-1].size
    assert "⌊" not in text, "the pages say that nothing is left over at 299x299"
    return text


def grows(before: str, after: str) -> int:
    """By how many pixels the receptive field grows."""
    return POINTS[after].receptive_field[0] - POINTS[before].receptive_field[0]


# --------------------------------------------------------------------------------------- tables for the templates


def table(headings: list[str], rows: list[list[Any]], right: int) -> str:
    """A Markdown table whose last `right` columns are aligned to the right."""
    marks = ["---"] * (len(headings) - right) + ["---:"] * right
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [headings, marks, *rows])


def unbroken(text: str) -> str:
    """A sum or a notation that no line break may split, for a narrow cell of a table."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def code(*texts: str) -> list[str]:
    return [f"`{unbroken(text)}`" for text in texts]


def tables(words: dict[str, str]) -> dict[str, Callable[..., str]]:
    """The tables, with headings in one language."""

    def heads(*names: str) -> list[str]:
        return [words[name] for name in names]

    def cost(point: EndPoint) -> list[str]:
        return [f"{point.parameters:,}", f"{point.macs / 1e6:,.1f}", field(point.name)]

    def stem_table() -> str:
        rows = [
            [
                *code(point.name, describe.notation(*point.layers)),
                unbroken(side(point.name)),
                shape(point.name),
                *cost(point),
            ]
            for point in BASE
            if point.name not in MODULES
        ]
        return table(heads("end point", "built as", "side", "output", "parameters", "MMAC", "field"), rows, 4)

    def module_table(name: str) -> str:
        rows = []
        for branch in (each for each in POINTS[name].inner if each.inner):
            for step in branch.branches[0]:
                for number, layer in enumerate(step):
                    label, layer_name = layer.name.split("/")[1:]
                    name_cell, built_as = code(layer_name, describe.notation(layer))
                    beside = "‖ " if number else ""
                    rows.append([label, name_cell, beside + built_as, shape(layer.name), *cost(POINTS[layer.name])])
        rows.append([f"**{words['joined']}**", "", unbroken(join(name)), f"**{shape(name)}**", *cost(POINTS[name])])
        return table([words["branch"], *heads("layer", "built as", "output", "parameters", "MMAC", "field")], rows, 4)

    def head_table(name: str) -> str:
        if name == "AuxLogits":
            first, points = "layer", POINTS[name].inner
        else:
            first, points = "end point", [POINTS[each] for each in ("AvgPool_1a", "PreLogits", "Logits", "Predictions")]
        rows = [
            [*code(point.name.split("/")[-1], *describe.branch_lines(point)), shape(point.name), *cost(point)]
            for point in points
        ]
        return table(heads(first, "built as", "output", "parameters", "MMAC", "field"), rows, 4)

    def widths_table() -> str:
        rows = [
            [f"`{name}`", channels(f"{name}/Branch_1/Conv2d_0a_1x1"), params(name), mmac(name), field(name)]
            for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")
        ]
        return table(heads("module", "width", "parameters", "MMAC", "field"), rows, 4)

    return {each.__name__: each for each in (stem_table, module_table, head_table, widths_table)}


def values(language: str) -> dict[str, Any]:
    """Everything that a template may use."""
    words = WORDS[language]

    def drawn(name: str) -> str:
        return f"![{words['drawing'].format(name, shape(name))}](pictures/walkthrough/{file_name(name, language)})"

    numbers = (hw, shape, params, mmac, total_mmac, channels, field, stem_share, join, side, grows)
    return {
        **{each.__name__: each for each in numbers},
        **tables(words),
        "unbroken": lambda notation: code(notation)[0],
        "parameter_text": lambda name: describe.steps(POINTS[name])[-1].parameters,
        "mac_text": lambda name: describe.steps(POINTS[name])[-1].macs,
        "drawing": drawn,
        "counts": count(),
        "minimum": architecture.minimum_size(),
        "first_larger": next(side for side in range(299, 999) if architecture.needs_global_pool((side, side))),
        "same_zeros": lambda kernel: architecture.same_padding(35, kernel, 1)[0],
    }


def file_name(name: str, language: str) -> str:
    return f"{name}.svg" if language == "en" else f"{name}.{language}.svg"


def drawings() -> dict[str, str]:
    """The drawings of the pages by file name. The whole network in English is docs/pictures/inception-v3.svg."""
    drawn = {}
    for name in (*MODULES, "AuxLogits"):
        plan = drawing.plan(Settings(), name)
        drawn |= {file_name(name, language): drawing.svg(plan, language=language) for language in PAGES}
    return drawn | {"inception-v3.zh.svg": drawing.svg(drawing.plan(Settings()), language="zh")}


# ------------------------------------------------------------------------------------------------- code and pages


def templates() -> dict[str, str]:
    """Both pages without the output of their blocks. `code()` in the Chinese page is the next block of the English."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    english = environment.get_template(PAGES["en"]).render(values("en"))
    blocks = BLOCK.finditer(english)
    chinese = environment.get_template(PAGES["zh"]).render(values("zh"), code=lambda: next(blocks)[0])
    assert next(blocks, None) is None, "the Chinese page leaves out a block"
    return {"en": english, "zh": chinese}


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
    """Both pages by language. Their blocks are the same, so they run once."""
    texts = templates()
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
    files = {ROOT / "docs" / PAGES[language]: text for language, text in pages().items()}
    for path, text in (files | {PICTURES / name: text for name, text in drawings().items()}).items():
        if write:
            path.write_text(text, "utf-8")
        elif path in files:
            old = path.read_text("utf-8").splitlines() if path.exists() else []
            print("\n".join(difflib.unified_diff(old, text.splitlines(), str(path), "now", lineterm="")))


if __name__ == "__main__":
    main()
