"""Measures the cost per image of bulk labelling: `simgan-captcha label`, from Parquet to Parquet.

    python benchmarks/labelling_rate.py --run RUN

The exported reader of the run labels the store of the run ``--rounds`` times. Each round is a
process of its own with all cores. The CPU seconds include the start of the command. docs/scale.md
uses them. Writes benchmarks/results/labelling_rate.{json,md}.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from record import RESULTS, provenance, write_result

from simgan_captcha.atomic import core_count
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.pipeline.run import load_run_reader
from simgan_captcha.pipeline.run_data import load_images
from simgan_captcha.recognizer.export import COMPARED, export_reader


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    reader, background, config = load_run_reader(options.run)
    names, images = load_images(CaptchaStore(options.run / "store"), config.scheme)
    rounds: dict[str, list[dict[str, float]]] = {"float32": [], "int8": []}
    with tempfile.TemporaryDirectory() as folder:
        for precision in rounds:
            file = Path(folder) / f"{precision}.onnx"
            export_reader(
                file,
                reader,
                background,
                config.scheme,
                images[:COMPARED],
                int8=precision == "int8",
            )
        for number in range(options.rounds):
            for precision, measured in rounds.items():
                measured.append(
                    label(
                        Path(folder) / f"{precision}.onnx",
                        options.run / "store",
                        Path(folder) / f"{precision}-{number}",
                    )
                )
                print(precision, measured[-1], flush=True)
    rates = {
        precision: {
            "images_per_cpu_second": median(len(names) / of["cpu_seconds"] for of in measured),
            "images_per_second": median(len(names) / of["seconds"] for of in measured),
        }
        for precision, measured in rounds.items()
    }
    write_result(
        options.out,
        "labelling_rate",
        f"{len(names):,} captchas of the run labelled, Parquet to Parquet: median of "
        f"{options.rounds} rounds",
        {
            **began,
            "seed": "none",
            "precision": "float32 and int8",
            "cores": core_count(),
            "training_flops": 0,
            "images": len(names),
            "rates": rates,
            "rounds": rounds,
        },
        ("reader", "images a second of CPU", f"images a second, {core_count()} cores"),
        [
            (name, f"{of['images_per_cpu_second']:,.0f}", f"{of['images_per_second']:,.0f}")
            for name, of in rates.items()
        ],
    )


def label(reader: Path, store: Path, out: Path) -> dict[str, float]:
    """Wall seconds, and CPU seconds of all cores."""
    before, started = os.times(), time.perf_counter()
    places = [str(reader), str(store), str(out)]
    command = [sys.executable, "-m", "simgan_captcha", "label", *places, "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": after.children_user
        + after.children_system
        - before.children_user
        - before.children_system,
    }


if __name__ == "__main__":
    main()
