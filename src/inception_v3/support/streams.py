"""Standard streams that are always open and print every character, and the consoles on them."""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from inception_v3.errors import InputError
from inception_v3.support.system_errors import write_reason
from inception_v3.support.text import printable

if TYPE_CHECKING:
    from rich.console import Console


def protect_streams() -> None:
    """Replace this process's standard streams; the program calls it before it opens any file.

    - A closed stream (`>&-`) is opened on /dev/null, so that no other file gets its descriptor. Standard input is then
      empty, and messages are discarded. Standard output is opened for reading only, so that a result that is printed
      there is an error, as it is for `cat`.
    - Characters that the encoding of a stream lacks are printed as escapes, such as \\xe9.
    - A non-blocking descriptor is waited for.
    - sys.stderr writes to a duplicate of descriptor 2, which images/decode.py redirects while a thread decodes a TIFF.

    The first write that fails raises InputError on standard output, or BrokenPipeError if its reader has gone; later
    output is discarded. Messages that cannot be written are discarded: they must not end a training.
    """
    for descriptor, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free descriptor, which is this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = _protect(sys.stdout, 1), _protect(sys.stderr, 2)


def _protect(stream: TextIO | None, descriptor: int) -> TextIO:
    encoding, is_unbuffered = "utf-8", descriptor == 2
    if isinstance(stream, io.TextIOWrapper):
        if type(getattr(stream.buffer, "raw", stream.buffer)) is not io.FileIO:  # a console of Windows
            stream.reconfigure(errors="backslashreplace")
            return stream
        stream.flush()
        encoding, is_unbuffered = stream.encoding, stream.line_buffering or stream.write_through
    raw = _StandardStream(os.dup(2) if descriptor == 2 else descriptor, is_result=descriptor == 1)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=is_unbuffered)


class _StandardStream(io.FileIO):
    """A standard stream; see `protect_streams` for errors. The descriptor is left open at exit, as Python's own are."""

    def __init__(self, descriptor: int, is_result: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._raises = is_result

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # non-blocking, and the reader is slow
                select.select((), (self,), ())
            return written
        except OSError as error:
            if not self._raises:
                return memoryview(data).nbytes
            self._raises = False
            if isinstance(error, BrokenPipeError):
                raise
            cause = write_reason(error).partition(";")[0] if error.errno == errno.EFBIG else error.strerror
            raise InputError(
                f"standard output: cannot be written ({cause}); redirect it to another file or disk"
            ) from error


@contextmanager
def discard_stderr() -> Iterator[None]:
    """Discard what C code prints to descriptor 2. After `protect_streams`, sys.stderr writes to another descriptor."""
    with Path(os.devnull).open("wb") as null:
        original = os.dup(2)
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)


def print_text(console: "Console", text: str, style: str = "") -> None:
    """Print one line on a console as `printable` shows it, neither wrapped nor coloured by its content."""
    console.print(printable(text), style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def new_console(**options: Any) -> "Console":
    """Return rich's console with these options. It prints text as it is: names may look like markup or emoji codes."""
    from rich.console import Console

    class LiteralConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich calls it while it handles the BrokenPipeError, and would exit with status 1

    return LiteralConsole(markup=False, emoji=False, highlight=False, **options)
