"""The public names of the package, in docs/reference.md; tests/test_site.py holds that page to the package.

python tests/reference.py            # print the page
python tests/reference.py --write    # after a change of a name or of the first line of a docstring: write it

On the documentation site, the whole docstrings stand below each table.
"""

import sys
from importlib import import_module
from inspect import getfile, unwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference.md"
INTRODUCTION = """\
# Python reference

The public names of the package. `help(inception_v3.load)` prints the arguments, shapes, results and errors of a name;
the documentation site (`make docs`) shows those of all names. Names that are not listed may change without notice.

`TypeError` and `ValueError` are raised for wrong arguments, with the name of the argument. `InputError` is raised for
files, images and other input from outside, in one line with the remedy.
"""
PACKAGES = {  # packages whose `__all__` is public
    "inception_v3": "Load, predict, save. Importing the package does not import PyTorch.",
    "inception_v3.explain": "See [Explain](explain.md).",
    "inception_v3.fidelity": "See [Scores](fidelity.md).",
}
GROUPS = {  # further names that the documentation uses
    "The table of layers and its drawing": (
        "See [The walk-through](walkthrough.md) and [The network as a drawing](drawing.md).",
        (
            "inception_v3.network.architecture.Conv",
            "inception_v3.network.architecture.Pool",
            "inception_v3.network.architecture.Mixed",
            "inception_v3.network.architecture.end_points",
            "inception_v3.network.describe.steps",
            "inception_v3.network.drawing.plan",
            "inception_v3.network.drawing.svg",
        ),
    ),
    "Data, training and evaluation": (
        "See [Data](data.md), [Training](training.md), [Fine-tuning](finetuning.md) and [Evaluation](evaluation.md).",
        (
            "inception_v3.data.load_data",
            "inception_v3.data.load_held_out",
            "inception_v3.data.LabelledImages",
            "inception_v3.training.recipe.load_recipe",
            "inception_v3.training.recipe.Recipe",
            "inception_v3.training.train.train",
            "inception_v3.training.run_folder.RunFolder",
            "inception_v3.training.run_folder.training_images",
            "inception_v3.training.augment.crops",
            "inception_v3.training.losses.convolution_kernels",
            "inception_v3.finetuning.finetune.finetune",
            "inception_v3.finetuning.finetune.with_new_head",
            "inception_v3.finetuning.finetune.rate_factors",
            "inception_v3.finetuning.bottlenecks.bottlenecks",
            "inception_v3.inference.feature_store.FeatureStore",
            "inception_v3.support.files.cache_folder",
            "inception_v3.evaluation.models.evaluate_models",
        ),
    ),
    "What calls take and return": (
        "You get these objects from the functions and classes above.",
        (
            "inception_v3.network.settings.Settings",
            "inception_v3.inference.predict.Prediction",
            "inception_v3.fidelity.result.FidelityResult",
        ),
    ),
    "Extending": (
        "See [Extending](extending.md).",
        (
            "inception_v3.inference.engines.base.Engine",
            "inception_v3.weights.formats.base.WritableFormat",
            "inception_v3.weights.formats.weights.Weights",
            "inception_v3.support.files.atomic_write",
        ),
    ),
}


def public_names() -> dict[str, tuple[str, list[str]]]:
    """The heading of each section, with its introduction and its names."""
    packages = {
        f"`{package}`": (text, [f"{package}.{name}" for name in import_module(package).__all__])
        for package, text in PACKAGES.items()
    }
    return packages | {heading: (text, list(names)) for heading, (text, names) in GROUPS.items()}


def resolve(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def page() -> str:
    """The text of docs/reference.md."""
    text = INTRODUCTION
    for heading, (introduction, names) in public_names().items():
        text += f"\n## {heading}\n\n{introduction}\n\n| name | meaning |\n| --- | --- |\n"
        text += "".join(map(_row, names))
    return text


def _row(name: str) -> str:
    value = resolve(name)
    source = f"../{Path(getfile(unwrap(value))).relative_to(ROOT)}"
    return f"| [`{name}`]({source}) | {(value.__doc__ or '').strip().splitlines()[0]} |\n"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(), "utf-8")
    else:
        print(page(), end="")
