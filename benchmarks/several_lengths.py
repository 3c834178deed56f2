"""Compares two readers of texts of several lengths: slots with an empty class, and CTC.

    python benchmarks/several_lengths.py --family WORK/FAMILY --tflop 3

FAMILY is a folder of families.py: a run of a scheme with several lengths, and labels.csv. Both
readers train with the same settings for TFLOP teraflop, on the simulator as the run calibrated it.
Both also learn which character has its middle at each position. They are judged on all images,
without adaptation. Writes benchmarks/results/several_lengths.{json,md}.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from networks import (
    NETWORKS,
    PLACED,
    Network,
    judge_network,
    measure_cost,
    train_network,
)
from real_captchas import RealCaptchas, run_config, run_fabric
from record import RESULTS, provenance, with_interval, write_result
from torch import Tensor

from simgan_captcha.calibration.bootstrap import PosedSimulator
from simgan_captcha.data.background import Background
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.pipeline.run_data import load_images
from simgan_captcha.pipeline.run_folder import CALIBRATION
from simgan_captcha.recognizer.network import RecognizerArchitecture
from simgan_captcha.scheme import length_in_words
from simgan_captcha.simulator.calibrated import Calibration
from simgan_captcha.simulator.simulator import Simulator
from simgan_captcha.training.streams import synthetic_batches

_STREAM = 60  # the number of the synthetic stream; runs use other numbers


def columns_of_texts(logits: Tensor, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """CTC loss of logits (B, T, K + 1) and class ids (B, L).

    The last class but one marks empty slots in ``ids``. It is not a CTC target.
    """
    B, T, classes = logits.shape
    present = ids != classes - 2
    loss = torch.nn.functional.ctc_loss(
        logits.float().log_softmax(-1).transpose(0, 1),
        ids,
        torch.full((B,), T),
        present.sum(1),  # the characters fill the first slots
        blank=classes - 1,
    )
    return loss, {"loss": loss}


def path_of_texts(logits: Tensor) -> list[list[int]]:
    """Decode logits (B, T, K + 1) to class ids, without the class of empty slots."""
    nobody = logits.shape[-1] - 2
    paths = NETWORKS["ctc"].decode(logits)
    return [[k for k in path if k != nobody] for path in paths]


READERS: dict[str, Network] = {
    "slots": NETWORKS["attention"],
    "columns (CTC)": replace(NETWORKS["ctc"], objective=columns_of_texts, decode=path_of_texts),
}


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", type=Path, required=True, help="folder that families.py left")
    parser.add_argument("--tflop", type=float, required=True, help="of each training")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    run, seed = options.family / "run", options.seed
    config, fabric = run_config(run), run_fabric(run)
    scheme, settings = config.scheme, config.recognizer
    background = Background.load(run / "background" / "background.npz")
    calibration = Calibration.load(run / "calibrate" / CALIBRATION)
    simulator = PosedSimulator(Simulator(scheme, config.simulator, background, calibration))
    names, images = load_images(CaptchaStore(run / "store"), scheme)
    with (options.family / "labels.csv").open(newline="") as file:
        labels = {row["name"]: row["label"] for row in csv.DictReader(file)}
    real = RealCaptchas(names, images, [labels[name] for name in names])

    def stream(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = synthetic_batches(
            simulator, settings.batch_size, seed, stream=_STREAM, first=first, workers=1
        )
        return ((torch.from_numpy(background.normalise(images)), ids) for images, ids in batches)

    architecture = RecognizerArchitecture(
        scheme.height,
        scheme.width,
        scheme.max_length,
        scheme.classes,
        channels=settings.channels,
        pose=True,
    )
    results: dict[str, dict[str, Any]] = {}
    for name, network in READERS.items():
        cost = measure_cost(network, replace(architecture, pose=False), settings.batch_size)
        steps = max(1, round(options.tflop * 1e12 / cost["step_flops"]))
        trained = train_network(network, architecture, stream, steps, settings, fabric, seed)
        judged = judge_network(network, trained, background, scheme, real)
        results[name] = {**cost, "steps": steps, **judged}
        print(name, results[name], flush=True)
    write_result(
        options.out,
        "several_lengths",
        f"Texts of {length_in_words(scheme.length)} characters, {options.tflop:g} TFLOP each, "
        f"{len(names):,} real captchas of {options.family.name}",
        {
            **began,
            "seed": seed,
            "precision": str(fabric.strategy.precision.precision),
            "training_flops_each": round(options.tflop * 1e12),
            "told": PLACED,
            "readers": results,
        },
        ("reader", "MMAC", "steps", "whole texts", "characters", "wrong length"),
        [
            (
                name,
                f"{one['mmac']:.1f}",
                f"{one['steps']:,}",
                with_interval(one),
                f"{one['character_accuracy']:.1%}",
                f"{one['wrong_length'] / one['images']:.1%}",
            )
            for name, one in results.items()
        ],
    )


if __name__ == "__main__":
    main()
