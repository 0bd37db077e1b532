"""The navigation of the documentation site: sections, and their pages in order.

A page is named by its path from the root of the repository, without `.md`. The other pages in the folder of a README
are below that README, in the order of its links. tests/test_site.py checks that every page is in the navigation once.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = "README"
SECTIONS = {
    "Start": ["docs/prediction", "docs/weights", "docs/published"],
    "Understand the network": [
        "docs/walkthrough",
        "docs/walkthrough.zh",
        "docs/lessons/README",
        "docs/drawing",
        "docs/explain",
        "docs/parity",
    ],
    "Train": ["docs/training", "docs/finetuning", "docs/data"],
    "Use": ["docs/export", "docs/serving", "docs/scale", "docs/performance", "docs/trained-weights"],
    "Score": ["docs/evaluation", "docs/fidelity"],
    "Reference": ["docs/commands", "docs/reference", "docs/dependencies", "docs/privacy"],
    "Develop": ["docs/architecture", "docs/extending", "docs/pictures/README", "CONTRIBUTING", "CHANGELOG"],
}


def below(page: str) -> list[str]:
    """The pages that stand below a page in the navigation."""
    if page == HOME or not page.endswith("/README"):
        return []
    readme = ROOT / f"{page}.md"
    text = readme.read_text("utf-8")
    others = sorted({*readme.parent.glob("*.md")} - {readme}, key=lambda path: text.find(f"]({path.name})"))
    return [str(path.relative_to(ROOT).with_suffix("")) for path in others]
