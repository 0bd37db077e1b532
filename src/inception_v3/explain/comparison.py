"""Two networks compared layer by layer on the same images: how their values differ, and at which layer they part."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.explain.compared_networks import (
    CLASSIFIER,
    CLASSIFIERS,
    ComparedNetwork,
    Outline,
    Pixels,
    Values,
    bytes_of_image,
    joined,
    network_input,
    open_network,
    run_one_layer,
)
from inception_v3.explain.similarity import MIN_IMAGES, Similarity, exact, relative
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import Precision
from inception_v3.inference.pipeline import prepared_pixels
from inception_v3.inference.predict import ImageInput, find_sources
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.support.arguments import PositiveFraction, checked
from inception_v3.support.files import atomic_write
from inception_v3.support.progress import Advance, ignore
from inception_v3.support.text import printable, to_json
from inception_v3.weights.model import InceptionV3

PartedBy = Literal["own computation", "jump"]

# A layer differs if its own computation differs by more, relative to the norm of its values. Of intact layers, rounding
# measured at most, in small networks with random weights, and in a whole one that was trained on photos: 3e-6 in fp32,
# 0.03 and 0.007 in bf16, 0.014 and 0.037 in int8. fp16 was not measured.
TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.05, "int8": 0.1}
JUMP = 4.0  # of a layer's difference above that of its input, where only whole networks can be run
ACCUMULATED = 2.0  # of the tolerance there: the logits of an intact int8 file, trained on photos, differed by 0.10
MEMORY = 2**31  # bytes of the values of a batch
NETWORKS_AT_ONCE = 4  # copies of a batch's values: of both networks, and in float64


@dataclass(frozen=True)
class LayerComparison:
    """How the values of a layer, branch or end point differ between two networks.

    Attributes:
        name: such as "Mixed_5b" or "Mixed_5b/Branch_1/Conv2d_0b_5x5".
        difference: the norm of the difference relative to the norm of the first network's values; infinite if the
            shapes differ.
        correlation: Pearson's correlation of all values; NaN if those of one network are constant.
        cka: debiased CKA with a linear kernel; NaN for fewer than 4 images, or if all have the same values.
        own_difference: like `difference`, but of two layers with the same input, so it is not inherited from the
            layers before. The largest of its layers for a branch or end point; NaN where it cannot be computed.
    """

    name: str
    difference: float
    correlation: float
    cka: float
    own_difference: float


@dataclass(frozen=True)
class Comparison:
    """Two networks compared layer by layer.

    Attributes:
        first, second: the names of the networks.
        images: the number of images.
        parts_at: the first layer whose own computation differs; None if all layers agree within the tolerance.
        parted_by: how it was found. "own computation": a layer of one network was run on the other's values, and its
            result compared with theirs. "jump", for two exported files: the first layer whose difference is above
            the tolerance and JUMP times that of its input.
        tolerance: relative difference up to which the computation of a layer counts as the same.
        differing_layers: all layers whose own computation differs, in the order of computation. With an int8 file,
            those behind one that differs are left out.
        layers: of each end point, and of the branches and layers in the end point where the networks part.
        notes: what was left out or is not the same in both networks, in sentences.
        only_in_first, only_in_second: names of the classes that the other network lacks.
        unreadable: why images were left out: they could not be read, or a network's values are not finite for them.
    """

    first: str
    second: str
    images: int
    parts_at: str | None
    parted_by: PartedBy
    tolerance: float
    differing_layers: tuple[str, ...] = field(repr=False)
    layers: tuple[LayerComparison, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    only_in_first: tuple[str, ...] = field(default=(), repr=False)
    only_in_second: tuple[str, ...] = field(default=(), repr=False)
    unreadable: tuple[str, ...] = field(default=(), repr=False)

    @property
    def verdict(self) -> str:
        """Where the networks part, in a sentence."""
        if self.parts_at is None:
            return f"they do not part: every layer that both show agrees within {self.tolerance:g}"
        if self.parted_by == "jump":
            return f"they part at {self.parts_at}, the first layer whose difference jumps"
        return f"they part at {self.parts_at}, the first layer whose own computation differs"

    def numpy(self) -> NDArray[np.float64]:
        """For each of the `layers`: difference, correlation, CKA and own difference; (layers, 4), with NaN."""
        rows = [(row.difference, row.correlation, row.cka, row.own_difference) for row in self.layers]
        return np.array(rows, np.float64).reshape(-1, 4)

    def as_dict(self) -> dict[str, Any]:
        """All fields for JSON; None for numbers that are not finite."""
        facts = {each.name: getattr(self, each.name) for each in fields(self)}
        rows = [
            {key: value if isinstance(value, str) or math.isfinite(value) else None for key, value in vars(row).items()}
            for row in self.layers
        ]
        return facts | {"layers": rows}

    def plot(self) -> Any:
        """A matplotlib figure: the differences of the layers, and the layer where the networks part."""
        from inception_v3.reports.plots import differences

        numbers = self.numpy()
        return differences(
            [row.name for row in self.layers],
            {"difference": numbers[:, 0], "own difference": numbers[:, 3]},
            self.tolerance,
            self.parts_at,
            f"{self.second} against {self.first}, {self.images} images",
        )

    def save(self, path: str | Path) -> None:
        """Write `as_dict` as .json, or the plot in the format of another suffix.

        Raises:
            InputError: another suffix, or the file cannot be written.
        """
        path = Path(path)
        with atomic_write(path) as temporary:
            if path.suffix == ".json":
                temporary.write_text(to_json(self.as_dict(), indent=1), "utf-8")
            else:
                self.plot().savefig(temporary, format=path.suffix.removeprefix("."), dpi=120)

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        columns = [each.name.replace("_", " ") for each in fields(LayerComparison)]
        rows = [[row.name, *(f"{value:.3g}" for value in (*vars(row).values(),)[1:])] for row in self.layers]
        table = "".join(
            f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in row)}</tr>"
            for tag, row in [("th", columns), *(("td", row) for row in rows)]
        )
        return f"<p>{escape(printable(f'{self.first}, {self.second}: {self.verdict}'))}</p><table>{table}</table>"


@checked
@torch.no_grad()
def compare(
    first: InceptionV3 | str | Path,
    second: InceptionV3 | str | Path,
    images: ImageInput | Iterable[ImageInput],
    *,
    tolerance: PositiveFraction | None = None,
    device: str | None = None,
    advance: Advance = ignore,
) -> Comparison:
    """Compare two networks layer by layer on the same images, and find the first layer that computes something else.

    Both get the same pixels, prepared as the first network's images are; each applies its own mean and standard
    deviation.

    Args:
        first, second: networks in evaluation mode, or what `load` takes, or exported files.
        images: as `Predictor` takes them. Debiased CKA needs 4 or more.
        tolerance: relative difference up to which the computation of a layer counts as the same; None for that of the
            lower precision in TOLERANCES, for two exported files ACCUMULATED times that.
        device: of networks that are loaded, such as cuda; None for the best one.
        advance: called with the number of images that are done.

    Raises:
        InputError: a network or all images cannot be read, or a network's values are not finite for all of them.
        ValueError: a network in training mode.
    """
    a = open_network(first, None, device, "first network")
    size = a.preprocessing.image_size
    b = open_network(second, size, device, "second network")
    pixels, sources, unreadable = prepared_pixels(find_sources(images), a.preprocessing)
    if not len(pixels):
        raise InputError(f"no image could be read: {unreadable[0] if unreadable else 'none was given'}")
    run = _Run(a, b, size)
    done = 0
    for batch in np.array_split(pixels, -(-len(pixels) // _batch_size(a, size))):
        unreadable += [f"{sources[done + index].name}: {reason}" for index, reason in run.add(batch).items()]
        done += len(batch)
        advance(len(batch))
    if not run.images:
        raise InputError(unreadable[-1])
    precisions = {a.precision, b.precision}
    limit = tolerance or max(TOLERANCES[precision] for precision in precisions) * (1 if run.fed else ACCUMULATED)
    differing = run.differing(limit)
    parts_at = differing[0] if differing else None
    return Comparison(
        a.name,
        b.name,
        run.images,
        parts_at,
        run.parted_by,
        limit,
        differing,
        tuple(run.rows(parts_at)),
        tuple(run.notes()),
        *run.missing_classes(),
        tuple(unreadable),
    )


def _batch_size(network: ComparedNetwork, size: tuple[int, int]) -> int:
    """Images at once. If all images do not fit, equal batches of at least MIN_IMAGES follow from twice as many."""
    return max(2 * MIN_IMAGES, MEMORY // (NETWORKS_AT_ONCE * bytes_of_image(network.settings, size)))


class _Run:
    """The sums of a comparison over batches of images.

    Attributes:
        fed: a network in PyTorch whose layers are run, one at a time, on the values of the `other` network; None for
            two exported files.
        outline: the layers and end points of the first network.
        inputs: of the layers that both networks have, as in Outline.
        columns: the logits of the classes that both networks have: their indices in each; None if there are none.
    """

    def __init__(self, a: ComparedNetwork, b: ComparedNetwork, size: tuple[int, int]) -> None:
        self.a, self.b = a, b
        self.fed = b if b.model else a if a.model else None
        self.other = a if self.fed is b or (self.fed is None and a.precision == "int8" != b.precision) else b
        self.parted_by: PartedBy = "own computation" if self.fed else "jump"
        self.outline, second = Outline.of(a.settings, size), Outline.of(b.settings, size)
        self.inputs = {name: inputs for name, inputs in self.outline.inputs.items() if name in second.inputs}
        self.end_points = [name for name in {**self.outline.parts, **second.parts} if "/" not in name]
        self.columns = shared_classes(a, b)
        self.has_own_scales = self.other.model is None and self.other.precision == "int8"
        self.factors: dict[str, Tensor] = {}
        self.images = self.batches = 0
        self.similarities: dict[str, Similarity] = {}
        self.own: dict[str, list[float]] = {}  # sums of squares: of the difference, and of the other network's values

    def add(self, pixels: Pixels) -> dict[int, str]:
        """Run both networks on a batch. Images for which values are not finite are left out: returns why, by index."""
        first, second = (self._values(network, pixels) for network in (self.a, self.b))
        left_out = self._not_finite(self.b, second) | self._not_finite(self.a, first)
        if left_out:
            kept = [index for index in range(len(pixels)) if index not in left_out]
            first, second = ({name: net[kept] for name, net in values.items()} for values in (first, second))
            pixels = pixels[kept]
        if len(pixels):
            self._add_finite(pixels, first, second)
        return left_out

    def _not_finite(self, network: ComparedNetwork, values: Values) -> dict[int, str]:
        """Why images of a batch have no finite values, by their index: the first layer of a network where it starts."""
        reasons: dict[int, str] = {}
        for name in self.inputs:
            if name in values:
                finite = values[name].isfinite().flatten(1).all(1)
                for index in (~finite).nonzero().flatten().tolist():
                    fault = f"{network.name}: the values of {name} are not finite"
                    reasons.setdefault(index, f"{fault}; check the model")
        return reasons

    def _add_finite(self, pixels: Pixels, first: Values, second: Values) -> None:
        """Add the values of both networks for a batch."""
        other, counterpart = (first, second) if self.other is self.a else (second, first)
        if self.fed and self.fed.model:
            images = network_input(self.fed.model, pixels)
            layers = {name: inputs for name, inputs in self.inputs.items() if name in self.fed.layers}
            present = {*other}
            for name, computed in own_outputs(self.fed.model, images, other, layers):
                self._add_own(name, computed, other)
            for name in other.keys() - present:  # the pools that `own_outputs` added
                del other[name]
        elif self.has_own_scales:
            for name in other.keys() & counterpart.keys():
                self._rescale(name, other, counterpart[name])
        for name, parts in self.outline.parts.items():
            if all(part in first and part in second for part in parts):
                self.similarities.setdefault(name, Similarity()).add(joined(first, parts), joined(second, parts))
        self.images += len(pixels)
        self.batches += 1

    def _values(self, network: ComparedNetwork, pixels: Pixels) -> Values:
        """The values of the layers that both networks have, and of the classes that both have."""
        device = next(self.fed.model.parameters()).device if self.fed and self.fed.model else "cpu"
        values = {name: net.to(device) for name, net in network.run(pixels).items() if name in self.inputs}
        for name in CLASSIFIERS & values.keys():
            if self.columns:
                values[name] = values[name][:, self.columns[network is self.b]]
            else:
                del values[name]
        return values

    def _add_own(self, name: str, computed: Tensor | None, other: Values) -> None:
        """Compare what the fed network's layer `computed` with the values of the other network."""
        if name in CLASSIFIERS and computed is not None and self.columns:
            computed = computed[:, self.columns[self.fed is self.b]]
        if computed is None or computed.shape != other[name].shape:
            squares = math.inf, 1.0
        else:
            if self.has_own_scales:
                self._rescale(name, other, computed)
            values = exact(other[name])
            squares = float((exact(computed) - values).square().sum()), float(values.square().sum())
        self.own[name] = [total + new for total, new in zip(self.own.get(name, (0.0, 0.0)), squares, strict=True)]

    def _rescale(self, name: str, values: Values, reference: Tensor) -> None:
        """Undo the factors of the channels in an int8 file (inference/equalise.py), by least squares on one batch."""
        net = values[name]
        if name.split("/")[0] not in BASE_END_POINTS or net.shape != reference.shape:
            return
        if name not in self.factors:
            y = exact(net)
            fitted = (exact(reference) * y).sum((0, 2, 3)) / y.square().sum((0, 2, 3))
            self.factors[name] = torch.where((fitted > 0) & fitted.isfinite(), fitted, 1.0)
        values[name] = net * self.factors[name].to(net).view(-1, 1, 1)

    def differing(self, tolerance: float) -> tuple[str, ...]:
        """The layers whose own computation differs by more than the tolerance, or of two files, that jump."""
        if self.fed:
            # Where the input of a layer is not in a file, its own computation includes that of the layers before.
            without_input = [name for name in self.inputs if name in self.similarities and name not in self.own]
            found = {name for name in without_input if self.similarities[name].difference > tolerance}
            if self.has_own_scales:
                self._leave_out_unknown_scales(tolerance)
            found |= {name for name, squares in self.own.items() if relative(*squares) > tolerance}
            return tuple(name for name in self.inputs if name in found)
        return tuple(
            name
            for name in self.inputs
            if name in self.similarities
            and self.similarities[name].difference > max(tolerance, JUMP * self._inherited(name))
        )

    def _leave_out_unknown_scales(self, tolerance: float) -> None:
        """Leave out the layers that read a layer that differs: the scales of its channels cannot be fitted."""
        unknown: set[str] = set()
        for name, inputs in self.inputs.items():
            if not unknown.isdisjoint(inputs):
                self.own.pop(name, None)
                unknown.add(name)
            elif name in self.own and relative(*self.own[name]) > tolerance:
                unknown.add(name)

    def _inherited(self, name: str) -> float:
        """The relative difference of a layer's input."""
        inputs = self.inputs[name]
        while inputs and inputs[0] not in self.similarities:  # a pool that the file computes in another order
            inputs = self.inputs[inputs[0]]
        return (
            relative(*map(sum, zip(*(self.similarities[each].squares for each in inputs), strict=True)))
            if inputs
            else 0.0
        )

    def rows(self, parts_at: str | None) -> Iterator[LayerComparison]:
        """The rows of the end points, and inside the one where the networks part."""
        scope = f"{parts_at}".split("/")[0] + "/"
        for name, similarity in self.similarities.items():
            if "/" in name and not name.startswith(scope):
                continue
            inside = () if name == "Logits" else (each for each in self.own if each.startswith(f"{name}/"))
            own = [relative(*self.own[each]) for each in (*self.outline.parts[name], *inside) if each in self.own]
            yield LayerComparison(
                name, similarity.difference, similarity.correlation, similarity.cka, max(own, default=math.nan)
            )

    def notes(self) -> Iterator[str]:
        """What was left out or is not the same in both networks."""
        a, b = self.a.preprocessing, self.b.preprocessing
        if unlike := [each.name for each in fields(Preprocessing) if getattr(a, each.name) != getattr(b, each.name)]:
            yield (
                f"the preprocessing differs ({', '.join(unlike)}): both got the pixels of {self.a.name}, and each "
                "applied its own mean and std"
            )
        if missing := [name for name in self.end_points if name not in self.similarities]:
            yield f"left out, because not both have it: {', '.join(missing)}"
        if other_shapes := [name for name, each in self.similarities.items() if each.difference == math.inf]:
            yield (
                f"the shapes differ from {other_shapes[0]} on"
                if len(other_shapes) > 1
                else f"{other_shapes[0]} differs in shape"
            )
        has_classes = all(CLASSIFIER in network.layers for network in (self.a, self.b))
        if has_classes and (
            self.a.settings.num_classes != self.b.settings.num_classes or self.a.labels != self.b.labels
        ):
            yield self._note_on_classes()
        if self.has_own_scales:
            yield (
                f"{self.other.name}: its channels have scales of their own, which were fitted, so an error that only "
                "scales channels is not found"
            )
        if self.images < MIN_IMAGES:
            yield f"CKA needs {MIN_IMAGES} images, so it is left out"
        elif self.batches > 1:
            yield f"CKA is that of {self.batches} batches, averaged"

    def _note_on_classes(self) -> str:
        if self.columns is None:
            return "the networks have no classes in common, so their logits are left out"
        if None in (self.a.labels, self.b.labels):
            return "only one has class names, so the logits are compared by their numbers"
        return f"the logits of the {len(self.columns[0])} classes that both have are compared, by their names"

    def missing_classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The classes that only the first, and that only the second network has."""
        a, b = self.a.labels or [], self.b.labels or []
        if not (a and b):
            return (), ()
        return tuple(name for name in a if name not in {*b}), tuple(name for name in b if name not in {*a})


def own_outputs(
    model: InceptionV3, images: Tensor, values: Values, layers: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, Tensor | None]]:
    """Run each of the `layers` of a model on the values that another network has at its input.

    Yields the name of each layer that is in `values`, and its output (N, C, H, W); None if the input has another width.
    `values` may be changed in between. A pool that is missing there is added, as the model computes it.

    Args:
        images: the model's input (N, 3, H, W).
        values: by layer, of another network.
        layers: for each layer in the order of computation, the layers that it reads; () for the images.
    """
    weights = next(model.parameters())
    for name, inputs in layers.items():
        if any(each not in values for each in inputs):
            continue
        net = joined(values, inputs).to(weights) if inputs else images
        kernel = getattr(model.get_submodule(name.replace("/", ".")), "weights", None)
        output = run_one_layer(model, name, net) if kernel is None or kernel.shape[1] == net.shape[1] else None
        if name in values:
            yield name, output
        elif kernel is None and output is not None:
            values[name] = output


def shared_classes(a: ComparedNetwork, b: ComparedNetwork) -> tuple[list[int], list[int]] | None:
    """The indices, in both networks, of the logits of the classes that both have; None if there are none.

    Classes are matched by name. If a network has no names, those of two networks with as many logits are the same.
    """
    if a.labels and b.labels and a.labels != b.labels:
        index = {name: number for number, name in reversed([*enumerate(b.labels)])}
        pairs = [(number, index[name]) for number, name in enumerate(a.labels) if name in index]
        return ([first for first, _ in pairs], [second for _, second in pairs]) if pairs else None
    count = a.settings.num_classes
    return ([*range(count)], [*range(count)]) if count == b.settings.num_classes else None
