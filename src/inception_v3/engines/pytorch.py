"""The model itself, as PyTorch runs it."""

import numpy as np
import torch
from numpy.typing import NDArray

from inception_v3.devices import autocast, has_bf16
from inception_v3.network import InceptionV3


class PyTorch:
    name = "pytorch"

    def __init__(self, model: InceptionV3) -> None:
        self.model, self.device = model, next(model.parameters()).device
        self.precision = "bf16" if has_bf16(self.device) else "fp32"

    @torch.inference_mode()
    def predict(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        images = self.model.preprocessing.scale(torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2))
        with autocast(self.device):
            logits, end_points = self.model(
                images.contiguous(memory_format=torch.channels_last), end_points=("PreLogits",)
            )
        return logits.float().cpu().numpy(), end_points["PreLogits"].flatten(1).float().cpu().numpy()
