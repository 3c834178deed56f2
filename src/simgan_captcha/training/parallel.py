"""Training with one process, or with several that torchrun starts.

Each process works on its share of every batch, and Fabric's DDP averages the gradients. Together
they do what one process would do with the joint batch. Image i of the joint batch is image i // N
of process i % N. Process 0 leads: only this process writes, and does everything except training.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor

from simgan_captcha.errors import ConfigError, RunError, UsageError

_PATIENCE = timedelta(hours=24)
"""Longest wait for other processes. It covers a download or a fit in process 0. A lost process
causes no wait: its connections break, and torchrun stops the others."""


def started_together() -> bool:
    """Whether this process is one of several, according to the variables of torchrun."""
    return _variable("WORLD_SIZE") > 1


def is_rank_zero() -> bool:
    """Whether this process is alone or the first of several."""
    return not started_together() or _variable("RANK") == 0


def local_processes() -> int:
    """Number of processes on this machine."""
    return _variable("LOCAL_WORLD_SIZE") if started_together() else 1


def make_fabric(precision: Any) -> Fabric:
    """Fabric for all processes that torchrun started, with a GPU each if there are any.

    Args:
        precision: Precision of Fabric: 32-true or a mixed one.
    """
    if not started_together():
        return Fabric(accelerator="auto", devices=1, **_silently(precision))
    on_this_machine, in_all = local_processes(), _variable("WORLD_SIZE")
    if in_all % on_this_machine:
        raise UsageError(
            f"expected as many processes on every machine, got {on_this_machine} of {in_all} here; "
            "give torchrun the same --nproc-per-node everywhere"
        )
    cards = torch.cuda.device_count()
    if 0 < cards < on_this_machine:
        raise UsageError(
            f"expected a GPU for each process of this machine, got {cards} for {on_this_machine}; "
            f"run torchrun with --nproc-per-node {cards}"
        )
    fabric = Fabric(
        accelerator="cuda" if cards else "cpu",
        devices=on_this_machine,
        num_nodes=in_all // on_this_machine,
        # Batch statistics are already joint, see `JointBatchNorm2d`.
        strategy=DDPStrategy(forward_sync_buffers=False, timeout=_PATIENCE),
        **_silently(precision),
    )
    fabric.launch()
    return fabric


def fabric_precision(fabric: Fabric) -> str:
    """Fabric's name of the precision it computes in, as ``32-true``."""
    return str(fabric.strategy.precision.precision)


def _silently(precision: Any) -> dict[str, Any]:
    """Arguments of Fabric for a precision; its name alone makes Fabric print a line."""
    if not str(precision).endswith("-mixed"):
        return {"precision": precision}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"plugins": [MixedPrecision(precision, device)]}


def part() -> None:
    """Leave the group of processes after the work is done.

    Otherwise its threads may abort a finished process when the interpreter ends, and torchrun
    reports a failure.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def share(fabric: Fabric, batch_size: int) -> int:
    """Number of images of a joint batch for each process.

    Raises:
        ConfigError: The batch is not divisible, or leaves less than two images for each process.
    """
    each, left = divmod(batch_size, int(fabric.world_size))
    if left or each < 2:
        raise ConfigError(
            f"expected a batch_size that gives each of {fabric.world_size} processes as many "
            f"images, two at least, got {batch_size}; set another, or start fewer processes"
        )
    return each


def gather(fabric: Fabric, images: Tensor) -> Tensor:
    """The joint batch (N B, ...) of the batches (B, ...) of all processes, without gradient."""
    if fabric.world_size == 1:
        return images
    own = images.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(fabric.world_size)]
    dist.all_gather(parts, own)
    return torch.stack(parts, 1).flatten(0, 1)


def mean(fabric: Fabric, values: Tensor) -> Tensor:
    """The mean of a tensor over all processes."""
    if fabric.world_size == 1:
        return values
    joint = values.clone()
    dist.all_reduce(joint)  # the version of Fabric first waits for all processes
    joint /= fabric.world_size
    return joint


def require_ranks_in_step(fabric: Fabric, step: int, folder: Path) -> None:
    """Check that all processes continue from the same step.

    Raises:
        RunError: They do not.
    """
    if (first := fabric.broadcast(step)) != step:
        raise RunError(
            f"expected every process to find the checkpoint in {folder}, the first one found step "
            f"{first}, process {fabric.global_rank} step {step}; give a folder that all machines "
            "share"
        )


def _variable(name: str) -> int:
    return int(os.environ.get(name, "1"))
