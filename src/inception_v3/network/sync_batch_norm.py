"""BatchNorm over the images of all processes, on every device: PyTorch's own SyncBatchNorm runs only on CUDA."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from inception_v3.network.layers import BatchNorm


def synchronise_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every BatchNorm of the model, in place, by one that normalises over the images of all processes."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.__class__ = SyncBatchNorm
    return model


class SyncBatchNorm(BatchNorm):
    """BatchNorm over the images of all processes, with the result that one process with all of them would get."""

    def forward(self, net: Tensor) -> Tensor:
        """Normalise (N, C, H, W): in training over N, H and W of all processes, else by the moving averages."""
        if not self.training:
            return super().forward(net)
        values = net.float() if net.dtype in (torch.bfloat16, torch.float16) else net
        own_count = values.new_tensor([net.numel() / net.shape[1]])
        totals = _SumOverProcesses.apply(torch.cat([values.sum((0, 2, 3)), own_count]))
        count = totals[-1].detach()
        mean = totals[:-1] / count
        centred = values - mean.view(1, -1, 1, 1)
        variance = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.update_averages(mean, variance * count / (count - 1).clamp(min=1))
        scale = (variance + self.epsilon).rsqrt()
        if self.gamma is not None:
            scale = scale * self.gamma
        normalised: Tensor = centred * scale.view(1, -1, 1, 1) + self.beta.view(1, -1, 1, 1)
        return normalised.to(net.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes. Each process's loss depends on it, so its gradient is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
