"""Measures how the training of a recognizer scales over processes of one machine.

    python benchmarks/scaling.py --run RUN

The recognizer of a finished run trains under torchrun, with one process and with two. All draw
their images themselves, and each uses one thread. The batch of all processes together stays the
same. Rates are wall times of the first process. The numbers of processes take turns, ``--rounds``
times. The efficiency is the rate divided by the number of processes and by the rate of one. Writes
benchmarks/results/scaling.{json,md}.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch
from real_captchas import run_config
from record import RESULTS, manifests, provenance, write_result
from torch import Tensor

from simgan_captcha.data.background import Background
from simgan_captcha.pipeline.cost import recognizer_architecture
from simgan_captcha.recognizer.train import TrainingSession, count_flops, train_recognizer
from simgan_captcha.simulator.simulator import Simulator
from simgan_captcha.training.parallel import is_rank_zero, make_fabric, part, share
from simgan_captcha.training.streams import synthetic_batches

_STREAM = 71  # the number of the synthetic stream; runs use other numbers
_SETTLING = 10  # the number of first steps to leave out
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished run, by which to train")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="from 1 on")
    parser.add_argument("--steps", type=int, default=300, help="of each training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.steps <= _SETTLING or options.processes[0] != 1:
        parser.error(f"expected --steps of more than {_SETTLING}, and --processes from 1 on")
    rates: dict[int, list[float]] = {number: [] for number in options.processes}
    for _ in range(options.rounds):
        for number, found in rates.items():
            found.append(rate_of(number, options))
            print(f"{number} processes: {found[-1]:,.0f} images per second", flush=True)
    medians = {number: median(found) for number, found in rates.items()}
    config = run_config(options.run)
    size = config.recognizer.batch_size
    flops = count_flops(recognizer_architecture(config), size, backward=True)
    report = {
        **began,
        "seed": options.seed,
        "precision": manifests(options.run)["readings"]["precision"],
        "training_flops": flops * options.steps * options.rounds * len(rates),
        "batch_size": size,
        "steps": options.steps,
        "images_per_second": medians,
        "efficiency": {n: rate / (n * medians[1]) for n, rate in medians.items()},
        "rounds": rates,
    }
    write_result(
        options.out,
        "scaling",
        f"Training with several processes of one thread, {size} images a step: median of "
        f"{options.rounds}",
        report,
        ("processes", "images per second", "times one process", "efficiency"),
        [
            (str(n), f"{rate:,.0f}", f"{rate / medians[1]:.2f}", f"{rate / medians[1] / n:.0%}")
            for n, rate in medians.items()
        ],
    )


def rate_of(processes: int, options: argparse.Namespace) -> float:
    """Images per second of a training with this number of processes."""
    with tempfile.TemporaryDirectory() as folder:
        rate = Path(folder) / "rate.json"
        # torchrun takes the option --run of a script for one of its own.
        own = (options.run, options.steps, options.seed, rate)
        command = (*TORCHRUN, processes, __file__, *own)
        subprocess.run([str(word) for word in command], check=True)
        return float(json.loads(rate.read_text()))


def train(run: Path, steps: int, seed: int, rate: Path) -> None:
    """Train as one of several processes. The first writes the images per second of all."""
    torch.set_num_threads(1)
    config = run_config(run)
    fabric = make_fabric(manifests(run)["readings"]["precision"])
    background = Background.load(run / "background" / "background.npz")
    simulator = Simulator(config.scheme, config.simulator, background)
    size, ended = config.recognizer.batch_size, list[float]()

    def stream(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, ids in synthetic_batches(
            simulator,
            share(fabric, size),
            seed,
            stream=_STREAM,
            first=first,
            rank=fabric.global_rank,
            processes=fabric.world_size,
        ):
            yield torch.from_numpy(background.normalise(images)), ids

    train_recognizer(
        stream,
        recognizer_architecture(config),
        config.recognizer.model_copy(update={"steps": steps}),
        TrainingSession(
            rate.parent / "training",
            fabric,
            seed,
            lambda step, total, figures: ended.append(time.perf_counter()),
        ),
    )
    if is_rank_zero():
        seconds = ended[-1] - ended[_SETTLING - 1]
        rate.write_text(json.dumps(size * (steps - _SETTLING) / seconds))
    part()


if __name__ == "__main__":
    if "LOCAL_RANK" in os.environ:  # started by torchrun
        train(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
