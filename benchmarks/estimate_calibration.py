"""Fits the accuracy estimate of a distilled reader to the confidence of its teacher.

    python benchmarks/estimate_calibration.py

The script trains readers on synthetic families in held-out fonts of the generalist. It then fits

    logit(share right) = a + b logit(taught)

by logistic regression, where ``taught`` is the mean confidence of the specialized generalist. Each
family is left out of the fit once. The interval reaches from the 5th to the 95th percentile of
the errors on these families. `pipeline.estimate` holds the constants. Families with texts of one
character are left out: no site shows such captchas. No real image is used. Writes
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
        if family not in known and (row := learned(shelf, family, options)) is not None:
            rows.append({**row, "commit": began["commit"]})
            write(options, rows, began)
    write(options, rows, began)


def write(options: argparse.Namespace, rows: list[dict[str, Any]], began: dict[str, Any]) -> None:
    """Write the families so far, and the fit to them."""
    fit = fitted(rows) if len(rows) > 2 else None
    shown = ("taught", "right")
    write_result(
        options.out,
        "estimate_calibration",
        "Distilled readers of synthetic families in fonts that the generalist never saw",
        {**began, "seed": options.seed, "precision": "auto", "rows": rows, "fit": fit},
        (
            "family",
            "weights of commit",
            "images",
            *shown,
            "as the other families say",
            "CPU seconds",
        ),
        [
            (
                str(row["family"]),
                row["commit"],
                str(row["images"]),
                *(f"{row[key]:.1%}" for key in shown),
                f"{fit['left_out'][number]:.1%}" if fit else "",
                f"{row['seconds']:.0f}",
            )
            for number, row in enumerate(rows)
        ],
    )


def learned(shelf: FontShelf, family: int, options: argparse.Namespace) -> dict[str, Any] | None:
    """Train on one family, and return its figures; None if its texts have one character."""
    generator = np.random.default_rng((options.seed, family))
    style = draw_style(shelf, generator, 1.0)
    drawn = [render(draw_plan(style, shelf, generator), shelf) for _ in range(options.images)]
    texts = [one.text for one in drawn]
    if max(map(len, texts)) == 1:
        return None
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
        "taught": distilled["taught"],
        "right": float(np.mean(right)),
        "seconds": round(time.process_time() - start, 1),
    }


def fitted(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The constants, and the errors of the fits that leave one family out."""
    features = np.array([[1.0, logit(row["taught"])] for row in rows])
    right = np.array([row["right"] for row in rows])

    def regression(kept: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Logistic regression: the constants of maximum likelihood."""

        def unlikelihood(constants: np.ndarray[Any, Any]) -> float:
            logits = features[kept] @ constants
            return float(np.mean(np.logaddexp(0, logits) - right[kept] * logits))

        return np.asarray(minimize(unlikelihood, [0.0, 1.0]).x)

    # A family that was trained with several weights is left out with all of its rows.
    families = np.array([row["family"] for row in rows])
    left_out = np.array(
        [features[n] @ regression(families != family) for n, family in enumerate(families)]
    )
    errors = np.array([logit(true) for true in right]) - left_out
    below, above = np.percentile(errors, (5, 95))
    shift, slope = regression(families == families).round(2).tolist()
    return {
        "shift": shift,
        "slope": slope,
        "below": round(max(0.0, -float(below)), 2),
        "above": round(max(0.0, float(above)), 2),
        "left_out": (1 / (1 + np.exp(-left_out))).round(4).tolist(),
    }


if __name__ == "__main__":
    main()
