"""Features on disk, read in blocks as an array is, so that memory is flat in the number of images."""

import tempfile
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError

Row = NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """(N, D) float32: `width` columns from `first` of the rows of a file that has no name and ends with its readers.

    Read, not mapped: what is mapped counts as the process's memory until the system takes it back.
    """

    file: BinaryIO
    shape: tuple[int, int]
    stride: int  # bytes from one row to the next
    first: int = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | NDArray[np.intp]) -> Row:
        places = range(*chosen.indices(len(self))) if isinstance(chosen, slice) else chosen.tolist()
        found = np.empty((len(places), self.shape[1]), np.float32)
        for row, place in zip(found, places, strict=True):
            self.file.seek(place * self.stride + self.first * 4)
            self.file.readinto(row.data)  # type: ignore[attr-defined]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.float32, copy=False)

    def columns(self, start: int, stop: int) -> "Rows":
        return replace(self, shape=(len(self), stop - start), first=self.first + start)


class RowWriter:
    """Takes rows of `width` in any order. Raises InputError: no room on the disk."""

    def __init__(self, width: int) -> None:
        self.width = width
        try:
            self.file: Any = tempfile.TemporaryFile(buffering=0, prefix="inception-v3-")  # noqa: SIM115
        except OSError as error:
            raise _no_room(error.strerror) from error

    def write(self, place: int, row: Row) -> None:
        try:
            self.file.seek(place * self.width * 4)
            written = self.file.write(row.data)
        except OSError as error:
            raise _no_room(error.strerror) from error
        if written != self.width * 4:  # the last bytes that there was room for
            raise _no_room("No space left on device")

    def rows(self, count: int) -> Rows:
        """All of them, written or not."""
        return Rows(self.file, (count, self.width), self.width * 4)


def _no_room(reason: str | None) -> InputError:
    folder = tempfile.gettempdir()
    return InputError(f"{folder}: no room for the features of all images ({reason}); set TMPDIR to another")
