"""`inception-v3 cache`"""

import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import Cache, Json, data_option, output, print_json, print_line, warn
from inception_v3.errors import InputError
from inception_v3.support.files import cache_folder, write_errors
from inception_v3.support.system_errors import is_folder, list_folder
from inception_v3.support.text import choose, printable

if TYPE_CHECKING:
    from inception_v3.inference.feature_store import FeatureStore

FEATURES = "features"


def cache(
    clear: Annotated[
        str | None,
        data_option(metavar="NAME", help="Remove a part of the cache: features, another listed folder, or all."),
    ] = None,
    older_than: Annotated[
        int | None,
        data_option(min=0, metavar="DAYS", help="With --clear features: only those not used in the last DAYS days."),
    ] = None,
    yes: Annotated[bool, data_option("--yes", help="Clear without asking.")] = False,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Show or clear the feature store, downloads and other cached files."""
    from inception_v3.inference.feature_store import FeatureStore

    if older_than is not None and clear != FEATURES:
        raise InputError(f"--older-than: needs --clear {FEATURES}", exit_status=2)
    store = FeatureStore(cache or cache_folder(FEATURES))
    own = list_folder(cache_folder()) if cache is None and is_folder(cache_folder()) else []
    folders = {path.name: path for path in own if is_folder(path)}
    folders[FEATURES] = store.file.parent
    with closing(store):
        if clear is not None:
            _clear(store, folders, clear, older_than, yes)
        spaces = store.spaces() if store.file.exists() else []
    sizes = {name: _size(store.file if cache and name == FEATURES else path) for name, path in sorted(folders.items())}
    if as_json:
        print_json({"folder": str(store.file.parent), "spaces": spaces, "folders": sizes})
    else:
        _print_tables(store.file.parent, spaces, sizes)
    for message in store.messages:
        warn(message)


def _clear(store: "FeatureStore", folders: dict[str, Path], name: str, older_than: int | None, yes: bool) -> None:
    """Remove the features or the folder of this name, or everything. Raises InputError: no such folder; a lock."""
    name = choose("--clear", name, [*sorted(folders), "all"])
    names = [*folders] if name == "all" else [name]
    if not yes and not sys.stdin.isatty():
        raise InputError("--clear: asks before it removes files; give --yes to clear without asking", exit_status=2)
    if not yes:
        typer.confirm(f"Clear {', '.join(names)} in {store.file.parent.parent}?", abort=True, err=True)
    for folder in names:
        with write_errors(folders[folder]):
            if folder == FEATURES and store.file.exists():
                if not store.clear(-1 if older_than is None else older_than):
                    raise InputError(store.messages.pop())
            elif folder != FEATURES:
                shutil.rmtree(folders[folder])


def _size(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(file.lstat().st_size for file in files if file.is_file())


def _print_tables(folder: Path, spaces: list[dict[str, Any]], sizes: dict[str, int]) -> None:
    from rich.table import Table

    table = Table(title="feature store")
    for column in ("network", "end points", "preprocessing", "precision", "engine", "images", "MB", "last used"):
        table.add_column(column, justify="right" if column in ("images", "MB") else "left", max_width=24)
    for space in spaces:
        fields = (space[name] for name in ("end_point", "preprocessing", "precision", "engine"))
        megabytes = f"{space['bytes'] / 1e6:,.1f}"
        cells = space["weights"][:12], *fields, f"{space['images']:,}", megabytes, space["used"]
        table.add_row(*map(printable, cells))
    output.print(table)
    for name, size in sizes.items():
        print_line(f"{name}: {size / 1e6:,.1f} MB")
    print_line(f"feature store in {folder}")
