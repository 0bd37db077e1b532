"""The classes of a network, by name or by number."""

from collections.abc import Sequence

from inception_v3.errors import InputError
from inception_v3.support.text import printable, suggest


def find_class(wanted: str | int, names: Sequence[str]) -> int:
    """The index of a class, by its name or its index. Raises InputError, with the most similar name: no such class."""
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    if str(wanted).isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise InputError(f"no class {printable(str(wanted))}; {suggest(str(wanted), names)}", exit_status=2)
