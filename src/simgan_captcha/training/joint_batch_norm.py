"""Batch normalisation over the joint batch of several processes.

Shapes: B batch, C channels, H and W pixels, N processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class JointBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with the joint statistics of all processes.

    All processes must have the same number of values. `torch.nn.SyncBatchNorm` does the same, but
    only on GPUs.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of features (B, C, H, W)."""
        if not (self.training and _together()) or input.is_meta:  # FLOPs are counted in one process
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        values = input.float()
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        gathered = _Gather.apply(torch.stack([mean, variance]))  # type: ignore[no-untyped-call]
        means, variances = gathered.unbind(1)  # (N, C) each
        # The variance over parts of equal size: mean of the variances plus variance of the means.
        mean = means.mean(0)
        variance = variances.mean(0) + means.var(0, correction=0)
        count = dist.get_world_size() * values.numel() / values.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        normalised: Tensor = values * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        return normalised.to(input.dtype)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """Gather the tensors of all processes as (N, ...); the gradient is the sum over processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor.contiguous())
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]
