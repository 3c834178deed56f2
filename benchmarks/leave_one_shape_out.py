"""Measures how well a character is read if no font of the simulator draws its real shape.

    python benchmarks/leave_one_shape_out.py OUT --challenges ../shared/data/hackmit2017/challenges

The real captchas have a double-storey g. One run has all fonts. The other run has only fonts with a
single-storey g, and gets no hint that a shape is missing. Both are judged on all captchas, after
reading and after adaptation. Writes benchmarks/results/leave_one_shape_out_CHARACTER.{json,md}.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from real_captchas import figures, finish_run, judge_stage, load_real, rename
from record import RESULTS, manifests, provenance, training_flops, with_interval, write_result

from simgan_captcha.config.settings import resolve_config
from simgan_captcha.evaluation.intervals import wilson_interval
from simgan_captcha.evaluation.judgement import Judgement

DRAWN_AS_IN_REAL_IMAGES = {
    # The glyph encloses two counters. A single-storey g encloses one.
    "g": (
        "stix-bold",
        "source-sans-black",
        "source-serif-black",
        "hanken-grotesk-bold",
        "caladea-bold",
    ),
}
"""Fonts with a glyph of the shape that the HackMIT 2017 captchas have, by character."""


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, metavar="OUT", help="folder for the runs; kept")
    parser.add_argument("--challenges", type=Path, required=True, help="folder of batch files")
    parser.add_argument("--user", default="rickyhan")
    parser.add_argument("--character", default="g")
    parser.add_argument("--drop", nargs="+", help="fonts that draw it right; known for g")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    character = options.character
    dropped = options.drop or DRAWN_AS_IN_REAL_IMAGES.get(character)
    if dropped is None:
        parser.error(f"name the fonts that draw {character!r} as the real images do: --drop")
    challenges = rename(options.challenges, options.work / "renamed")

    fonts = resolve_config(options.preset, options.settings).simulator.fonts
    left = [font for font in fonts if font not in dropped]
    if not left or len(left) == len(fonts):
        parser.error(f"dropping {', '.join(dropped)} leaves {len(left)} of {len(fonts)} fonts")
    rows: list[dict[str, Any]] = []
    warnings: dict[str, list[str]] = {}
    for name, chosen in (("all", list(fonts)), (f"without-{character}", left)):
        settings = [*options.settings, f"simulator.fonts={json.dumps(chosen)}"]
        run, config = options.work / name, resolve_config(options.preset, settings)
        finish_run(
            run,
            challenges,
            user=options.user,
            seed=options.seed,
            preset=options.preset,
            settings=settings,
        )
        real, stages = load_real(run), manifests(run)
        warnings[name] = [w for of in stages.values() for w in of["result"].get("warnings", [])]
        for stage in (stage for stage in ("read", "adapt") if stage in stages):
            judgement = judge_stage(run, stage, real)
            rows.append(
                {
                    "fonts": name,
                    "after": stage,
                    **of_character(judgement, character),
                    **figures(judgement),
                    "training_flops": training_flops(run, up_to=stage),
                }
            )

    report = {
        **began,
        "preset": options.preset,
        "seed": options.seed,
        "precision": stages["read"]["precision"],
        "character": character,
        "dropped": list(dropped),
        "left": left,
        "expected_share": 1 / len(config.scheme.alphabet),
        "rows": rows,
        "warnings": warnings,
    }
    write_result(
        options.out,
        f"leave_one_shape_out_{character}",
        f"'{character}' with and without the {len(dropped)} fonts that draw its real shape",
        report,
        (
            "fonts",
            "after",
            f"'{character}' right (95 % interval)",
            f"'{character}' of all readings ({report['expected_share']:.2%} expected)",
            "whole captcha (95 % interval)",
            "training TFLOP",
        ),
        [
            (
                f"{len(fonts) if row['fonts'] == 'all' else len(left)}",
                row["after"],
                f"**{row['accuracy']:.1%}** "
                f"({row['interval'][0]:.1%} to {row['interval'][1]:.1%}) of {row['occurrences']:,}",
                f"{row['share_of_readings']:.2%}",
                with_interval(row),
                f"{row['training_flops'] / 1e12:.1f}",
            )
            for row in rows
        ],
    )


def of_character(judgement: Judgement, character: str) -> dict[str, Any]:
    """How often the character is right where it occurs, and how often it is read at all."""
    score, matrix = judgement.per_character[character], judgement.confusion_matrix
    read = sum(reads.get(character, 0) for reads in matrix.values())
    taken_for = sorted(matrix.get(character, {}).items(), key=lambda pair: -pair[1])
    return {
        "occurrences": score.total,
        "right": score.right,
        "accuracy": score.right / max(1, score.total),
        "interval": wilson_interval(score.right, score.total),
        "share_of_readings": read / sum(sum(reads.values()) for reads in matrix.values()),
        "read_as": dict(taken_for[:6]),
    }


if __name__ == "__main__":
    main()
