"""Shows which part of Gregwar captchas costs a reader most, by leaving out one part at a time.

    python benchmarks/gregwar_parts.py RUN

RUN is a run of `families.py` on Gregwar captchas. Its reader reads new images. Nothing is trained.
Writes benchmarks/results/gregwar_parts.{json,md}.
"""

import argparse
import csv
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from families import GENERATORS
from record import RESULTS, provenance, training_flops, write_result

from simgan_captcha.evaluation.intervals import wilson_interval
from simgan_captcha.inference.reader import ImageReader
from simgan_captcha.pipeline.run import load_run_reader
from simgan_captcha.recognizer.decode import recognizer

SETS = {
    "as they are": "",
    "no edge filter": "edges",
    "nor waves": "edges,waves",
    "no edge filter, no lines": "edges,lines",
    "nor waves, nor lines": "edges,waves,lines",
}


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=1_600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    network, background, config = load_run_reader(options.run)
    reader = ImageReader(config.scheme, recognizer(network, background))
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for number, (name, without) in enumerate(SETS.items()):
            folder = Path(work) / str(number)
            drawn = (config.scheme.alphabet, config.scheme.max_length, without, options.seed)
            command = ["php", GENERATORS / "gregwar.php", folder, options.images, *drawn]
            subprocess.run(list(map(str, command)), check=True)
            rows.append({"set": name, **read(reader, folder)})
    fonts = sorted(rows[0]["of_fonts"])
    write_result(
        options.out,
        "gregwar_parts",
        f"Gregwar's captchas with parts left out, whole texts right of {options.images:,} each",
        {
            **began,
            "seed": options.seed,
            "precision": "32-true",
            "run_training_tflop": training_flops(options.run) / 1e12,
            "rows": rows,
        },
        ("set", "whole texts (95 % interval)", "with the edge filter", *fonts),
        [
            (
                row["set"],
                f"{row['right']:.1%} ({row['interval'][0]:.1%} to {row['interval'][1]:.1%})",
                "" if row["of_outlined"] is None else f"{row['of_outlined']:.1%}",
                *(f"{row['of_fonts'][font]:.0%}" for font in fonts),
            )
            for row in rows
        ],
    )


def read(reader: ImageReader, folder: Path) -> dict[str, Any]:
    """The share of right texts in a set: all texts, outlined ones, and the others by font."""
    with (folder / "labels.csv").open(newline="") as file:
        labels = list(csv.DictReader(file))
    readings = reader.read_each(folder / "images" / row["name"] for row in labels)
    right = [
        getattr(reading, "text", None) == row["label"]
        for reading, row in zip(readings, labels, strict=True)
    ]
    both = list(zip(labels, right, strict=True))
    outlined = [hit for row, hit in both if row["outlined"] == "1"]
    of_fonts: dict[str, list[bool]] = {}
    for row, hit in both:
        if row["outlined"] == "0":
            of_fonts.setdefault(row["font"], []).append(hit)
    return {
        "right": sum(right) / len(right),
        "interval": wilson_interval(sum(right), len(right)),
        "outlined": len(outlined),
        "of_outlined": sum(outlined) / len(outlined) if outlined else None,
        "of_fonts": {font: sum(hits) / len(hits) for font, hits in of_fonts.items()},
    }


if __name__ == "__main__":
    main()
