"""The search: all images run through the network once; each channel keeps the images with its largest values.

The engine reduces each map to the maximum of each channel and its position (`add_peaks` of engines/graph.py), so that
80 kB of an image leave it instead of 7 MB.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inception_v3.errors import InputError
from inception_v3.explain.patches.found import COUNT, Group
from inception_v3.explain.patches.images import ImageSet, LabelledSource
from inception_v3.explain.patches.result import PatchSet
from inception_v3.explain.patches.top import TopList
from inception_v3.explain.receptive_fields import all_receptive_fields
from inception_v3.inference.choose import OpenedModel
from inception_v3.inference.engines.base import LOGITS, PEAK, PLACE, Engine, Inputs, Outputs
from inception_v3.inference.pipeline import run_end_points
from inception_v3.network.architecture import OutputActivation
from inception_v3.network.probabilities import class_logits
from inception_v3.support.progress import Advance, ignore, report

VALUES, PLACES, CONTENT = "values", "places", "content"
HELD_NAMES = 4096  # names of images that may be held before those that are in no list are dropped


def search(
    opened: OpenedModel,
    images: ImageSet,
    modules: Sequence[str],
    fields: Mapping[str, int],
    *,
    per_class: bool = False,
    batch_size: int | None = None,
    advance: Advance = ignore,
) -> PatchSet:
    """Find the COUNT images and positions that excite each channel of the modules most, in one pass over the images.

    An image counts once for a channel, at its largest value. Of equal values, the first position in row-major order and
    the earlier image count. Images whose prepared pixels are equal count as one. Values of 0 excite nothing, so they
    are left out.

    Args:
        opened: a network that was opened with `peaks=modules`, and for `per_class` with the output Logits.
        images: from `find_images`.
        modules: the end points whose channels are searched.
        fields: the side of the patches of each module, in pixels of the network's input.
        per_class: search also for the images with the largest logit of each class.
        batch_size: images at once; by default what suits the engine.
        advance: called with the number of images that are done.

    Raises InputError: no image can be read; the engine fails.
    """
    preprocessing, settings = opened.description.preprocessing, opened.description.settings
    groups = find_groups(opened, modules, fields, per_class)
    found = _Found(groups)
    names = {name: name for name in (VALUES, PLACES, CONTENT)}
    reduced = _Reduced(opened.engine, groups, settings.output_activation)
    size = batch_size or opened.engine.batch_size
    for number, result in enumerate(run_end_points(reduced, preprocessing, images.read(), names, batch_size=size)):
        assert isinstance(result.source, LabelledSource)
        if result.outputs is None:
            found.failed.append((result.source.name, str(result.error)))
        else:
            found.add(number, result.source, result.outputs)
        report(advance, 1, int(result.outputs is None))
    if not found.count:
        reason = found.failed[0][1] if found.failed else "there are none"
        raise InputError(f"{images.address}: no image can be read; {reason}")
    return found.result(images, opened)


def find_groups(
    opened: OpenedModel, modules: Sequence[str], fields: Mapping[str, int], per_class: bool
) -> tuple[Group, ...]:
    """The groups of channels: the modules, and for `per_class` the classes."""
    description = opened.description
    points = {point.name: point for point in description.settings.end_points(*description.preprocessing.image_size)}
    groups, first = [], 0
    for name in modules:
        point = points[name]
        groups.append(Group(name, slice(first, first := first + point.channels), point.width, fields[name]))
    if per_class:
        groups.append(Group(LOGITS, slice(first, first + description.settings.class_count)))
    return tuple(groups)


class _Found:
    """What the search has found so far: the top list, and the names of the images in it."""

    def __init__(self, groups: Sequence[Group]) -> None:
        above = np.zeros(groups[-1].rows.stop, np.float32)
        for group in groups:
            above[group.rows] = -np.inf if group.is_class else 0
        self.groups, self.top = tuple(groups), TopList(len(above), COUNT, above)
        self.count = self.duplicates = 0
        self.failed: list[tuple[str, str]] = []
        self._sources: dict[int, tuple[str, str | None]] = {}
        self._contents: dict[int, int] = {}  # the hash of each image whose name is held
        self._limit = HELD_NAMES
        self._started = time.monotonic()

    def add(self, number: int, source: LabelledSource, outputs: Mapping[str, Any]) -> None:
        self.count += 1
        content = int(outputs[CONTENT])
        if content in self._contents:  # an image that is in no list any more cannot enter one again
            self.duplicates += 1
        elif self.top.add(number, outputs[VALUES], outputs[PLACES]):
            self._sources[number], self._contents[content] = (source.name, source.class_name), number
            if len(self._sources) > self._limit:
                self._drop()

    def _drop(self) -> None:
        """Drop the names of the images that are in no list any more."""
        listed = set(self.top.images.ravel().tolist())
        self._sources = {number: source for number, source in self._sources.items() if number in listed}
        self._contents = {content: number for content, number in self._contents.items() if number in listed}
        self._limit = max(HELD_NAMES, 2 * len(self._sources))

    def result(self, images: ImageSet, opened: OpenedModel) -> PatchSet:
        self._drop()
        description = opened.description
        return PatchSet(
            images=images,
            preprocessing=description.preprocessing,
            receptive_fields=all_receptive_fields(description.preprocessing.image_size, description.settings),
            class_names=tuple(description.names()),
            groups=self.groups,
            values=self.top.values,
            numbers=self.top.images,
            places=self.top.places,
            sources=self._sources,
            count=self.count,
            duplicates=self.duplicates,
            failed=(*images.bad, *self.failed),
            engine=opened.engine.name,
            precision=opened.engine.precision,
            seconds=time.monotonic() - self._started,
        )


class _Reduced(Engine):
    """Runs an engine, and joins the peaks of all groups: values and positions (N, channels), and a hash of each image.

    If the engine returns maps instead of peaks, NumPy reduces them.
    """

    def __init__(self, engine: Engine, groups: Sequence[Group], activation: OutputActivation) -> None:
        self._engine, self._groups, self._activation = engine, groups, activation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, inputs: Inputs) -> Outputs:
        outputs = self._engine.run(inputs)
        peaks = [self._peaks(group, outputs) for group in self._groups]
        hashes = [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest() for image in inputs]
        values, places = (np.concatenate(parts, 1) for parts in zip(*peaks, strict=True))
        return {VALUES: values, PLACES: places, CONTENT: np.frombuffer(b"".join(hashes), np.uint64)}

    def _peaks(self, group: Group, outputs: Outputs) -> tuple[Any, Any]:
        """The values and positions (N, channels) of a group."""
        if group.is_class:
            values = class_logits(outputs[LOGITS], self._activation)
            return values, np.zeros(values.shape)
        if group.name + PEAK in outputs:
            return outputs[group.name + PEAK], outputs[group.name + PLACE]
        flat = outputs[group.name].reshape(*outputs[group.name].shape[:2], -1)
        return flat.max(2), flat.argmax(2)
