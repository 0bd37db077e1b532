"""Results as pictures in a notebook. Nothing here needs matplotlib until a picture is drawn."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from inception_v3.support.files import atomic_write, check_suffix
from inception_v3.support.packages import missing_packages
from inception_v3.support.text import to_json

PLOT_SUFFIXES = (".png", ".pdf", ".svg")


class Plotted(Protocol):
    """A result with a `plot`, a figure of matplotlib or an image of Pillow."""

    def plot(self) -> Any: ...


def png(result: Plotted) -> bytes | None:
    """The plot of a result as PNG; None without matplotlib, for which a notebook prints the result as text."""
    if missing_packages(("matplotlib",)):
        return None
    plot, buffer = result.plot(), BytesIO()
    if hasattr(plot, "savefig"):
        plot.savefig(buffer, format="png", dpi=80)
    else:
        plot.save(buffer, format="png")
    return buffer.getvalue()


def save_result(result: Plotted, path: str | Path, written: str, facts: Mapping[str, Any]) -> None:
    """Write `facts` as .json, or the figure of a result with one of PLOT_SUFFIXES.

    Raises InputError: another suffix, which the message explains by what is `written`; the file cannot be written.
    """
    path = Path(path)
    check_suffix(path, (".json", *PLOT_SUFFIXES), written)
    suffix = path.suffix.lower()
    figure = None if suffix == ".json" else result.plot()
    with atomic_write(path) as temporary:
        if figure is None:
            temporary.write_text(to_json(dict(facts), indent=1), "utf-8")
        else:
            figure.savefig(temporary, format=suffix.removeprefix("."), dpi=120)
