"""The result of a search for patches, which plots and saves itself."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inception_v3.explain.patches.cut import SIDE, cut
from inception_v3.explain.patches.folder import write_folder
from inception_v3.explain.patches.found import COUNT, FoundPatches
from inception_v3.explain.patches.top import NO_IMAGE
from inception_v3.support.packages import require_packages
from inception_v3.support.progress import StartStep, no_progress
from inception_v3.support.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class PatchSet(FoundPatches):
    """For each channel of some modules, and maybe each class, the nine images that excite it most.

    See FoundPatches for the attributes.
    """

    def plot(self, name: str) -> "Figure":
        """The patches of one channel, such as "Mixed_5b:12", as a figure. Needs matplotlib (the extra `explain`).

        Raises:
            ValueError: no such module or channel.
            InputError: no such class, or the images cannot be read again.
        """
        require_packages(("matplotlib",), "plot()", "explain")
        from inception_v3.reports.plots import image_row

        _, row = self.row(name)
        patches = np.zeros((1, COUNT, SIDE, SIDE, 3), np.uint8)
        cut(self, [row], patches)
        count = int((self.numbers[row] != NO_IMAGE).sum())
        titles = [f"{value:.3g}" for value in self.values[row][:count].tolist()]
        return image_row([*patches[0][:count]], titles, name, side=1.2)

    def save(self, folder: str | Path, start_step: StartStep = no_progress) -> list[tuple[str, str]]:
        """Write the page index.html, the patches in sprites/ and the table patches.csv into a folder.

        Returns the (name, reason) of images that could not be read again.

        Raises:
            InputError: the folder cannot be written.
        """
        return write_folder(self, Path(folder), start_step)

    def _repr_html_(self) -> str:
        """The groups as a table, for a notebook."""
        rows = "".join(
            f"<tr><td>{escape(printable(group.name))}</td><td>{group.channels}</td><td>{active}</td></tr>"
            for group, active in ((group, self.active(group)) for group in self.groups)
        )
        return f"<table><tr><th>module</th><th>channels</th><th>active in an image</th></tr>{rows}</table>"
