"""Long columns in little memory: a million files need not be a million objects, in no worker process."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar, overload

import numpy as np

Item = TypeVar("Item", covariant=True)


class Made(Sequence[Item]):
    """What `make` makes of each number, when it is asked for. Can be sent to other processes if `make` can."""

    def __init__(self, make: Callable[[int], Item], numbers: Sequence[int] | np.ndarray) -> None:
        self.make, self.numbers = make, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "Made[Item]": ...
    def __getitem__(self, index: int | slice) -> "Item | Made[Item]":
        if isinstance(index, slice):
            return Made(self.make, self.numbers[index])
        return self.make(int(self.numbers[index]))

    def __iter__(self) -> Iterator[Item]:
        return (self.make(int(number)) for number in self.numbers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def __repr__(self) -> str:
        return f"<{len(self)} items>"

    def subset(self, indices: Sequence[int]) -> "Made[Item]":
        return Made(self.make, np.asarray(self.numbers)[np.asarray(indices, dtype=np.int64)])


class Texts:
    """Texts end to end in one piece of memory. File names keep bytes that are no UTF-8."""

    def __init__(self, texts: Iterable[str]) -> None:
        joined, ends = bytearray(), array("q")
        for text in texts:
            joined += text.encode("utf-8", "surrogateescape")
            ends.append(len(joined))
        self._joined, self._ends = bytes(joined), ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return self._joined[start : self._ends[number]].decode("utf-8", "surrogateescape")


def joined(first: Sequence[Any], second: Sequence[Any]) -> Made[Any]:
    """The items of both, one after the other, still made when they are asked for."""
    return Made(partial(_of_both, first, second), range(len(first) + len(second)))


def _of_both(first: Sequence[Any], second: Sequence[Any], number: int) -> Any:
    return first[number] if number < len(first) else second[number - len(first)]


def subset(column: Sequence[Any], indices: Sequence[int]) -> Sequence[Any]:
    """The items of a column at these places, in a column as small as it was."""
    if isinstance(column, Made):
        return column.subset(indices)
    if isinstance(column, array):
        return array(column.typecode, (column[index] for index in indices))
    return [column[index] for index in indices]
