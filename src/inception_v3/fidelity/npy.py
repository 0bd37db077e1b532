"""Read the headers of .npy files, and of the arrays in .npz archives, without loading the arrays."""

import lzma
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from inception_v3.errors import InputError

# Exceptions of damaged archives. RuntimeError: a password, or a compression method that Python does not support.
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


# Shape and dtype of an array in C order.
ArrayHeader = tuple[tuple[int, ...], "np.dtype[Any]"]


def read_npy_header(file: IO[bytes], name: str) -> ArrayHeader:
    """Read the header at the beginning of `file`. Raises InputError, with `name`: damaged, or Fortran order."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
        if any(length < 0 for length in shape):
            raise ValueError("a negative length")
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError) as error:  # NumPy parses it as Python source
        raise InputError(f"{name}: damaged or not a NumPy array; download or save it again") from error
    if fortran_order and len(shape) > 1 and dtype == np.uint8:
        raise InputError(f"{name}: stored in Fortran order; convert it with np.ascontiguousarray and save it again")
    return tuple(shape), dtype


def read_npz_headers(path: str | Path, name: str) -> dict[str, ArrayHeader]:
    """The header of each array of a .npz file, by the array's name. Raises InputError and ARCHIVE_ERRORS."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            if entry.endswith(".npy"):
                with archive.open(entry) as file:
                    headers[entry.removesuffix(".npy")] = read_npy_header(file, name)
    return headers
