"""Refines printed digits towards unlabelled handwritten ones: python refine_digits.py FOLDER

A classifier of handwritten digits trains on printed digits, once raw and once refined. The script
writes checkpoints, TensorBoard figures and images to FOLDER. The data and the classifier are in
digit_data.py.
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
    consistency=1.0,  # keep the classifier's output on refined digits
)


def main(folder: Path, settings: simgan.SimGANSettings = SETTINGS, steps: int = 600) -> None:
    for seed in (1, 2, 3):
        plain = train_classifier(seed, nn.Identity(), steps)  # it has seen no handwritten digit
        printed = (print_digits(seed, number)[0] for number in itertools.count())
        refiner = simgan.train(
            printed, REAL, settings, folder=folder / str(seed), seed=seed, recognizer=plain
        )
        refined = train_classifier(seed, refiner, steps)
        for name, net in (("printed", plain), ("refined", refined)):
            right = f"{accuracy(net):.1%} of {len(REAL)} handwritten ones"
            print(f"seed {seed}, trained on {name} digits: {right}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
