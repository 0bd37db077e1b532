"""The rules of docs/architecture.md, held against the imports of every file."""

import ast
import graphlib
import re

import pytest

import layout
from layout import FOLDERS, PACKAGE, ROOT, folder_graph, module_graph


def test_no_import_runs_in_a_circle() -> None:
    """Imports inside functions count."""
    graph = module_graph()
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError shows the circle
    assert len(order) == len(graph) > 100


def test_no_folder_imports_one_above_it() -> None:
    order = list(FOLDERS)
    upwards = [
        f"{folder} imports {target}"
        for folder, targets in folder_graph(module_graph()).items()
        for target in targets
        if folder in order and target in order and order.index(target) < order.index(folder)
    ]
    assert upwards == []


def test_every_file_is_in_a_folder_of_the_layout() -> None:
    top = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert top == {*FOLDERS, "__init__", "__main__"}


def test_tests_stand_in_folders_of_the_same_names() -> None:
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= FOLDERS.keys()


@pytest.mark.parametrize(
    ("source", "counted"),
    [
        ("from inception_v3.errors import InputError", {"inception_v3.errors", "inception_v3.errors.InputError"}),
        ("def f():\n    import inception_v3.images.find", {"inception_v3.images.find"}),
        ("if TYPE_CHECKING:\n    from inception_v3 import data", set()),
        ("import numpy", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(source: str, counted: set[str], tmp_path: object) -> None:
    path = tmp_path / "module.py"  # type: ignore[operator]
    path.write_text(source)
    assert {name for name in layout.imports_of(path) if name != "inception_v3"} == counted


def test_no_function_is_longer_than_80_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.body[0].lineno >= 80
    ]
    assert long == []


def test_the_page_about_the_layout_is_up_to_date() -> None:
    """Its graph, its picture and its list of files are those of the code; `make layout` writes them."""
    graph = folder_graph(module_graph())
    page = layout.PAGE.read_text("utf-8")
    assert page.partition(layout.MARK)[2] == layout.generated_part(graph), "run `make layout`"
    assert layout.PICTURE.read_text("utf-8") == layout.as_svg(graph), "run `make layout`"


def test_the_page_about_the_layout_names_only_files_that_are_there() -> None:
    text = layout.PAGE.read_text("utf-8").partition(layout.MARK)[0]
    named = set(re.findall(r"`((?:[\w-]+/)*\w+\.(?:py|html|toml|md))`", text))
    missing = {name for name in named if not any((folder / name).exists() for folder in (PACKAGE, ROOT))}
    assert missing == set()
    assert len(named) > 20
