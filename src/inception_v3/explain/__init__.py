"""What the network computes and why: receptive fields, attribution, ablation, comparison, patches, visualisation.

>>> from inception_v3.explain import receptive_field
>>> receptive_field("Mixed_5b/Branch_1").size
(63, 63)

Names are imported when they are first used. Receptive fields need no PyTorch, the others do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inception_v3.explain.ablation import Ablation as Ablation
    from inception_v3.explain.ablation import ablate as ablate
    from inception_v3.explain.attribution.attribute import attribute as attribute
    from inception_v3.explain.attribution.checks import Curves as Curves
    from inception_v3.explain.attribution.checks import Randomisation as Randomisation
    from inception_v3.explain.attribution.checks import curves as curves
    from inception_v3.explain.attribution.checks import randomisation as randomisation
    from inception_v3.explain.attribution.result import Attribution as Attribution
    from inception_v3.explain.attribution.result import AttributionOptions as AttributionOptions
    from inception_v3.explain.comparison import Comparison as Comparison
    from inception_v3.explain.comparison import LayerComparison as LayerComparison
    from inception_v3.explain.comparison import compare as compare
    from inception_v3.explain.deep_dream import Dream as Dream
    from inception_v3.explain.deep_dream import DreamOptions as DreamOptions
    from inception_v3.explain.deep_dream import dream as dream
    from inception_v3.explain.effective_fields import EffectiveField as EffectiveField
    from inception_v3.explain.effective_fields import effective_field as effective_field
    from inception_v3.explain.look.measure import look_at as look_at
    from inception_v3.explain.look.result import Look as Look
    from inception_v3.explain.look.result import LookOptions as LookOptions
    from inception_v3.explain.patches.find import find_patches as find_patches
    from inception_v3.explain.patches.result import PatchSet as PatchSet
    from inception_v3.explain.receptive_fields import ReceptiveField as ReceptiveField
    from inception_v3.explain.receptive_fields import all_receptive_fields as all_receptive_fields
    from inception_v3.explain.receptive_fields import receptive_field as receptive_field
    from inception_v3.explain.views import View as View
    from inception_v3.explain.visualisation import Visualisation as Visualisation
    from inception_v3.explain.visualisation import VisualisationOptions as VisualisationOptions
    from inception_v3.explain.visualisation import visualise as visualise

_MODULES = {  # the module that defines each name
    "Ablation": "ablation",
    "Attribution": "attribution.result",
    "AttributionOptions": "attribution.result",
    "Comparison": "comparison",
    "Curves": "attribution.checks",
    "Dream": "deep_dream",
    "DreamOptions": "deep_dream",
    "EffectiveField": "effective_fields",
    "LayerComparison": "comparison",
    "Look": "look.result",
    "LookOptions": "look.result",
    "PatchSet": "patches.result",
    "Randomisation": "attribution.checks",
    "ReceptiveField": "receptive_fields",
    "View": "views",
    "Visualisation": "visualisation",
    "VisualisationOptions": "visualisation",
    "ablate": "ablation",
    "all_receptive_fields": "receptive_fields",
    "attribute": "attribution.attribute",
    "compare": "comparison",
    "curves": "attribution.checks",
    "dream": "deep_dream",
    "effective_field": "effective_fields",
    "find_patches": "patches.find",
    "look_at": "look.measure",
    "randomisation": "attribution.checks",
    "receptive_field": "receptive_fields",
    "visualise": "visualisation",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'inception_v3.explain' has no attribute {name!r}")
    return getattr(import_module(f"inception_v3.explain.{_MODULES[name]}"), name)
