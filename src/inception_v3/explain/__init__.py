"""What the network computes and why: receptive fields, theoretical and measured.

>>> from inception_v3.explain import receptive_field
>>> receptive_field("Mixed_5b/Branch_1").size
(63, 63)

Names are imported when they are first used. Receptive fields need no PyTorch, `effective_field` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inception_v3.explain.effective_fields import EffectiveField, effective_field
    from inception_v3.explain.receptive_fields import ReceptiveField, all_receptive_fields, receptive_field

_MODULES = {  # the module that defines each name
    "EffectiveField": "effective_fields",
    "ReceptiveField": "receptive_fields",
    "effective_field": "effective_fields",
    "receptive_field": "receptive_fields",
    "all_receptive_fields": "receptive_fields",
}
__all__ = ["EffectiveField", "ReceptiveField", "all_receptive_fields", "effective_field", "receptive_field"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'inception_v3.explain' has no attribute {name!r}")
    return getattr(import_module(f"inception_v3.explain.{_MODULES[name]}"), name)
