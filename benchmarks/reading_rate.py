"""Measures how fast our reader and stock readers read captchas, on one core.

    python benchmarks/reading_rate.py --run RUN --rivals PYTHON

The readers are:

- the exported reader of the run, in float32, and in int8 unless the export refuses int8;
- the exported network of 2017, untrained, for its speed only;
- ddddocr with both of its models, and Tesseract. They read the original images and images without
  the background of the run.

Each reader reads the same images in a process of its own on one core. The readers take turns
``--rounds`` times. Images per second use CPU time, so other work on the machine has little effect.
Latencies use wall time. PYTHON belongs to an environment with ddddocr and pytesseract (`make bench`
makes one). Writes benchmarks/results/reading_rate.{json,md}.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from real_captchas import figures, load_real, run_config, split
from record import RESULTS, provenance, write_result

from simgan_captcha.data.background import Background
from simgan_captcha.data.images import decode_grey
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import RunError
from simgan_captcha.original.network import OriginalRecognizer
from simgan_captcha.pipeline.run import load_run_reader
from simgan_captcha.pipeline.run_data import load_images
from simgan_captcha.recognizer.export import COMPARED, export_reader

OURS, OF_2017 = "ours", "the 2017 network, untrained"
REFERENCES = {"times_ddddocr": "ddddocr", "times_2017": OF_2017}
SCRIPT = Path(__file__).with_name("timed_reader.py")


@dataclass(frozen=True)
class Timed:
    """A reader to time, and the folder of its images."""

    kind: str
    python: str
    folder: Path
    model: Path | None = None


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished run")
    parser.add_argument("--rivals", help="PYTHON with ddddocr and pytesseract; without, ours alone")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1, help="decides which images")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    os.environ["OMP_NUM_THREADS"] = "1"

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        real, _ = split(load_real(options.run), options.images, 0, options.seed)
        write_images(options.run, real.names, work)
        readers: dict[str, Timed] = {}
        refused = export_all(options.run, work)
        for name in (OURS, "ours, int8", OF_2017):
            if (model := work / f"{name}.onnx").exists():
                readers[name] = Timed("simgan", sys.executable, work / "images", model)
        for kind in rivals(options.rivals):
            readers[kind] = Timed(kind, options.rivals, work / "images")
            readers[f"{kind}, background removed"] = Timed(kind, options.rivals, work / "removed")
        measured: dict[str, list[dict[str, Any]]] = {name: [] for name in readers}
        for _ in range(options.rounds):
            for name, timed in readers.items():
                measured[name].append(measure(timed, core))
                print(name, f"{len(real.names) / measured[name][-1]['cpu_seconds']:.1f}/s")
        scheme = run_config(options.run).scheme
        rows = {}
        for name, rounds in measured.items():
            judged = figures(real.judge(rounds[0]["texts"], scheme))
            file = readers[name].model
            rows[name] = {
                **summary(rounds, len(real.names)),
                **({} if name == OF_2017 else judged),
                "model_bytes": file.stat().st_size if file else None,
            }
    for row in rows.values():
        for name, other in REFERENCES.items():
            if other in rows:
                row[name] = row["images_per_cpu_second"] / rows[other]["images_per_cpu_second"]
    write_result(
        options.out,
        "reading_rate",
        f"{options.images} captchas of the run read on one core: median of {options.rounds} rounds",
        {
            **began,
            "seed": options.seed,
            "precision": "float32, and int8 where it says so",
            "training_flops": 0,
            "readers": rows,
            "int8_refused": refused,
        },
        (
            "reader",
            "images a second of CPU",
            "times ddddocr",
            "times the 2017 network",
            "whole captchas right",
            "one image: median, 99 % (ms)",
            "first image read after (s of CPU)",
            "peak memory (MB)",
            "model (MB)",
        ),
        [
            (
                name,
                f"{row['images_per_cpu_second']:,.0f}",
                f"{row['times_ddddocr']:.1f}" if "times_ddddocr" in row else "–",
                f"{row['times_2017']:.1f}",
                f"{row['captcha_accuracy']:.1%}" if "captcha_accuracy" in row else "–",
                f"{row['p50_milliseconds']:.1f}, {row['p99_milliseconds']:.1f}",
                f"{row['startup_cpu_seconds']:.2f}",
                f"{row['peak_bytes'] / 1e6:.0f}",
                f"{row['model_bytes'] / 1e6:.1f}" if row["model_bytes"] else "–",
            )
            for name, row in rows.items()
        ],
    )
    if refused:
        print(f"int8: {refused}")


def rivals(python: str | None) -> list[str]:
    """The stock readers that are available here. Prints what the others need."""
    if python is None:
        return []
    found = ["ddddocr", "ddddocr-beta"]
    if shutil.which("tesseract"):
        return [*found, "tesseract"]
    print("Tesseract is left out: its program is not installed (Debian: tesseract-ocr)")
    return found


def write_images(run: Path, names: list[str], work: Path) -> None:
    """Write the original images, and black letters on white without the background."""
    stored = CaptchaStore(run / "store").in_content_order()
    files = dict(zip(stored.names, stored.images, strict=True))
    background = Background.load(run / "background" / "background.npz")
    for folder in ("images", "removed"):
        (work / folder).mkdir()
    for number, name in enumerate(names):
        (work / "images" / f"{number:05}.jpg").write_bytes(files[name])
        ink = background.normalise(decode_grey(files[name])[None])[0, 0]
        removed = np.round((1 - ink) * 127.5).astype(np.uint8)
        cv2.imwrite(str(work / "removed" / f"{number:05}.png"), removed)


def export_all(run: Path, work: Path) -> str | None:
    """Export the run's reader and the 2017 network. Return the reason if int8 is refused."""
    reader, background, config = load_run_reader(run)
    scheme = config.scheme
    _, images = load_images(CaptchaStore(run / "store"), run_config(run).scheme)
    export_reader(work / f"{OURS}.onnx", reader, background, scheme, images[:COMPARED])
    of_2017 = OriginalRecognizer(
        scheme.height, scheme.width, scheme.max_length, len(scheme.alphabet)
    ).eval()
    export_reader(work / f"{OF_2017}.onnx", of_2017, background, scheme, images[:20])
    try:
        export_reader(
            work / f"{OURS}, int8.onnx", reader, background, scheme, images[:COMPARED], int8=True
        )
    except RunError as error:
        return str(error)
    return None


def measure(timed: Timed, core: int) -> dict[str, Any]:
    """Time a reader in its own process on one core, and return its figures."""
    command = [timed.python, str(SCRIPT), str(core), timed.kind, str(timed.folder)]
    finished = subprocess.run(
        [*command, *([str(timed.model)] if timed.model else [])], stdout=subprocess.PIPE, check=True
    )
    said: dict[str, Any] = json.loads(finished.stdout)
    return said


def summary(rounds: list[dict[str, Any]], images: int) -> Mapping[str, Any]:
    """Medians over the rounds. Latencies are over all images of all rounds."""
    alone = np.concatenate([of["milliseconds"] for of in rounds])
    rates = [images / of["cpu_seconds"] for of in rounds]
    return {
        "images_per_cpu_second": median(rates),
        "rates": rates,
        "p50_milliseconds": float(np.quantile(alone, 0.5)),
        "p99_milliseconds": float(np.quantile(alone, 0.99)),
        "startup_cpu_seconds": median(of["startup_cpu_seconds"] for of in rounds),
        "peak_bytes": median(of["peak_bytes"] for of in rounds),
    }


if __name__ == "__main__":
    main()
