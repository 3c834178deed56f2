"""Measures what a run learns from few images of a real family, without labels.

    python benchmarks/few_images.py --families ../shared/data/families

Each run gets 50, 100, 300 or 1,000 images of a family, chosen by the seed, with alphabet and length
stated. Its readings of these images are compared with the labels afterwards, ignoring case. Writes
benchmarks/results/few_images.{json,md} after each run. Rows that the file already holds are not
repeated.
"""

import argparse
import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from real_families import arguments_of, learned
from record import Rows, made_by_line, percent, provenance, write_table

from simgan_captcha.evaluation.labels import read_labels_csv


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = arguments_of(__doc__, ["henan4", "swust_2020", "thsr4"])
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 100, 300, 1000])
    options = parser.parse_args(arguments)
    identity = {"preset": options.preset, "settings": options.settings}
    rows = Rows(options.out / "few_images.json", ("family", "count", "seed"), identity)
    for seed in options.seeds:
        for name in options.only:
            for count in options.counts:
                if not rows.has(name, count, seed):
                    found = of_few(name, count, seed, options)
                    rows.add({"family": name, "count": count, "seed": seed, **found}, began)
                write(options, rows, rows.rows[-1]["made_by"])


def of_few(name: str, count: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Learn from some images of a family, and return the figures of `real_families.learned`."""
    folder = options.families / name
    truth = read_labels_csv(folder / "labels.csv")
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(sorted(truth))[:count].tolist()
    with TemporaryDirectory() as work:
        few = Path(work) / name
        (few / "images").mkdir(parents=True)
        for image in chosen:
            shutil.copy(folder / "images" / image, few / "images")
        with (few / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("name", "label"), *((n, truth[n]) for n in chosen)])
        return learned(name, seed, argparse.Namespace(**{**vars(options), "families": Path(work)}))


def write(options: argparse.Namespace, rows: Rows, began: Mapping[str, Any]) -> None:
    """Write the rows that exist so far."""
    cells = [
        (
            row["family"],
            f"{row['count']:,}",
            str(row["seed"]),
            f"{row['specialized']:.1%}",
            f"**{percent(row['right'])}**",
            "{:.1%} ({:.1%} to {:.1%})".format(*row["estimate"]),
            row["kept"],
            f"{row['seconds']}",
            f"{row['training_flops'] / 1e12:.1f}",
            "; ".join(row["warnings"]),
        )
        for row in rows.rows
    ]
    write_table(
        options.out / "few_images.md",
        "Few real captchas, learned without labels: whole texts right, case ignored "
        "(95 % interval)",
        (
            "family", "images", "seed", "specialized generalist", "after learning",
            "own estimate", "kept", "seconds", "training TFLOP", "warnings",
        ),
        cells,
        (made_by_line(began), ""),
    )  # fmt: skip


if __name__ == "__main__":
    main()
