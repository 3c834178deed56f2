"""Fits the accuracy estimate of a distilled reader to its confidence, agreement and stability.

    python benchmarks/estimate_calibration.py

The script trains readers on synthetic families in held-out fonts of the generalist. It then fits

    logit(share right) = a + b x,  x = (logit(taught * agreement) + logit(sure * stability)) / 2

by logistic regression. `pipeline.estimate.estimate_from_agreement` explains the four figures. Each
family is left out of the fit once. The spread is the 90th percentile of the absolute errors on
these families. `pipeline.estimate` holds the three constants. No real image is used. Writes
benchmarks/results/estimate_calibration.{json,md} after each family. Families that the file already
holds are not trained again.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from record import RESULTS, provenance, write_result
from scipy.optimize import minimize  # type: ignore[import-untyped]

import simgan_captcha as sc
from simgan_captcha.data.images import encode_png
from simgan_captcha.pipeline.estimate import logit
from simgan_captcha.pipeline.manifest import require_manifest
from simgan_captcha.simulator.wide.drawing import render
from simgan_captcha.simulator.wide.fonts import CATALOGUE, FontShelf
from simgan_captcha.simulator.wide.plans import draw_plan
from simgan_captcha.simulator.wide.styles import draw_style


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="for several processes")
    parser.add_argument("--families", type=int, default=24, help="in all")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE)
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    shelf = FontShelf(options.catalogue, "held-out")
    file = options.out / "estimate_calibration.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.is_file() else []
    known = {row["family"] for row in rows}
    for family in range(options.first, options.families):
        if family not in known:
            rows.append({**learned(shelf, family, options), "commit": began["commit"]})
            write(options, rows, began)
    write(options, rows, began)


def write(options: argparse.Namespace, rows: list[dict[str, Any]], began: dict[str, Any]) -> None:
    """Write the families so far, and the fit to them."""
    fit = fitted(rows) if len(rows) > 2 else None
    shown = ("taught", "agreement", "sure", "stability", "right")
    write_result(
        options.out,
        "estimate_calibration",
        "Distilled readers of synthetic families in fonts that the generalist never saw",
        {**began, "seed": options.seed, "precision": "auto", "rows": rows, "fit": fit},
        ("family", "images", *shown, "as the other families say", "CPU seconds"),
        [
            (
                str(row["family"]),
                str(row["images"]),
                *(f"{row[key]:.1%}" for key in shown),
                f"{fit['left_out'][number]:.1%}" if fit else "",
                f"{row['seconds']:.0f}",
            )
            for number, row in enumerate(rows)
        ],
    )


def learned(shelf: FontShelf, family: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train on one family, and return its figures."""
    generator = np.random.default_rng((options.seed, family))
    style = draw_style(shelf, generator, 1.0)
    drawn = [render(draw_plan(style, shelf, generator), shelf) for _ in range(options.images)]
    texts = [one.text for one in drawn]
    height, width = np.median([one.image.shape[:2] for one in drawn], axis=0).astype(int).tolist()
    lengths = min(map(len, texts)), max(map(len, texts))
    scheme = sc.Scheme(
        alphabet="".join(sorted(set("".join(texts)))),
        length=lengths,
        width=width,
        height=height,
        background="varying",
    )
    start = time.process_time()
    with TemporaryDirectory() as folder:
        # Without a calibration, every family begins with the generalist.
        settings = ["distillation.enough=0", "calibrate=false", *options.settings]
        run = sc.learn(
            [encode_png(one.image) for one in drawn],
            run=Path(folder) / "run",
            scheme=scheme,
            seed=options.seed,
            settings=settings,
            progress=lambda event: None,
        )
        distilled = require_manifest(run.folder / "distill")["result"]
        right = [scheme.fold(r.text) == scheme.fold(texts[int(r.name)]) for r in run.readings()]
    return {
        "family": family,
        "images": len(right),
        **{key: distilled[key] for key in ("taught", "agreement", "sure", "stability")},
        "right": float(np.mean(right)),
        "seconds": round(time.process_time() - start, 1),
    }


def fitted(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The constants, and the errors of the fits that leave one family out."""
    x = np.array(
        [
            (logit(row["taught"] * row["agreement"]) + logit(row["sure"] * row["stability"])) / 2
            for row in rows
        ]
    )
    y = np.array([row["right"] for row in rows])

    def regression(kept: np.ndarray[Any, Any]) -> tuple[float, float]:
        """Logistic regression: the shift and slope of maximum likelihood."""

        def unlikelihood(constants: np.ndarray[Any, Any]) -> float:
            logits = constants[0] + constants[1] * x[kept]
            return float(np.mean(np.logaddexp(0, logits) - y[kept] * logits))

        shift, slope = minimize(unlikelihood, [0.0, 1.0]).x
        return float(shift), float(slope)

    numbers = np.arange(len(rows))
    others = [regression(numbers != number) for number in numbers]
    said = np.array([shift + slope * x[n] for n, (shift, slope) in enumerate(others)])
    errors = [abs(of_one - logit(true)) for of_one, true in zip(said, y, strict=True)]
    shift, slope = regression(numbers >= 0)
    return {
        "shift": round(shift, 2),
        "slope": round(slope, 2),
        "spread": round(float(np.percentile(errors, 90)), 2),
        "left_out": (1 / (1 + np.exp(-said))).round(4).tolist(),
    }


if __name__ == "__main__":
    main()
