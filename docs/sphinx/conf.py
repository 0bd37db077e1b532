"""Sphinx's settings for the documentation site (`make docs`).

The pages are the repository's Markdown files, unchanged. Their source folder is the root of the repository, so that a
link that works on GitHub works on the site.
"""

import inspect
import re
import sys
from itertools import chain
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.transforms import SphinxTransform
from sphinx.util.inspect import stringify_signature

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "src"), str(ROOT / "tests")]
sys.path += map(str, ROOT.glob(".venv/lib/python*/site-packages"))  # what the package imports; Sphinx has its own

import navigation  # noqa: E402

from reference import resolve  # noqa: E402

TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
ROW = re.compile(r"^\| \[`(inception_v3[\w.]*)`\]\(\S*\) \|", re.MULTILINE)  # of docs/reference.md
RANGE = re.compile(r"[~.\w]*Annotated\[([\w.]+), [~.\w]*Range\([^()]*\)\]")
CHINESE = r"[\u3400-\u4dbf\u4e00-\u9fff]"

project = html_title = "Inception V3"
version = release = re.search(r'__version__ = "(.*)"', (ROOT / "src/inception_v3/__init__.py").read_text("utf-8"))[1]
root_doc = navigation.HOME
LISTED = [root_doc, *chain(*navigation.SECTIONS.values())]
include_patterns = [f"{name}.md" for page in LISTED for name in (page, *navigation.below(page))]
# Sphinx would search every folder for pages, .venv and data included.
exclude_patterns = [entry.name for entry in ROOT.iterdir() if entry.is_dir() and entry.name != "docs"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"  # docstrings mark code with single backticks
highlight_language = "text"  # indented blocks are commands and what they print

myst_heading_anchors = 6
myst_enable_extensions = ["html_image"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = html_use_index = False
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"


def add_to_page(app: Sphinx, page: str, source: list[str]) -> None:
    """The navigation goes to the home page, and docstrings to docs/reference.md, below the table that names them."""
    if page == root_doc:
        source[0] += "".join(toctree(names, f":caption: {section}\n") for section, names in navigation.SECTIONS.items())
    elif names := navigation.below(page):
        source[0] += toctree(names)
    elif page == "docs/reference":
        source[0] = TABLE.sub(lambda table: ROW.sub(r"| [`\1`](#\1) |", table[0]) + entries(table[0]), source[0])


def toctree(names: list[str], options: str = "") -> str:
    return "\n```{toctree}\n:hidden:\n" + options + "\n" + "".join(f"/{name}\n" for name in names) + "```\n"


def entries(table: str) -> str:
    """The directives that show the docstrings of the names in a table."""
    names = ROW.findall(table)
    kinds = {name: "class" if inspect.isclass(resolve(name)) else "function" for name in names}
    members = "   :members:\n   :inherited-members: Module,BaseException,ABC,Mapping,dict\n"
    return "".join(
        f"\n```{{eval-rst}}\n.. auto{kind}:: {name}\n{members if kind == 'class' else ''}```\n"
        for name, kind in kinds.items()
    )


def readable_signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, arguments: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """A class shows the arguments of its `__init__`, not of a `__new__` that takes any; numbers show no range."""
    if what == "class" and arguments == "(*args, **kwargs)":
        signature = inspect.signature(value.__init__)
        parameters = list(signature.parameters.values())[1:]  # without self
        arguments = stringify_signature(signature.replace(parameters=parameters), unqualified_typehints=True)
    return arguments and RANGE.sub(r"\1", arguments), result


def set_language(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    context["language"] = "zh-Hans" if page.endswith(".zh") else "en"


class HtmlAnchors(SphinxTransform):
    """Let Markdown links lead to anchors in HTML, `<a id="name"></a>`, as on GitHub."""

    default_priority = 800  # after MyST has collected the headings, before it resolves links (879)

    def apply(self, **_: Any) -> None:
        slugs = self.document.myst_slugs = dict(getattr(self.document, "myst_slugs", {}))
        for node in self.document.findall(nodes.raw):
            for name in re.findall(r'<a (?:id|name)="([^"]+)"', node.astext()):
                slugs[name] = (node.line or 0, name, "")
        self.env.metadata[self.env.docname]["myst_slugs"] = slugs


class SearchEnglishAndChinese(SearchEnglish):
    """English as Sphinx indexes it; Chinese by pairs of characters, because words are not separated by spaces."""

    lang = "en"
    js_splitter_code = rf"""
function splitQuery(query) {{
  return (query.match(/{CHINESE}+|(?:(?!{CHINESE})[\p{{Letter}}\p{{Number}}_])+/gu) || []).flatMap((word) =>
    /{CHINESE}/u.test(word) && word.length > 2
      ? Array.from({{ length: word.length - 1 }}, (_, i) => word.slice(i, i + 2))
      : [word]);
}}
"""

    def split(self, input: str) -> list[str]:
        words = re.findall(rf"{CHINESE}+|(?:(?!{CHINESE})\w)+", input)
        pairs = [
            word[start : start + 2]
            for word in words
            if re.match(CHINESE, word)
            for start in range(max(len(word) - 1, 1))
        ]
        return pairs + [word for word in words if not re.match(CHINESE, word)]


def show_sources(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Links to programs and settings show the file as a page; Sphinx's links would let the browser save it."""
    for node in list(doctree.findall(addnodes.download_reference)):
        name = app.env.relfn2path(node["reftarget"], page)[0]
        target = Path(app.outdir) / "_source" / f"{name}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source_page(name), "utf-8")
        uri = app.builder.get_relative_uri(page, root_doc).removesuffix(f"{root_doc}.html") + f"_source/{name}.html"
        node.replace_self(nodes.reference("", "", *node.children, refuri=uri))


def source_page(name: str) -> str:
    """A file of the repository as a page, light or dark as the reader's system is."""
    light, dark = (HtmlFormatter(style=style) for style in (pygments_style, pygments_dark_style))
    code = highlight((ROOT / name).read_text("utf-8"), get_lexer_for_filename(name), light)
    style = ":root{color-scheme:light dark}body{margin:1.5rem;font-family:sans-serif}pre{overflow-x:auto}"
    style += light.get_style_defs()
    style += f"@media(prefers-color-scheme:dark){{{dark.get_style_defs()}}}.highlight{{background:none}}"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
    return f'<!doctype html><html lang="en">{head}<style>{style}</style><h1>{name}</h1>{code}</html>\n'


def write_index(app: Sphinx, error: Exception | None) -> None:
    """Lead from index.html, which servers and readers open first, to the home page."""
    if not error:
        head = f'<meta charset="utf-8"><title>{project}</title>'
        head += f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        page = f'<!doctype html><html lang="en">{head}<a href="{root_doc}.html">{project}</a></html>\n'
        (Path(app.outdir) / "index.html").write_text(page, "utf-8")


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_to_page)
    app.connect("html-page-context", set_language)
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("doctree-resolved", show_sources)
    app.connect("build-finished", write_index)
    app.add_transform(HtmlAnchors)
    app.add_search_language(SearchEnglishAndChinese)
