"""The navigation of the documentation site: sections, and their pages in order.

A page is named by its path from the root of the repository, without `.md`. A pattern with `*` adds the pages that exist
and are not named elsewhere. The other pages in the folder of a README are below that README, in the order of its links.
tests/test_site.py checks that every page is in the navigation once.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = "README"
SECTIONS = {
    "Start": ["docs/prediction", "docs/weights", "docs/published"],
    "Understand the network": [
        "docs/walkthrough*",
        "docs/lessons/README*",
        "docs/draw*",
        "docs/look*",
        "docs/explain",
        "docs/parity",
    ],
    "Train": ["docs/training", "docs/finetuning", "docs/data"],
    "Use": ["docs/export", "docs/serv*", "docs/scale", "docs/performance", "docs/trained-weights"],
    "Score": ["docs/evaluation", "docs/fidelity"],
    "Reference": ["docs/commands", "docs/reference", "docs/dependencies", "docs/privacy"],
    "Develop": ["docs/architecture", "docs/extending", "docs/pictures/README", "CONTRIBUTING", "CHANGELOG"],
}


def pages() -> dict[str, list[str]]:
    """The pages of each section."""
    named = {name for names in SECTIONS.values() for name in names}
    return {
        section: [page for name in names for page in _existing(name) if page == name or page not in named]
        for section, names in SECTIONS.items()
    }


def below(page: str) -> list[str]:
    """The pages that stand below a page in the navigation."""
    folder = (ROOT / page).parent
    if page == HOME or not page.endswith("/README"):
        return []
    text = (folder / "README.md").read_text("utf-8")
    names = sorted(path.stem for path in folder.glob("*.md") if path.stem != "README")
    return [f"{folder.relative_to(ROOT)}/{name}" for name in sorted(names, key=lambda name: text.find(f"({name}.md"))]


def _existing(name: str) -> list[str]:
    if "*" not in name:
        return [name]
    return sorted(str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob(f"{name}.md"))
