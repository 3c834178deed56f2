"""Two processes train, with all that came after the paper, as one does on the joint batch."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.testing import assert_close

from simgan_captcha.simgan import (
    DiscriminatorSettings,
    RefinerSettings,
    SimGANSettings,
    train_refiner,
)
from simgan_captcha.training.parallel import make_fabric, part
from tests.simgan.training_case import SETTINGS, edge_maps, make_real, squares

LATER = SimGANSettings.model_validate(
    SETTINGS.model_dump()
    | {
        "refiner": RefinerSettings(features=4, blocks=1, displacement=2.0),
        "discriminator": DiscriminatorSettings(widths=(8, 8, 8, 8), scales=2),
        "adversarial": "hinge",
        "r1": 0.1,
        "contrastive": 0.2,
        "features": 1.0,
        "regularization": 0.0,
        "steps": 5,
        "refiner_learning_rate": 2e-3,
        "discriminator_learning_rate": 2e-3,
        "ema_decay": 0.5,
    }
)


def train(fabric: Fabric, folder: Path | None) -> Tensor:
    """What the refiner changes of images that it never saw."""

    def shared(images: Callable[[int], Tensor]) -> Callable[[int], Iterator[Tensor]]:
        def stream(first: int) -> Iterator[Tensor]:
            while True:
                yield images(first)[fabric.global_rank :: fabric.world_size]
                first += 1

        return stream

    result = train_refiner(
        synthetic=shared(lambda number: squares(1, number)),
        real=shared(lambda number: make_real(squares(2, number))),
        folder=folder,
        fabric=fabric,
        seed=1,
        settings=LATER,
        features=edge_maps,
    )
    images = squares(9, 0)
    with torch.no_grad():
        refined: Tensor = result.refiner(images)
    return refined - images


def test_two_processes_come_to_what_one_would(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "-m", __name__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    alone = train(Fabric(accelerator="cpu", devices=1), None)
    largest = alone.abs().max().item()
    assert largest > 1e-3
    for rank in range(2):
        found = safetensors.torch.load_file(tmp_path / f"{rank}.safetensors")["change"]
        assert_close(found, alone, rtol=0, atol=0.02 * largest)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, fabric = Path(sys.argv[1]), make_fabric("32-true")
    made = train(fabric, out / "run")
    safetensors.torch.save_file({"change": made}, out / f"{fabric.global_rank}.safetensors")
    part()
