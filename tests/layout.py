"""The folders of the package and which of them import which; `make layout` prints the graph.

    python tests/layout.py           # print the graph
    python tests/layout.py --write   # and bring docs/architecture.md and its picture up to date

tests/test_layout.py holds the graph to the rules of docs/architecture.md.
"""

import argparse
import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

Graph = dict[str, set[str]]

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "inception_v3"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "pictures" / "layout.svg"
MARK = "<!-- What follows is written by `make layout`. -->\n\n"


@dataclass(frozen=True)
class Folder:
    """What a folder is for, and where the picture shows it."""

    purpose: str
    row: int
    column: float


# From the top of the house to its foundation: a folder imports only folders further down.
FOLDERS = {
    "cli": Folder("one file per command", 0, 1),
    "serve": Folder("networks over HTTP", 1, 1.4),
    "cluster": Folder("Ray: the same jobs on many machines", 1, 2),
    "finetuning": Folder("new classes for a trained network", 1, 0),
    "training": Folder("recipe, loop, run folder", 2, 0),
    "fidelity": Folder("FID and the other scores", 2, 1),
    "evaluation": Folder("a model and labelled images", 3, 0),
    "explain": Folder("receptive fields, attribution, maps", 3, 2.2),
    "benchmarking": Folder("engines beside other programs", 2, 2),
    "reports": Folder("HTML pages and plots", 4, 2.2),
    "inference": Folder("engines, export, pipeline", 3, 1),
    "data": Folder("labelled images by one address", 4, 0),
    "weights": Folder("InceptionV3, load, save, convert", 4, 1),
    "images": Folder("find, decode, preprocess", 5, 0.5),
    "network": Folder("the table, the layers, the module", 6, 1.7),
    "support": Folder("files, progress, processes", 6, 0.6),
    "errors": Folder("InputError", 7, 0.6),
}


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def imports_of(path: Path) -> set[str]:
    """Full names that a file imports from the package, inside functions too; not those for type checkers only."""
    tree = ast.parse(path.read_text("utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    typing_only = {id(inner) for block in blocks for inner in ast.walk(block)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import) and id(node) not in typing_only:
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == PACKAGE.name}


def module_graph() -> Graph:
    """Each module and the modules that it imports. `inception_v3` itself, whose names are lazy, is left out."""
    paths = modules()
    return {
        name: (imports_of(path) & paths.keys()) - {name, PACKAGE.name}
        for name, path in paths.items()
        if name != PACKAGE.name
    }


def folder_graph(graph: Mapping[str, Iterable[str]]) -> Graph:
    """Each folder, or module at the top of the package, and the other folders that it imports."""
    folders: Graph = {}
    for name, targets in graph.items():
        folder = name.split(".")[1]
        folders.setdefault(folder, set()).update({target.split(".")[1] for target in targets} - {folder})
    return {folder: targets for folder, targets in folders.items() if folder != "__main__"}


def without_shortcuts(graph: Graph) -> Graph:
    """The graph without arrows that a chain of other arrows implies."""
    reach = {node: set(targets) for node, targets in graph.items()}
    for middle in graph:
        for node in graph:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    return {
        node: {target for target in targets if not any(target in reach[other] for other in targets - {target})}
        for node, targets in graph.items()
    }


def as_text(graph: Graph) -> str:
    """One line per folder, from the top to the foundation."""
    return "\n".join(
        f"{folder:<13}→ {', '.join(name for name in FOLDERS if name in graph[folder]) or '–'}" for folder in FOLDERS
    )


BOX_WIDTH, BOX_HEIGHT, GAP = 210, 46, 34
STYLE = """
  .box { fill: #eef4ff; stroke: #3b6fd4 } .name { font: 600 14px sans-serif; fill: #14244a }
  .purpose { font: 10.5px sans-serif; fill: #3f4f6e } .arrow { stroke: #7b8aa8; fill: none; stroke-width: 1.2 }
  @media (prefers-color-scheme: dark) {
    .box { fill: #17233d; stroke: #7ba2f0 } .name { fill: #e8efff }
    .purpose { fill: #b8c5e0 } .arrow { stroke: #8d9bb8 }
  }
"""


def as_svg(graph: Graph) -> str:
    """The folders as boxes, importers above, with an arrow to each folder that no chain of other arrows reaches."""
    width, height = 3.2 * (BOX_WIDTH + GAP) + GAP, 8 * (BOX_HEIGHT + GAP)
    corner = {
        name: (GAP + folder.column * (BOX_WIDTH + GAP), GAP / 2 + folder.row * (BOX_HEIGHT + GAP))
        for name, folder in FOLDERS.items()
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="t d">',
        '<title id="t">Folders of inception_v3</title>',
        f'<desc id="d">{escape("; ".join(as_text(graph).splitlines()))}</desc>',
        f"<style>{STYLE}</style>",
        '<marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M1 1L7 4L1 7" class="arrow"/></marker>',
    ]
    for folder, targets in without_shortcuts(graph).items():
        for target in sorted(targets):
            (x1, y1), (x2, y2) = corner[folder], corner[target]
            x1, y1, x2 = x1 + BOX_WIDTH / 2, y1 + BOX_HEIGHT, x2 + BOX_WIDTH / 2
            bend = (y2 - y1) / 2
            lines.append(
                f'<path class="arrow" marker-end="url(#head)" '
                f'd="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"/>'
            )
    for folder, (x, y) in corner.items():
        middle, purpose = x + BOX_WIDTH / 2, escape(FOLDERS[folder].purpose)
        lines += [
            f'<rect class="box" x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>',
            f'<text class="name" x="{middle:g}" y="{y + 19:g}" text-anchor="middle">{folder}</text>',
            f'<text class="purpose" x="{middle:g}" y="{y + 35:g}" text-anchor="middle">{purpose}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def as_table(folder: str) -> str:
    """The files of a folder with the first sentence of their docstrings."""
    rows = []
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        summary = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]
        if path.name != "__init__.py":
            rows.append(f"| `{path.relative_to(PACKAGE).as_posix()}` | {summary.replace('|', chr(92) + '|')} |")
    return "\n".join(["| file | |", "| --- | --- |", *rows])


def generated_part(graph: Graph) -> str:
    """The end of docs/architecture.md: the graph as text, and the files of each folder."""
    lines = ["## The graph", "", "What `make layout` prints: each folder, and the folders that it imports.", ""]
    lines += [f"    {line}" for line in as_text(graph).splitlines()]
    lines += ["", "## The files", "", "The first lines of the files themselves."]
    for folder, about in FOLDERS.items():
        if (PACKAGE / folder).is_dir():
            lines += ["", f"### {folder}", "", f"{about.purpose[0].upper()}{about.purpose[1:]}.", "", as_table(folder)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="bring docs/architecture.md and its picture up to date")
    graph = folder_graph(module_graph())
    print(as_text(graph))
    if parser.parse_args().write:
        PICTURE.write_text(as_svg(graph), "utf-8")
        text, mark, _ = PAGE.read_text("utf-8").partition(MARK)
        PAGE.write_text(text + mark + generated_part(graph), "utf-8")


if __name__ == "__main__":
    main()
