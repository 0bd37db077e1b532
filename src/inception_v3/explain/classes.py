"""The classes of a network, by name or by number."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.network.architecture import OutputActivation
from inception_v3.network.probabilities import class_logits
from inception_v3.support.text import printable, suggest


def find_class(wanted: str | int, names: Sequence[str]) -> int:
    """The index of a class, by its name or its index. Raises InputError, with the most similar name: no such class."""
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    if str(wanted).isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise InputError(f"no class {printable(str(wanted)) or '(empty)'}; {suggest(str(wanted), names)}", exit_status=2)


def explained_class(
    wanted: str | int | None, names: Sequence[str], logits: NDArray[np.floating], activation: OutputActivation
) -> tuple[int, NDArray[np.float64]]:
    """The index of the wanted class, or for None of the one with the highest logit, and the weights of its score.

    The score of the class is the sum of the logits (outputs,) with these weights (outputs,). One output with a sigmoid
    stands for two classes: the score of the first is minus the logit. Raises InputError as `find_class` does.
    """
    index = int(class_logits(logits, activation).argmax()) if wanted is None else find_class(wanted, names)
    if activation == "sigmoid" and len(logits) == 1:
        return index, np.array([2.0 * index - 1])
    return index, np.eye(len(logits))[index]
