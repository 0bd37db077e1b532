"""The inside of a network, from which the live page requests one map, field or heat map at a time. Needs no PyTorch.

`Inside` is the interface, and ExportedInside implements it for exported files. inside_pytorch.py implements it for
networks in PyTorch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from inception_v3.explain.attribution.exported import LAST_MAP, ExportedNetwork, exported_grad_cam, open_with_map
from inception_v3.explain.attribution.result import Attribution, AttributionOptions
from inception_v3.explain.look.exported import ExportedLook, Map, cam_of, open_exported_look, values_of_parts
from inception_v3.explain.look.outline import outline
from inception_v3.explain.look.result import Cam, Field, LookOptions
from inception_v3.explain.views import View
from inception_v3.inference.engines.base import LOGITS

Pixels = NDArray[np.uint8]  # (H, W, 3), prepared for the network


class Inside(Protocol):
    """An open network. Its methods may be called by one thread at a time.

    Attributes:
        missing: what cannot be had: a key of the page's texts for each, as in `Look.missing`.
        no_cam_reason: as in ModelFacts.
        lost: the parts whose values cannot be had.
        cam_end_points: the end points for which there is Grad-CAM.
    """

    @property
    def missing(self) -> Mapping[str, str]: ...
    @property
    def no_cam_reason(self) -> str: ...
    @property
    def lost(self) -> tuple[str, ...]: ...
    @property
    def cam_end_points(self) -> tuple[str, ...]: ...

    def maps(self, pixels: Pixels, name: str) -> dict[str, Map]:
        """The values of an end point, branch or layer by its name; empty if they cannot be had."""
        ...

    def field(self, pixels: Pixels, name: str) -> Field | None:
        """The effective receptive field of an end point's centre unit; None if it cannot be had."""
        ...

    def cam(self, pixels: Pixels, index: int) -> Cam | None:
        """Grad-CAM of a class; None if it cannot be had."""
        ...

    def explain(self, view: View, options: AttributionOptions) -> Attribution:
        """As `explain.attribute`. Raises InputError: it cannot be had, with the remedy; no such class."""
        ...


class ExportedInside:
    """An exported file, whose maps are further outputs of a copy in memory."""

    def __init__(self, file: Path, network: ExportedLook) -> None:
        """Runs the network once, on a black image."""
        self._file, self._network, self._settings = file, network, network.facts.settings
        self.no_cam_reason = network.facts.no_cam_reason
        has_cam = not (self.no_cam_reason or self._settings.final_endpoint or LOGITS not in network.outputs)
        self.cam_end_points: tuple[str, ...] = (LAST_MAP,) if has_cam else ()
        self.missing = {"fields": "exported_fields"}
        black = np.zeros((1, *network.description.preprocessing.image_size, 3), np.uint8)
        held = values_of_parts(self._settings, network.run(black))
        self.lost = tuple(part.name for part in outline(self._settings) if part.name not in held)
        if self.lost:
            self.missing["parts"] = "exported_parts"
        if not self._settings.final_endpoint:
            self.missing |= {"aux": "exported_aux", "silenced": "exported_silenced"}
            self.missing["cams"] = "exported_cams" if has_cam else "exported_no_cams"

    def maps(self, pixels: Pixels, name: str) -> dict[str, Map]:
        return values_of_parts(self._settings, self._network.run(pixels[None]), name)

    def field(self, pixels: Pixels, name: str) -> Field | None:
        return None

    def cam(self, pixels: Pixels, index: int) -> Cam | None:
        if not self.cam_end_points:
            return None
        outputs = self._network.run(pixels[None])
        logits = outputs[LOGITS].reshape(-1).astype(np.float64)
        features = values_of_parts(self._settings, outputs, LAST_MAP)[LAST_MAP].astype(np.float64)
        finite = np.isfinite(logits).all() and np.isfinite(features).all()
        return cam_of(self._network, logits, features, index) if finite else None

    def explain(self, view: View, options: AttributionOptions) -> Attribution:
        network = self._network
        if network.weights is None or LAST_MAP not in network.outputs:
            return exported_grad_cam(open_with_map(self._file), view, options)  # which gives the reason
        opened = ExportedNetwork(self._file, network.run, network.description, network.weights)
        return exported_grad_cam(opened, view, options)


def open_exported_inside(file: Path) -> ExportedInside:
    """Open an exported file. Raises InputError, as `open_exported_look` does."""
    return ExportedInside(file, open_exported_look(file, LookOptions()))
