"""The classes that describe a format of weights: `Format` and `WritableFormat`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inception_v3.weights.formats.weights import Weights
from inception_v3.weights.programs.node import NodeProgram
from inception_v3.weights.programs.program import Program


@dataclass(frozen=True, kw_only=True)
class Format:
    """A file format that can be read.

    Attributes:
        name: the name that `--to` and `load(format=...)` take. The format's module has the same name, with underscores.
        recognises: return whether a path holds this format, by its content. Raises InputError if the path cannot be
            read; a damaged file is not recognised.
        read: read a path. Raises InputError, in one line with the file and the variable at fault.
        read_state: read one of several networks in a file, by its key; None for formats with one network a file.
        write_instead: for a format that cannot be written, the name of a format that holds the same network.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], Weights]
    read_state: Callable[[Path, str], Weights] | None = None
    write_instead: str = "native"


@dataclass(frozen=True, kw_only=True)
class WritableFormat(Format):
    """A file format that can also be written.

    Attributes:
        write: write weights to a path, atomically. InputError if the format cannot hold them, the disk is full, or the
            path cannot be written.
        differences: list the reasons why the format's program would compute other outputs from these weights.
        suffixes: destinations with one of these suffixes get this format if no other is requested.
        required_suffixes: the only suffixes with which the format's program opens a file; empty if any will do.
        forbidden_suffixes: suffixes with which the format's program misreads a file.
        has_gamma: whether BatchNorm's scale can be stored. Otherwise `write` folds it into the kernels.
        rescales: whether `write` puts a layer in front of a network with another mean and std than [-1, 1], so that the
            file takes pixels from 0 to 255.
        program: the program that the format belongs to; None for this project's own.
    """

    write: Callable[[Weights, Path], None]
    differences: Callable[[Weights], list[str]]
    suffixes: tuple[str, ...] = ()
    required_suffixes: tuple[str, ...] = ()
    forbidden_suffixes: tuple[str, ...] = ()
    has_gamma: bool = True
    rescales: bool = False
    program: Program | NodeProgram | None = None
