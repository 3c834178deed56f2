"""Several processes that train as one, as torchrun starts them; alone is the case of one.

Each works on its share of every batch, and Fabric's DDP averages their gradients, so together they
do what one process would with the joint batch: image i of that is image i // N of process i % N.
Process 0 leads: it alone writes, and does what is no training.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor

from simgan_captcha.errors import ConfigError, RunError, UsageError

_PATIENCE = timedelta(hours=24)
"""How long a process waits for the others: as long as a download or a fit of the leader's may take.
One that is lost is not waited for: its connections break, and torchrun stops the rest."""


def started_together() -> bool:
    """Whether this process is one of several, as torchrun's variables say."""
    return _variable("WORLD_SIZE") > 1


def leads() -> bool:
    """Whether this process is alone or the first of several."""
    return not started_together() or _variable("RANK") == 0


def local_processes() -> int:
    """How many of them share this machine."""
    return _variable("LOCAL_WORLD_SIZE") if started_together() else 1


def make_fabric(precision: Any) -> Fabric:
    """Fabric for as many processes as torchrun started, joined; on a GPU each where there are some.

    Args:
        precision: As Fabric takes it: 32-true or a mixed one.
    """
    if not started_together():
        return Fabric(accelerator="auto", devices=1, precision=precision)
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
        # Statistics of batches are joint already, see `JointBatchNorm2d`.
        strategy=DDPStrategy(forward_sync_buffers=False, timeout=_PATIENCE),
        precision=precision,
    )
    fabric.launch()
    return fabric


def part() -> None:
    """Leave the others, all being done.

    Threads that still listen to them when the interpreter ends may abort a process whose work is
    finished, and torchrun then reports a failure.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def share(fabric: Fabric, batch_size: int) -> int:
    """Images of a joint batch that each process handles.

    Raises:
        ConfigError: It does not divide, or less than two are left for each.
    """
    each, left = divmod(batch_size, int(fabric.world_size))
    if left or each < 2:
        raise ConfigError(
            f"expected a batch_size that gives each of {fabric.world_size} processes as many "
            f"images, two at least, got {batch_size}; set another, or start fewer processes"
        )
    return each


def gather(fabric: Fabric, images: Tensor) -> Tensor:
    """The joint batch, (N B, ...), of every process's (B, ...), in its order; without gradient."""
    if fabric.world_size == 1:
        return images
    own = images.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(fabric.world_size)]
    dist.all_gather(parts, own)
    return torch.stack(parts, 1).flatten(0, 1)


def mean(fabric: Fabric, values: Tensor) -> Tensor:
    """The mean over processes of a tensor of one shape."""
    if fabric.world_size == 1:
        return values
    joint = values.clone()
    dist.all_reduce(joint)  # Fabric's would have all wait for one another first
    joint /= fabric.world_size
    return joint


def require_same_step(fabric: Fabric, step: int, folder: Path) -> None:
    """See that all processes go on from one checkpoint.

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
