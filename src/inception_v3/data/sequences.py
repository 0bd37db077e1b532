"""Sequences of millions of items in little memory, without a Python object for each item.

A worker process updates the reference count of every object that it reads, and so copies the memory around it.
"""

import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item", covariant=True)


class LazySequence(Sequence[Item]):
    """A lazy sequence: item i is `make(numbers[i])`, computed at each access. It can be pickled if `make` can."""

    def __init__(self, make: Callable[[int], Item], numbers: Sequence[int] | np.ndarray) -> None:
        self.make, self.numbers = make, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        """The item at an integer index, or a lazy sequence of the items of a slice."""
        if isinstance(index, slice):
            return LazySequence(self.make, self.numbers[index])
        return self.make(int(self.numbers[index]))

    def __iter__(self) -> Iterator[Item]:
        return (self.make(int(number)) for number in self.numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(operator.eq, self, other))


class PackedStrings:
    """Strings in one block of memory. File names that are not valid UTF-8 are kept exactly (surrogateescape)."""

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._joined, self._ends = bytearray(), array("q")
        self.extend(strings)

    def extend(self, strings: Iterable[str]) -> None:
        for string in strings:
            self._joined += string.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._joined))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return self._joined[start : self._ends[index]].decode("utf-8", "surrogateescape")


def concatenate(first: Sequence[Any], second: Sequence[Any]) -> LazySequence[Any]:
    """The items of both sequences, in order. They are still computed only on access."""
    return LazySequence(partial(_item_of_either, first, second), range(len(first) + len(second)))


def _item_of_either(first: Sequence[Any], second: Sequence[Any], index: int) -> Any:
    return first[index] if index < len(first) else second[index - len(first)]


def subset(column: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
    """The items at `indices`. A lazy sequence stays lazy, and an array stays an array."""
    if isinstance(column, LazySequence):
        return LazySequence(column.make, np.asarray(column.numbers)[np.asarray(indices, dtype=np.int64)])
    items = (column[index] for index in indices)
    return array(column.typecode, items) if isinstance(column, array) else list(items)
