"""Compares the label-free readings of a run with a supervised reader of the same network.

    python benchmarks/supervised.py --run RUN

The supervised reader trains on the true texts of 15,000 captchas of the run, with light
augmentation. It gets as many FLOPs as all stages of the run together. Both readers are judged on
the other 5,000 captchas. The network of the run is judged with and without the verification of
readings. The run has seen these 5,000 images too, but no label. Writes
benchmarks/results/supervised_PRESET.{json,md}.
"""

import argparse
from pathlib import Path

from real_captchas import (
    figures,
    judge_reader,
    judge_stage,
    labelled_stream,
    load_real,
    run_config,
    run_fabric,
    split,
)
from record import RESULTS, provenance, training_flops, with_interval, write_result

from simgan_captcha.data.background import Background
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.progress import StageProgress
from simgan_captcha.pipeline.run_folder import READER, READINGS, read_diagnosis, read_run
from simgan_captcha.recognizer.decode import load_recognizer
from simgan_captcha.recognizer.train import TrainingSession, count_flops, train_recognizer


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished run")
    parser.add_argument("--seed", type=int, default=1, help="of the split and of the training")
    parser.add_argument("--train", type=int, default=15_000, help="images with their true texts")
    parser.add_argument("--test", type=int, default=5_000, help="other images, to judge on")
    parser.add_argument("--tflop", type=float, help="of training; as many as the run if left out")
    parser.add_argument(
        "--work", type=Path, help="folder for checkpoints; RUN-supervised if left out"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    run, seed = options.run, options.seed
    work = options.work or run.with_name(f"{run.name}-supervised")

    config, background = run_config(run), Background.load(run / "background" / "background.npz")
    kept = read_diagnosis(run)["kept"]
    _, architecture = load_recognizer(run / kept / READER)
    train, test = split(load_real(run), options.train, options.test, seed)

    spent = training_flops(run)
    batch_size = config.recognizer.batch_size
    budget = spent if options.tflop is None else options.tflop * 1e12
    steps = max(1, round(budget / count_flops(architecture, batch_size, backward=True)))
    fabric = run_fabric(run)
    with StageProgress() as progress:
        progress.stage("supervised")
        trained = train_recognizer(
            labelled_stream(train, background, config.scheme, batch_size, seed),
            architecture,
            config.brief_training(steps),
            TrainingSession(
                work / f"seed-{seed}",
                fabric,
                seed,
                lambda step, total, told: progress.update(step, total, **told),
            ),
        )
    supervised = judge_reader(trained.reader, background, config.scheme, test)
    net_alone = judge_stage(run, kept, test)
    texts = {reading.name: reading.text for reading in load_readings(run / READINGS)}
    verified = test.judge([texts[name] for name in test.names], config.scheme)

    recorded = read_run(run)
    report = {
        **began,
        "seed": seed,
        "precision": str(fabric.strategy.precision.precision),
        "run": {key: recorded[key] for key in ("preset", "seed", "settings")},
        "architecture": architecture.describe(),
        "supervised": {
            "labels": options.train,
            "steps": steps,
            "training_flops": trained.flops,
            **figures(supervised),
        },
        "label_free": {"labels": 0, "training_flops": spent, **figures(net_alone)},
        "label_free_verified": {"labels": 0, "training_flops": spent, **figures(verified)},
    }
    rows = [
        (
            what,
            f"{of['labels']:,}",
            with_interval(of),
            f"{of['character_accuracy']:.2%}",
            f"{of['training_flops'] / 1e12:.1f}",
        )
        for what, of in (
            ("label-free: the net alone", report["label_free"]),
            ("label-free: the run's readings, verified by drawing", report["label_free_verified"]),
            ("supervised: the net alone", report["supervised"]),
        )
    ]
    write_result(
        options.out,
        f"supervised_{recorded['preset']}",
        f"Label-free and supervised, the same net, on the same {options.test:,} real captchas",
        report,
        ("reader", "labels", "whole captcha (95 % interval)", "per character", "training TFLOP"),
        rows,
    )


if __name__ == "__main__":
    main()
