"""The pages of the documentation, as GitHub shows them and as the documentation site does (docs/sphinx)."""

import inspect
import re
import runpy
import shlex
import subprocess
import urllib.parse
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from html.parser import HTMLParser
from importlib import import_module
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from markdown_it import MarkdownIt
from playwright.sync_api import Browser

import reference
from browser import open_browser
from conftest import ROOT
from inception_v3 import cli

NAVIGATION = runpy.run_path(str(ROOT / "docs" / "sphinx" / "navigation.py"))
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
PAGES += sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
IMPORT = re.compile(r"^from (inception_v3[\w.]*) import (.+)$", re.MULTILINE)
PICTURES = ROOT / "docs" / "pictures"


@cache
def parsed(page: str) -> list[Any]:
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text("utf-8"))


def inline(page: str) -> Iterator[Any]:
    for token in parsed(page):
        yield token
        yield from token.children or ()


@cache
def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives a page: of its headings, and those in HTML."""
    names: set[str] = set()
    tokens = parsed(page)
    for opening, heading in pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(part.content for part in heading.children if part.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            repeated = next(number for number in range(100) if f"{slug}-{number or ''}".rstrip("-") not in names)
            names.add(f"{slug}-{repeated}" if repeated else slug)
    html = "".join(token.content for token in inline(page) if token.type.startswith("html"))
    return names.union(re.findall(r'\b(?:id|name)="([^"]+)"', html))


def links(page: str) -> list[str]:
    """The destinations of the links and pictures of a page."""
    found = [str(token.attrs[name]) for token in inline(page) for name in ("href", "src") if name in token.attrs]
    html = "".join(token.content for token in inline(page) if token.type.startswith("html"))
    return [*found, *re.findall(r'\b(?:href|src)="([^"]+)"', html)]


def fault(page: str, link: str) -> str | None:
    """Why a link does not work."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme:
        return None if parts.scheme in ("http", "https") and "." in parts.netloc else "not an address"
    target = (ROOT / page).parent / urllib.parse.unquote(parts.path) if parts.path else ROOT / page
    if not target.exists():
        return "no such file"
    name = str(target.resolve().relative_to(ROOT))
    if parts.fragment and urllib.parse.unquote(parts.fragment) not in (anchors(name) if name in PAGES else ()):
        return "no such anchor"
    return None


def test_the_navigation_has_every_page_once() -> None:
    listed = [NAVIGATION["HOME"], *chain(*NAVIGATION["SECTIONS"].values())]
    assert sorted(f"{name}.md" for page in listed for name in (page, *NAVIGATION["below"](page))) == sorted(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_an_anchor_that_exist(page: str) -> None:
    assert {link: why for link in links(page) if (why := fault(page, link))} == {}


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("docs/nothing.md", "no such file"),
        ("docs/weights.md#nothing", "no such anchor"),
        ("docs/weights.md#bring-your-own", None),
        ("https:/example", "not an address"),
    ],
)
def test_a_link_that_does_not_work_is_a_fault(link: str, why: str | None) -> None:
    assert fault("README.md", link) == why


def test_pages_in_two_languages_link_to_each_other() -> None:
    for page in (page for page in PAGES if page.endswith(".zh.md")):
        chinese, english = Path(page).name, Path(page).name.replace(".zh.md", ".md")
        assert english in links(page), page
        assert chinese in links(page.replace(".zh.md", ".md")), page


def test_every_picture_is_produced_by_a_command() -> None:
    rows = re.findall(r"^\| `(\S+)` \| (.*) \|$", (PICTURES / "README.md").read_text("utf-8"), re.MULTILINE)
    pictures = [str(path.relative_to(PICTURES)) for path in PICTURES.rglob("*") if path.suffix != ".md"]
    names = [name for name in pictures if (PICTURES / name).is_file()]
    assert [name for name in names if sum(fnmatch(name, pattern) for pattern, _ in rows) != 1] == []
    assert [pattern for pattern, _ in rows if not any(fnmatch(name, pattern) for name in names)] == []
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for command in (command for _, text in rows for command in re.findall(r"`(\w\S* [^`]*)`", text)):
        program, first = command.split()[:2]
        known = {"inception-v3": first in cli.COMMANDS, "make": f"\n{first}:" in makefile}
        assert known.get(program, (ROOT / first).is_file()), command


def readme_commands() -> list[str]:
    """The commands of the README's indented blocks, without their comments."""
    lines = [line for token in parsed("README.md") if token.type == "code_block" for line in token.content.splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith("inception-v3 ")]


@pytest.mark.parametrize("line", readme_commands())
def test_the_readme_uses_commands_and_options_that_exist(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    group = typer.main.get_command(cli.app)
    command = group.get_command(typer.Context(group), name)
    assert command is not None
    command.make_context(name, arguments)


def test_the_reference_lists_the_public_names() -> None:
    assert reference.PAGE.read_text("utf-8") == reference.page(), "run `python tests/reference.py --write`"


def test_the_reference_lists_what_the_examples_import() -> None:
    listed = {id(reference.resolve(name)) for _, names in reference.public_names().values() for name in names}
    for page in PAGES:
        for module, names in IMPORT.findall((ROOT / page).read_text("utf-8")):
            for name in names.split(", "):
                value = getattr(import_module(module), name)
                is_documented = id(value) in listed or not (inspect.isclass(value) or inspect.isfunction(value))
                assert is_documented, f"{page}: {module}.{name}"


def public_docstrings() -> Iterator[tuple[str, str]]:
    for _, names in reference.public_names().values():
        for name in names:
            value = reference.resolve(name)
            yield name, inspect.cleandoc(value.__doc__ or "")
            for member, inner in vars(value).items() if inspect.isclass(value) else ():
                if not member.startswith("_") and (text := getattr(inner, "__doc__", None)) and callable(inner):
                    yield f"{name}.{member}", inspect.cleandoc(text)


def test_public_docstrings_list_their_errors_in_a_section() -> None:
    """`Raises:` and an entry for each error, which the site shows as a list, and not a sentence among others."""
    docstrings = dict(public_docstrings())
    assert [name for name, text in docstrings.items() if not text] == []
    sentence = re.compile(r"(^|\. |\n)Raises (?!:)\w")
    assert [name for name, text in docstrings.items() if sentence.search(text)] == []


# ------------------------------------------------------------------------------------------------------- the built site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, in a temporary folder."""
    folder = tmp_path_factory.mktemp("site")
    recipe = re.search(r"^docs:.*\n\t(.*) -d \S+ \. site$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert recipe is not None
    command = [*shlex.split(recipe[1]), "-d", str(folder / "cache"), ".", str(folder / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


class Html(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        self.links += [values[name] for name in ("href", "src") if name in values]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_its_links_work(site: Path) -> None:
    pages = {path: Html(path) for path in site.rglob("*.html")}
    assert len(pages) > len(PAGES)
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            if not target.exists() or (target in pages and parts.fragment not in pages[target].ids | {""}):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 800, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_open_from_disk_fit_the_window_and_load_nothing_from_other_hosts(
    site: Path, browser: Browser, width: int, theme: Any
) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    for name in PAGES:
        tab.goto((site / name).with_suffix(".html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 3 * 128) == (theme == "dark"), name
    assert {url for url in requests if not url.startswith(("file:", "data:"))} == set()
    tab.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "page"),
    [("receptive field", "docs/explain"), ("find_patches", "docs/reference"), ("感受野", "docs/walkthrough.zh")],
)
def test_the_search_works_from_disk_in_both_languages(site: Path, browser: Browser, query: str, page: str) -> None:
    tab = browser.new_page()
    tab.goto((site / "search.html").as_uri() + f"?q={urllib.parse.quote(query)}")
    tab.wait_for_selector("ul.search li a")
    assert f"{page}.html" in str(tab.locator("ul.search li a").first.get_attribute("href"))
    tab.close()


@pytest.mark.slow
def test_a_link_to_a_program_shows_it_and_saves_no_file(site: Path, browser: Browser) -> None:
    tab = browser.new_page()
    tab.goto((site / "README.html").as_uri())
    tab.click("text=lists the layers")
    tab.wait_for_url("**/architecture.py.html")
    assert "def end_points(" in tab.inner_text("pre")
    tab.close()


@pytest.mark.slow
def test_a_reader_switches_to_dark_and_the_drawings_follow(site: Path, browser: Browser) -> None:
    tab = browser.new_page(color_scheme="light")
    tab.goto((site / "README.html").as_uri())
    schemes = []
    for theme in ("light", "dark"):
        tab.evaluate("theme => document.body.dataset.theme = theme", theme)
        schemes.append(tab.evaluate("getComputedStyle(document.querySelector('article img')).colorScheme"))
    assert schemes == ["light", "dark"]
    tab.close()
