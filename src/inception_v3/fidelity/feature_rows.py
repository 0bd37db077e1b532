"""Matrices of features: in memory, or on disk and read in blocks, so that memory does not grow with the images."""

import os
import tempfile
import weakref
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from inception_v3.support.system_errors import temporary_file_errors

BLOCK_ROWS = 2048  # the rows of a matrix that are in memory, or multiplied, at once

FeatureRow = NDArray[np.float32]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class FeatureRows:
    """A float32 matrix (N, D) in a temporary file, indexed by slices and index arrays as a NumPy array is.

    The matrix has the `shape[1]` columns of the file that start at column `first`. Rows are read, not mapped into
    memory: mapped pages count as memory of the process until the operating system reclaims them.
    """

    file: BinaryIO
    shape: tuple[int, int]
    stride: int  # bytes from one row to the next
    first: int = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | NDArray[np.intp]) -> FeatureRow:
        indices = range(*chosen.indices(len(self))) if isinstance(chosen, slice) else chosen.tolist()
        rows = np.empty((len(indices), self.shape[1]), np.float32)
        for row, index in zip(rows, indices, strict=True):
            self.file.seek(index * self.stride + self.first * 4)
            self.file.readinto(row.data)  # type: ignore[attr-defined]
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.float32, copy=False)

    def columns(self, start: int, stop: int) -> "FeatureRows":
        """The same rows, limited to the columns from `start` to `stop`."""
        return replace(self, shape=(len(self), stop - start), first=self.first + start)


FeatureMatrix = NDArray[np.floating] | FeatureRows


class FeatureRowWriter:
    """Writes rows of `width` float32 features to a temporary file, which is deleted with the last object that uses it.

    Raises InputError: the disk is full.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        with temporary_file_errors(), tempfile.TemporaryFile(buffering=0, prefix="inception-v3-") as file:
            descriptor = os.dup(file.fileno())
        # A file object that closes its descriptor when it is deleted gives a ResourceWarning.
        self.file: Any = open(descriptor, "r+b", buffering=0, closefd=False)  # noqa: SIM115
        weakref.finalize(self.file, os.close, descriptor)

    def write(self, index: int, row: FeatureRow) -> None:
        """Write one row. Rows may come in any order."""
        rest = row.data.cast("B")
        with temporary_file_errors():
            self.file.seek(index * self.width * 4)
            while rest:  # an almost full disk stores a part, without an error
                rest = rest[self.file.write(rest) :]

    def rows(self, count: int) -> FeatureRows:
        """The matrix of the first `count` rows."""
        return FeatureRows(self.file, (count, self.width), self.width * 4)


def row_blocks(count: int, size: int | None = None) -> list[slice]:
    """Slices of at most `size` rows (by default BLOCK_ROWS) that together cover `count` rows."""
    size = size or BLOCK_ROWS
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
