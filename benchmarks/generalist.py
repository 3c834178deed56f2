"""Measures the generalist on synthetic families in held-out fonts, and its training cost.

    python benchmarks/generalist.py --log PRETRAINING/log.jsonl

The script draws families of the wide simulator in held-out fonts. The shipped network reads them
twice: without constraints, and with known alphabet and length. Accuracy is counted by kind of
difficulty. ``--log`` is the log of the training that made the weights. It adds a curve of accuracy
against training FLOPs. Writes benchmarks/results/generalist.{json,md}.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, percent, provenance, share_with_interval, write_result

from simgan_captcha.generalist.decoding import Alphabet, PossibleTexts, decode_columns
from simgan_captcha.generalist.features import HEIGHT
from simgan_captcha.generalist.pretraining.examples import batches, draw_pool
from simgan_captcha.generalist.pretraining.objective import as_tensors
from simgan_captcha.generalist.pretraining.train import Pretraining, PretrainingSettings
from simgan_captcha.generalist.reader import GeneralistReader
from simgan_captcha.simulator.wide.drawing import render
from simgan_captcha.simulator.wide.fonts import CATALOGUE, FontShelf
from simgan_captcha.simulator.wide.plans import ImagePlan, draw_plan
from simgan_captcha.simulator.wide.styles import draw_style


@dataclass(frozen=True)
class Known:
    """How one image was drawn, and how it was read."""

    plan: ImagePlan
    free: bool
    """Whether the text is right without constraints."""
    constrained: bool
    """Whether the text is right with known alphabet and length."""


KINDS: dict[str, Callable[[ImagePlan], bool]] = {
    "all": lambda p: True,
    "capitals under 12 of 40 rows": lambda p: HEIGHT * p.unit / p.height < 12,
    "12 to 20 rows": lambda p: 12 <= HEIGHT * p.unit / p.height < 20,
    "20 rows and more": lambda p: HEIGHT * p.unit / p.height >= 20,
    "no clutter": lambda p: not p.marks,
    "lines": lambda p: any(m.kind == "curve" for m in p.marks),
    "scratches": lambda p: any(m.kind == "stroke" for m in p.marks),
    "dots": lambda p: any(m.kind == "dot" for m in p.marks),
    "blots": lambda p: any(m.kind == "ellipse" for m in p.marks),
    "grid": lambda p: p.style.clutter.grid > 0,
    "a frame around the image": lambda p: p.style.clutter.border > 0,
    "frames around letters": lambda p: any(letter.framed for letter in p.letters),
    "inverted parts": lambda p: p.style.clutter.inverting != "none",
    "a background that varies": lambda p: p.style.colours.backdrop != "plain",
    "light ink on dark": lambda p: not p.style.colours.dark_ink,
    "several inks": lambda p: len({letter.ink for letter in p.letters}) > 1,
    "several fonts": lambda p: len({letter.font for letter in p.letters}) > 1,
    "hollow letters": lambda p: p.style.letters.rendering == "hollow",
    "strokes of one pixel": lambda p: p.style.letters.rendering == "thin",
    "letters turned by more than 15 degrees": lambda p: any(abs(x.turn) > 15 for x in p.letters),
    "overlapping letters": lambda p: p.style.letters.gap[0] < -0.1,
    "waves": lambda p: p.wave[0] > 0.5,
    "noise or specks": lambda p: p.noise > 5 or p.style.finish.specks > 0,
    "one bit": lambda p: p.style.finish.one_bit,
    "JPEG under 50": lambda p: p.jpeg is not None and p.jpeg < 50,
}


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=500)
    parser.add_argument("--images", type=int, default=8, help="of each family")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--steps", type=int, default=12, help="timed training steps; 0: none")
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help="of the fonts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    shelf = FontShelf(options.catalogue, "held-out")
    cpu = time.process_time()
    known = read_families(shelf, options.families, options.images, options.seed)
    rows: list[dict[str, Any]] = [
        {"kind": kind, "images": len(chosen), **shares(chosen)}
        for kind, holds in KINDS.items()
        if len(chosen := [k for k in known if holds(k.plan)]) >= 30
    ]
    cpu = time.process_time() - cpu
    curve = (
        [json.loads(line) for line in options.log.read_text().splitlines()] if options.log else []
    )
    report: dict[str, Any] = {
        **began,
        "seed": options.seed,
        "precision": "float32",
        "families": options.families,
        "cpu_seconds": round(cpu, 1),
        "rows": rows,
        "curve": curve,
        "training_step": training_step(shelf, options.steps) if options.steps else None,
    }
    write(options.out, report)


def write(out: Path, report: Mapping[str, Any]) -> None:
    """Write the report and its table: kinds of images, training, and the cost of a step."""
    lines = [
        (
            "kind of image",
            row["kind"],
            str(row["images"]),
            percent(row["free"]),
            percent(row["constrained"]),
        )
        for row in report["rows"]
    ]
    lines += [
        ("training", f"{c['step']:,} steps, {c['tflop']:.0f} TFLOP", "", f"{c['texts']:.1%}", "")
        for c in report["curve"]
    ]
    if step := report["training_step"]:
        cost = (
            f"{step['ratio']:.2f} times the CPU time of bfloat16 "
            f"({step['float32']:.2f} s instead of {step['bfloat16']:.2f} s)"
        )
        lines.append(("a training step", "in float32", "", cost, ""))
    write_result(
        out,
        "generalist",
        f"The generalist on {report['families']} synthetic families in fonts it never saw: whole "
        "texts right, case as drawn (95 % interval)",
        report,
        ("", "", "images", "nothing known", "alphabet and length known"),
        lines,
    )


def read_families(shelf: FontShelf, families: int, images: int, seed: int) -> list[Known]:
    """Draw families in the fonts of a shelf, and read them."""
    reader = GeneralistReader(threads=1)
    known = []
    for family in range(families):
        generator = np.random.default_rng((seed, family))
        style = draw_style(shelf, generator, 1.0)
        plans = [draw_plan(style, shelf, generator) for _ in range(images)]
        drawn = [render(plan, shelf) for plan in plans]
        characters = "".join(sorted(set(style.text.alphabet).union(*(d.text for d in drawn))))
        lengths = (min(len(d.text) for d in drawn), max(len(d.text) for d in drawn))
        alphabet = Alphabet(characters)
        for plan, of_image in zip(plans, drawn, strict=True):
            logits = reader.columns(of_image.image)
            free = decode_columns(logits, PossibleTexts.of_lengths(Alphabet())).text
            constrained = decode_columns(logits, PossibleTexts.of_lengths(alphabet, lengths)).text
            known.append(Known(plan, free == of_image.text, constrained == of_image.text))
    return known


def shares(known: Sequence[Known]) -> dict[str, list[float]]:
    """The share of right texts and its interval, for both ways of reading."""
    return {
        way: share_with_interval(sum(getattr(k, way) for k in known), len(known))
        for way in ("free", "constrained")
    }


def training_step(shelf: FontShelf, steps: int) -> dict[str, float]:
    """The median CPU seconds of a training step on one thread, in bfloat16 and in float32."""
    torch.set_num_threads(1)
    settings = PretrainingSettings()
    pool = draw_pool(shelf, 1, 0, families=8, images=8, difficulty=1.0)
    batch = next(batches(pool, settings.batch_size, np.random.default_rng(0)))
    seconds = {}
    for name, bf16 in (("bfloat16", True), ("float32", False)):
        training = Pretraining(Path("nowhere"), settings, bf16=bf16)
        tensors, taken = as_tensors(batch, training.device), []
        for _ in range(steps):
            start = time.process_time()
            training.step(tensors, settings.learning_rate)
            taken.append(time.process_time() - start)
        seconds[name] = float(np.median(taken))
    return {**seconds, "ratio": seconds["float32"] / seconds["bfloat16"]}


if __name__ == "__main__":
    main()
