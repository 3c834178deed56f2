"""Measures where the time of a run goes, and how close its training is to the machine's limit.

    python benchmarks/training_rate.py --run RUN

The first table shows seconds and TFLOP of every stage of the finished run. Three rates are then
measured in turn, ``--rounds`` times:

1. Plain convolutions, forward and backward, at the best of a few shapes. This is the roofline.
2. The training of the reader as in the run, while the simulator draws captchas.
3. The same training on a few batches that were drawn before.

The FLOP/s of training divided by the roofline show how well the network is computed. The images a
second with the simulator, divided by those without, show whether it keeps up. All times are wall
times, because processes share the work. Writes benchmarks/results/training_rate.{json,md}.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from real_captchas import run_config, run_fabric
from record import RESULTS, manifests, provenance, write_result
from torch import Tensor

from simgan_captcha.calibration.bootstrap import PosedSimulator, posed_objective
from simgan_captcha.data.background import Background
from simgan_captcha.pipeline.cost import recognizer_architecture
from simgan_captcha.pipeline.graph import STAGES
from simgan_captcha.pipeline.run_folder import CALIBRATION
from simgan_captcha.recognizer.train import (
    TrainingSession,
    character_objective,
    count_flops,
    train_recognizer,
)
from simgan_captcha.simulator.calibrated import Calibration
from simgan_captcha.simulator.simulator import Simulator
from simgan_captcha.training.roofline import convolution_rate
from simgan_captcha.training.streams import LabelledStream, synthetic_batches

_STREAM = 70  # the number of the synthetic stream; runs use other numbers
_DRAWN_BEFORE = 8
_SETTLING = 3  # the number of first steps to leave out


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished run, by which to train")
    parser.add_argument("--steps", type=int, default=30, help="of each training")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.steps < _SETTLING + 2:
        parser.error(f"expected --steps of at least {_SETTLING + 2}, got {options.steps}")
    run, config, fabric = options.run, run_config(options.run), run_fabric(options.run)
    background = Background.load(run / "background" / "background.npz")
    posed, size = config.reads_poses, config.recognizer.batch_size
    calibration = run / "calibrate" / CALIBRATION
    plain = Simulator(
        config.scheme,
        config.simulator,
        background,
        Calibration.load(calibration) if calibration.exists() else None,
    )
    architecture = recognizer_architecture(config, pose=posed)

    def drawn(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        simulator = PosedSimulator(plain) if posed else plain
        for images, targets in synthetic_batches(
            simulator,
            size,
            options.seed,
            stream=_STREAM,
            first=first,
            workers=config.drawing_processes(fabric.device.type),
        ):
            yield torch.from_numpy(background.normalise(images)), targets

    kept = list(itertools.islice(drawn(0), _DRAWN_BEFORE))

    def rate(stream: LabelledStream) -> float:
        """Images per second, without the first steps."""
        ended: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            train_recognizer(
                stream,
                architecture,
                config.recognizer.model_copy(update={"steps": options.steps}),
                TrainingSession(
                    Path(folder),
                    fabric,
                    options.seed,
                    lambda step, total, figures: ended.append(time.perf_counter()),
                ),
                objective=posed_objective if posed else character_objective,
            )
        taken = [after - before for before, after in itertools.pairwise(ended[_SETTLING:])]
        return size / (sum(taken) / len(taken))

    image_flops = count_flops(architecture, size, backward=True) / size
    rounds: list[dict[str, float]] = []
    for _ in range(options.rounds):
        convolution_rate.cache_clear()
        roofline = convolution_rate()
        with_simulator, without = rate(drawn), rate(lambda first: itertools.cycle(kept))
        rounds.append(
            {
                "roofline_gflops": roofline / 1e9,
                "training_images_per_second": with_simulator,
                "training_images_per_second_drawn_before": without,
                "of_roofline": without * image_flops / roofline,
                "kept_up": with_simulator / without,
            }
        )
        print(rounds[-1], flush=True)
    medians = {name: median(of[name] for of in rounds) for name in rounds[0]}
    stages = shares(run)
    write_result(
        options.out,
        "training_rate",
        f"Training computes at {medians['of_roofline']:.0%} of the machine's best convolution; "
        f"with the simulator drawing beside it, at {medians['kept_up']:.0%} of that",
        {
            **began,
            "seed": options.seed,
            "precision": str(fabric.strategy.precision.precision),
            "threads": torch.get_num_threads(),
            "image_flops": image_flops,
            "training_flops": 0,
            "median": medians,
            "rounds": rounds,
            "stages": stages,
        },
        ("stage of the run", "seconds", "share of the time", "training TFLOP", "GFLOP/s"),
        [
            (
                name,
                f"{of['seconds']:.0f}",
                f"{of['share']:.1%}",
                f"{of['tflop']:.1f}",
                f"{of['tflop'] * 1e3 / of['seconds']:.0f}" if of["tflop"] else "–",
            )
            for name, of in stages.items()
        ],
    )


def shares(run: Path) -> dict[str, dict[str, Any]]:
    """Seconds, share of the time and TFLOP of each stage of a run, in order."""
    recorded = manifests(run)
    total = sum(stage["seconds"] for stage in recorded.values())
    return {
        name: {
            "seconds": recorded[name]["seconds"],
            "share": recorded[name]["seconds"] / total,
            "tflop": recorded[name]["training_flops"] / 1e12,
        }
        for name in (stage.name for stage in STAGES)
        if name in recorded
    }


if __name__ == "__main__":
    main()
