"""Printed digits refined towards unlabelled handwritten ones: python refine_digits.py FOLDER

A classifier of handwritten digits learns from printed ones, as they are and refined. FOLDER gets
checkpoints, figures for TensorBoard, and pictures. Data and classifier are in digit_data.py.
"""

import itertools
import sys
from pathlib import Path

from digit_data import REAL, accuracy, print_digits, train_classifier
from torch import nn

from simgan_captcha import simgan

SETTINGS = simgan.SimGANSettings(
    refiner=simgan.RefinerSettings(features=16, blocks=2),
    batch_size=64,
    steps=600,
    consistency=1.0,  # a classifier must read refined digits as before
)


def main(folder: Path, settings: simgan.SimGANSettings = SETTINGS, steps: int = 600) -> None:
    for seed in (1, 2, 3):
        plain = train_classifier(seed, nn.Identity(), steps)  # it saw no handwritten digit
        printed = (print_digits(seed, number)[0] for number in itertools.count())
        refiner = simgan.train(
            printed, REAL, settings, folder=folder / str(seed), seed=seed, recogniser=plain
        )
        refined = train_classifier(seed, refiner, steps)
        for name, net in (("printed", plain), ("refined", refined)):
            right = f"{accuracy(net):.1%} of {len(REAL)} handwritten ones"
            print(f"seed {seed}, trained on {name} digits: {right}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
