"""What a search for patches has found, as data."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inception_v3.explain.classes import find_class
from inception_v3.explain.patches.images import ImageSet
from inception_v3.explain.patches.top import NO_IMAGE
from inception_v3.explain.receptive_fields import ReceptiveField
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import LOGITS
from inception_v3.network.architecture import unknown_end_point

COUNT = 9  # images of each channel


@dataclass(frozen=True)
class Group:
    """The channels of a module, or the classes.

    Attributes:
        name: of the module; Logits for the classes.
        rows: which rows of a FoundPatches they are.
        width: the number of columns of the module's map.
        field: the side of a patch in pixels of the network's input. Classes have whole inputs instead.
    """

    name: str
    rows: slice
    width: int = 1
    field: int = 0

    @property
    def is_class(self) -> bool:
        return self.name == LOGITS

    @property
    def channels(self) -> int:
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True, eq=False)
class FoundPatches:
    """For each channel of some modules, and maybe each class, the nine images that excite it most, largest value first.

    Attributes:
        images: the images that were searched. They are read again to cut patches.
        preprocessing: how the network sees them.
        receptive_fields: of the network's end points.
        class_names: of the network.
        groups: the modules, and which rows of the next three arrays are their channels.
        values: float32 (rows, 9): the channel's largest value in the image, for a class its logit. Compare them
            within a row only: an int8 network has rescaled channels.
        numbers: int64 (rows, 9): the number of the image in `images`, -1 where fewer images excite the channel.
        places: int64 (rows, 9): row * columns + column of that value in the map.
        sources: the name and the class of each image in `numbers`; without classes, None.
        count: the number of images that were searched, with the `duplicates` that were left out.
        failed: the (name, reason) of images that could not be read.
        engine, precision: with which the images were searched, and the `seconds` that it took.
    """

    images: ImageSet = field(repr=False)
    preprocessing: Preprocessing = field(repr=False)
    receptive_fields: Mapping[str, ReceptiveField] = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    groups: tuple[Group, ...]
    values: NDArray[np.float32] = field(repr=False)
    numbers: NDArray[np.int64] = field(repr=False)
    places: NDArray[np.int64] = field(repr=False)
    sources: Mapping[int, tuple[str, str | None]] = field(repr=False)
    count: int
    duplicates: int = 0
    failed: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    engine: str = ""
    precision: str = ""
    seconds: float = 0.0

    def numpy(self) -> NDArray[np.float32]:
        """The values (rows, 9); nan where fewer images excite the channel."""
        return np.where(self.numbers == NO_IMAGE, np.float32(np.nan), self.values)

    def row(self, name: str) -> tuple[Group, int]:
        """The group and the row of a channel such as "Mixed_5b:12", or of a class, such as "Logits:cat".

        Raises:
            ValueError: no such module or channel.
            InputError: no such class.
        """
        module, _, channel = name.partition(":")
        groups = {group.name: group for group in self.groups}
        if module not in groups:
            raise unknown_end_point(module, groups)
        group = groups[module]
        if group.is_class:
            return group, group.rows.start + find_class(channel, self.class_names)
        if not channel.isdecimal() or int(channel) >= group.channels:
            raise ValueError(f"{name}: {module} has the channels 0 to {group.channels - 1}")
        return group, group.rows.start + int(channel)

    def top_class(self, row: int) -> tuple[str, int] | None:
        """The class of most of a row's images, and of how many. The first of equal ones; None without classes."""
        classes = (self.sources[number][1] for number in self.numbers[row].tolist() if number != NO_IMAGE)
        counts = Counter(name for name in classes if name is not None)
        return counts.most_common(1)[0] if counts else None

    def active(self, group: Group) -> int:
        """The number of a group's channels that at least one image excites."""
        return int((self.numbers[group.rows, 0] != NO_IMAGE).sum())
