"""The inside of a network in PyTorch, for the live page: see inside.py."""

from typing import cast

import torch
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.explain.attribution.attribute import attribute
from inception_v3.explain.attribution.gradients import folded
from inception_v3.explain.attribution.result import Attribution, AttributionOptions
from inception_v3.explain.attribution.scores import check_mode, class_labels
from inception_v3.explain.look.exported import Map
from inception_v3.explain.look.inside import Pixels
from inception_v3.explain.look.measure import cams_of, fields_of, map_of, model_facts
from inception_v3.explain.look.result import Cam, Field
from inception_v3.explain.targets import end_point_map
from inception_v3.explain.views import View
from inception_v3.weights.model import InceptionV3


class PyTorchInside:
    """A network in evaluation mode, with BatchNorm folded into its convolutions: the values differ by rounding."""

    no_cam_reason, lost = "", ()

    def __init__(self, model: InceptionV3) -> None:
        check_mode(model)
        self._model = cast(InceptionV3, folded(model))
        self.facts = model_facts(model)
        self.missing = {"silenced": "live_silenced"}
        if self.facts.settings.final_endpoint:
            self.missing = {}
        elif not self.facts.settings.create_aux_logits:
            self.missing["aux"] = "aux_size" if model.settings.create_aux_logits else "aux"
        self.cam_end_points: tuple[str, ...] = () if model.settings.final_endpoint else model.base_end_points

    def _input(self, pixels: Pixels) -> Tensor:
        parameter = next(self._model.parameters())
        images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(parameter.device)
        scaled = self._model.preprocessing.scale(images).to(parameter)
        return scaled.contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def maps(self, pixels: Pixels, name: str) -> dict[str, Map]:
        return {name: map_of(end_point_map(self._model, self._input(pixels), name))}

    def field(self, pixels: Pixels, name: str) -> Field | None:
        if name not in self._model.base_end_points:
            return None
        images = self._input(pixels).requires_grad_()
        with torch.enable_grad():
            outputs = {name: end_point_map(self._model, images, name)}
            return fields_of(self._model, images, outputs).get(name)

    def cam(self, pixels: Pixels, index: int) -> Cam | None:
        if not self.cam_end_points:
            return None
        images = self._input(pixels).requires_grad_()
        with torch.enable_grad():
            logits, outputs = self._model(images, end_points=self.cam_end_points)
            if not logits.isfinite().all():
                return None
            return cams_of(self._model, logits, outputs, [index], class_labels(self._model))[0]

    def explain(self, view: View, options: AttributionOptions) -> Attribution:
        try:
            return attribute(self._model, view, options)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            raise InputError(str(error), exit_status=2) from error
