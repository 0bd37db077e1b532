"""CSV tables, in a file or on standard output."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from inception_v3.support.files import atomic_write
from inception_v3.support.text import csv_record, printable

STDOUT = Path("-")


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table with a header; to standard output if `file` is STDOUT. See `csv_record` for the form of a row.

    On a terminal, characters are escaped as `printable` does. Raises InputError if the file cannot be written.
    """
    if file == STDOUT:
        records = map(csv_record, [columns, *rows])
        is_terminal = sys.stdout.isatty()
        sys.stdout.writelines(f"{printable(record[:-1])}\n" if is_terminal else record for record in records)
        return
    with atomic_write(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as opened:
        opened.writelines(map(csv_record, [columns, *rows]))
