"""What the network computes and why: receptive fields, attribution, ablation.

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
    from inception_v3.explain.effective_fields import EffectiveField as EffectiveField
    from inception_v3.explain.effective_fields import effective_field as effective_field
    from inception_v3.explain.receptive_fields import ReceptiveField as ReceptiveField
    from inception_v3.explain.receptive_fields import all_receptive_fields as all_receptive_fields
    from inception_v3.explain.receptive_fields import receptive_field as receptive_field
    from inception_v3.explain.views import View as View

_MODULES = {  # the module that defines each name
    "Ablation": "ablation",
    "Attribution": "attribution.result",
    "AttributionOptions": "attribution.result",
    "Curves": "attribution.checks",
    "EffectiveField": "effective_fields",
    "Randomisation": "attribution.checks",
    "ReceptiveField": "receptive_fields",
    "View": "views",
    "ablate": "ablation",
    "all_receptive_fields": "receptive_fields",
    "attribute": "attribution.attribute",
    "curves": "attribution.checks",
    "effective_field": "effective_fields",
    "randomisation": "attribution.checks",
    "receptive_field": "receptive_fields",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'inception_v3.explain' has no attribute {name!r}")
    return getattr(import_module(f"inception_v3.explain.{_MODULES[name]}"), name)
