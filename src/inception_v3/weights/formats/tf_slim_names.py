"""Find TF-Slim's Inception V3 among the variables of a checkpoint or a graph, below any scope, by their names.

A variable `SCOPE/Mixed_5b/Branch_0/Conv2d_0a_1x1/weights` has a moving average `.../weights/ExponentialMovingAverage`
and an optimizer's slots, such as `.../weights/RMSProp`. Nothing here needs PyTorch.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from inception_v3.network import architecture
from inception_v3.weights.formats.layer_names import BATCH_NORM, convolutions
from inception_v3.weights.formats.state_dict_search import AVERAGE

AVERAGE_SUFFIX = "ExponentialMovingAverage"
PARTS = ("weights", "biases", *(name.replace(".", "/") for name in BATCH_NORM))
FIRST, LAST, LOGITS = "Conv2d_1a_3x3", "Mixed_7c/Branch_3/Conv2d_0b_1x1", "Logits/Conv2d_1c_1x1"
NO_LOGITS = "has no logits; it is read as a feature extractor, without classes"


@dataclass(frozen=True, eq=False)
class SlimNetwork:
    """A network among variables.

    Attributes:
        scope: the start of the names of its variables, with the slash.
        suffix: the end of the names of its moving averages; "" for the variables themselves.
        variables: the full names by the names below the scope.
    """

    scope: str
    suffix: str
    variables: dict[str, str]

    @property
    def key(self) -> str:
        """What --state takes."""
        return f"{self.scope}{self.suffix}".rstrip("/")

    @property
    def is_average(self) -> bool:
        return bool(self.suffix) or AVERAGE.search(self.scope) is not None

    @property
    def layers(self) -> set[str]:
        """The names of the base's convolutions that it has."""
        return {name.removesuffix("/weights") for name in self.variables if name.endswith("/weights")} & _layers()

    @property
    def size(self) -> int:
        """The number of the base's convolutions that it has."""
        return len(self.layers)

    def end_point(self) -> str | None:
        """The last layer of a network without logits; None for a network with them."""
        if f"{LOGITS}/weights" in self.variables:
            return None
        layers = self.layers
        points = [(point.name, {layer.name for layer in point.layers} & _layers()) for point in reversed(_base())]
        return next((name for name, expected in points if expected and expected <= layers), None)


def split_name(name: str) -> tuple[str, str, str] | None:
    """The scope with its slash, the name of slim's variable, and what follows it. None for another variable."""
    match = _pattern().fullmatch(name)
    return (match[1], match[2], match[3].removeprefix("/")) if match else None


def find_networks(names: Iterable[str]) -> list[SlimNetwork]:
    """The networks that have most variables of the base. A moving average has the other variables of its network."""
    groups: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name in names:
        if parts := split_name(name):
            scope, variable, suffix = parts
            groups[scope, suffix][variable] = name
    networks = []
    for (scope, suffix), group in groups.items():
        if suffix and not _is_average(suffix):
            continue
        network = SlimNetwork(scope, suffix, group)
        if network.is_average:
            others = [other for other, end in groups if not end and (other, end) != (scope, suffix)]
            raw = max((other for other in others if scope.endswith(other)), key=len, default=None)
            network = SlimNetwork(scope, suffix, group if raw is None else groups[raw, ""] | group)
        if len(network.layers) > len(_layers()) // 2:
            networks.append(network)
    return networks


def _is_average(suffix: str) -> bool:
    return "/" not in suffix and (suffix.startswith(AVERAGE_SUFFIX) or AVERAGE.search(suffix) is not None)


def unfolded_name(name: str) -> str:
    """The name of slim's variable for a kernel into which optimize_for_inference folded a BatchNorm.

    That kernel has the name of the operation, in whose scope slim repeats the name of the network.
    """
    scope, found, _ = name.rpartition("/Conv2D_weights")
    return re.sub(r"^((?:.*/)?)([^/]+/)\2", r"\1\2", f"{scope}/weights") if found else name


@cache
def _base() -> list[architecture.EndPoint]:
    return architecture.end_points(create_aux_logits=False, final_endpoint=architecture.BASE_END_POINTS[-1])


@cache
def _layers() -> set[str]:
    """The names of the base's convolutions."""
    return {layer.name for point in _base() for layer in point.layers if isinstance(layer.table, architecture.Conv)}


@cache
def _pattern() -> re.Pattern[str]:
    names = {re.sub(r"(AuxLogits/Conv2d_2a_).*", r"\1\\d+x\\d+", layer.name) for layer in convolutions()}
    return re.compile(rf"((?:.*?/)??)((?:{'|'.join(names)})/(?:{'|'.join(PARTS)}))((?:/.*)?)", re.DOTALL)
