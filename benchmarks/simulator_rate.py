"""Measures the images per second and core of our simulator and the 2017 generator, with JPEG.

    python benchmarks/simulator_rate.py --run RUN

The generators take turns to draw batches on the background of a finished run, five times. Our
simulator draws with and without the calibration of the run. Times are CPU times of this process,
which uses one thread. Other work on the machine therefore has little effect. Writes
benchmarks/results/simulator_rate.{json,md}.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from real_captchas import run_config
from record import RESULTS, provenance, write_result

from simgan_captcha.data.background import Background
from simgan_captcha.original.simulator import OriginalSimulator
from simgan_captcha.pipeline.run_folder import CALIBRATION
from simgan_captcha.simulator.calibrated import Calibration
from simgan_captcha.simulator.simulator import Simulator

SEED = 1
OF_2017 = "the 2017 project's"
REPEATS = 5


def rate(
    simulator: Simulator | OriginalSimulator, generator: np.random.Generator, count: int
) -> float:
    """Images per second of CPU time."""
    started = time.process_time()
    simulator.batch(generator, count)
    return count / (time.process_time() - started)


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished, calibrated run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    run, config = options.run, run_config(options.run)
    background = Background.load(run / "background" / "background.npz")
    calibration = Calibration.load(run / "calibrate" / CALIBRATION)
    seeds = OriginalSimulator(config.scheme, background)
    generators: dict[str, tuple[Simulator | OriginalSimulator, int]] = {
        "open fonts": (Simulator(config.scheme, config.simulator, background), 2500),
        "calibrated": (Simulator(config.scheme, config.simulator, background, calibration), 2500),
        OF_2017: (seeds, 250),
    }
    random = np.random.default_rng(SEED)
    for simulator, count in generators.values():
        rate(simulator, random, count // 10)  # warm up
    rates: dict[str, list[float]] = {name: [] for name in generators}
    for _ in range(REPEATS):
        for name, (simulator, count) in generators.items():
            rates[name].append(round(rate(simulator, random, count), 1))
    medians = {name: median(of) for name, of in rates.items()}
    write_result(
        options.out,
        "simulator_rate",
        "Images drawn a second of one core, JPEG included: median of five",
        {
            **began,
            "seed": SEED,
            "precision": "no network",
            "training_flops": 0,
            "images_per_second": medians,
            "times_the_2017_project": medians["calibrated"] / medians[OF_2017],
            "repeats": rates,
        },
        ("simulator", "images a second", "times the 2017 project's"),
        [(name, f"{of:,.0f}", f"{of / medians[OF_2017]:.1f}") for name, of in medians.items()],
    )


if __name__ == "__main__":
    main()
