"""Judges every reader of a preset on the real captchas, with several seeds.

    python benchmarks/main_table.py WORK --challenges ../shared/data/hackmit2017/challenges

The images get random names first, so names cannot matter. `judge` alone uses the true texts, after
all training. The table also shows the accuracy that each run estimated without labels.
Writes benchmarks/results/main_table_PRESET.{json,md}.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from real_captchas import (
    RealCaptchas,
    figures,
    finish_run,
    judge_stage,
    load_real,
    rename,
    run_config,
)
from record import RESULTS, manifests, provenance, training_flops, with_interval, write_result

from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.run_folder import READINGS, read_diagnosis

READERS = ("distill", "calibrate", "read", "adapt")
"""Stages that leave a recognizer; a run leaves out those that it does not need."""


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for the runs; finished stages are kept")
    parser.add_argument("--challenges", type=Path, required=True, help="folder of batch files")
    parser.add_argument("--user", default="rickyhan")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    renamed = rename(options.challenges, options.work / "renamed")

    rows = []
    for seed in options.seeds:
        run = options.work / f"{options.preset}-{seed}"
        finish_run(
            run,
            renamed,
            user=options.user,
            seed=seed,
            preset=options.preset,
            settings=options.settings,
        )
        real = load_real(run)
        rows.append(row(run, seed, real))
        print(rows[-1], flush=True)
    accuracies = [r["captcha_accuracy"] for r in rows]
    report = {
        **began,
        "preset": options.preset,
        "seed": ", ".join(map(str, options.seeds)),
        "precision": manifests(run)["readings"]["precision"],
        "median": statistics.median(accuracies),
        "worst": min(accuracies),
        "rows": rows,
    }
    write_result(
        options.out,
        f"main_table_{options.preset}",
        f"Preset {options.preset} on {len(real.names):,} real captchas, no label: median "
        f"{report['median']:.2%}, worst {report['worst']:.2%}",
        report,
        (
            "seed",
            "distilled",
            "bootstrap",
            "trained",
            "adapted",
            "final readings (95 % interval)",
            "per character",
            "the run's own estimate",
            "training TFLOP",
            "seconds",
        ),
        [
            (
                str(r["seed"]),
                *(
                    f"{r['stages'][name]:.2%}" if name in r["stages"] else "not needed"
                    for name in READERS
                ),
                with_interval(r),
                f"{r['character_accuracy']:.2%}",
                "{accuracy:.2%} ({low:.2%} to {high:.2%})".format(**r["estimate"]),
                f"{r['training_tflop']:.1f}",
                f"{r['seconds']:.0f}",
            )
            for r in rows
        ],
    )


def row(run: Path, seed: int, real: RealCaptchas) -> dict[str, Any]:
    """Judge the readers of a run on all stored images. Return accuracy, cost and estimate."""
    diagnosis, stages = read_diagnosis(run), manifests(run)
    judged = {name: judge_stage(run, name, real) for name in READERS if name in stages}
    texts = {reading.name: reading.text for reading in load_readings(run / READINGS)}
    readings = real.judge([texts[name] for name in real.names], run_config(run).scheme)
    return {
        "seed": seed,
        "stages": {stage: judgement.captcha_accuracy for stage, judgement in judged.items()},
        "kept": diagnosis["kept"],
        "changed by verification": diagnosis.get("changed", 0),
        **figures(readings),
        "estimate": diagnosis["estimates"][diagnosis["kept"]],
        "training_tflop": training_flops(run) / 1e12,
        "tflop_by_stage": {name: s["training_flops"] / 1e12 for name, s in stages.items()},
        "seconds": sum(manifest["seconds"] for manifest in stages.values()),
        "confusions": [f"{c.truth} read as {c.read} {c.count}x" for c in readings.confusions[:12]],
    }


if __name__ == "__main__":
    main()
