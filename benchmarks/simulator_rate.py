"""How many images a second one core draws: our simulator, JPEG included, against the seed's.

    .venv/bin/python benchmarks/simulator_rate.py

Each generator draws its batches in turn, five times, on the background of the embedded puzzle. Time
is CPU time of this process, which runs one thread, so that other work on the machine counts little.
Writes benchmarks/results/simulator_rate.json.
"""

import sys
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from simgan_captcha import HACKMIT_2017
from simgan_captcha.atomic import write_json
from simgan_captcha.background import estimate_background
from simgan_captcha.images import decode_grey
from simgan_captcha.puzzle.artwork import Artist
from simgan_captcha.seed_simulator import SeedSimulator, SeedSimulatorSettings
from simgan_captcha.simulator import Simulator, SimulatorSettings
from simgan_captcha.stages import machine, versions

RESULT = Path(__file__).parent / "results" / "simulator_rate.json"
SEED = 1
REPEATS = 5


def rate(simulator: Simulator | SeedSimulator, generator: np.random.Generator, count: int) -> float:
    """Images a second of CPU time."""
    started = time.process_time()
    simulator.batch(generator, count)
    return count / (time.process_time() - started)


def main() -> None:
    cv2.setNumThreads(1)
    artist = Artist()
    captchas = np.stack([decode_grey(artist.jpeg("marty", str(i))) for i in range(500)])
    background = estimate_background(captchas)
    ours = Simulator(HACKMIT_2017, SimulatorSettings(), background)
    seeds = SeedSimulator(HACKMIT_2017, SeedSimulatorSettings(), background)
    generator = np.random.default_rng(SEED)
    rate(ours, generator, 500)  # what is slow only once
    rate(seeds, generator, 20)
    rates = [(rate(ours, generator, 2500), rate(seeds, generator, 250)) for _ in range(REPEATS)]
    our_rates, seed_rates = zip(*rates, strict=True)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "unit": "images a second of one core, median of the repeats",
        "simulator": round(median(our_rates), 1),
        "seed_simulator": round(median(seed_rates), 1),
        "ratio": round(median(our_rates) / median(seed_rates), 2),
        "repeats": {
            "simulator": [round(one, 1) for one in our_rates],
            "seed_simulator": [round(one, 1) for one in seed_rates],
        },
        "seed": SEED,
        "machine": machine(),
        "versions": versions(),
        "training_flops": 0,
    }
    write_json(RESULT, result)
    print(f"simulator, JPEG included  {result['simulator']:>9} images/s a core")
    print(f"seed's generator          {result['seed_simulator']:>9} images/s a core")
    print(f"ratio                     {result['ratio']:>9}")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
