"""CSV tables, in a file or on standard output."""

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from inception_v3.support.files import atomic_write

STDOUT = Path("-")


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with a header; to standard output if `file` is STDOUT. None becomes an empty cell.

    Bytes of file names that are not UTF-8 are written as they are. Raises InputError if the file cannot be written.
    """
    if file == STDOUT:
        csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *rows])
        return
    with (
        atomic_write(file) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened,
    ):
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
