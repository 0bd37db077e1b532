"""The files and URLs that an address means: paths, patterns and braces."""

import glob
import os
import re
from itertools import islice
from math import prod

from inception_v3.errors import InputError
from inception_v3.support.packages import import_package

MAX_FILES = 100_000


# The functions of os.path return False for patterns that are too long to be paths; those of pathlib raise.
exists = os.path.exists
is_folder = os.path.isdir


def is_url(address: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*(::[^/]+)?://", address) is not None


def expand(address: str) -> list[str]:
    """Expand an address to files and URLs: {000..009} and {a,b} anywhere; *, **, ? and [] only for files on disk.

    An existing path is returned as it is, whatever characters are in its name.
    Raises InputError: no file matches, or the braces expand to more than MAX_FILES.
    """
    if exists(address):
        return [address]
    files: list[str] = []
    for pattern in _expand_braces(address) if "{" in address else [address]:
        if is_url(pattern) or exists(pattern):
            files.append(pattern)
        elif matches := sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 (patterns may be absolute)
            files += matches
        else:
            raise InputError(
                f"{pattern}: no such folder or file, and no file matches it as a pattern; give a folder of class/image "
                "files, shards, or digits",
                exit_status=2,
            )
    return files


def _expand_braces(address: str) -> list[str]:
    braceexpand = import_package("braceexpand", address, "data").braceexpand
    try:
        # braceexpand builds the whole list of each range before it yields, so the product is checked first
        count = prod(abs(int(last) - int(first)) + 1 for first, last in re.findall(r"\{(-?\d+)\.\.(-?\d+)", address))
        patterns = list(islice(braceexpand(address), MAX_FILES + 1)) if count <= MAX_FILES else []
    except ValueError as error:
        raise InputError(f"{address}: its braces cannot be read ({error})", exit_status=2) from error
    if not 0 < len(patterns) <= MAX_FILES:
        raise InputError(f"{address}: more than {MAX_FILES:,} files; use a smaller range in the braces", exit_status=2)
    return patterns
