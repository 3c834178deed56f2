"""Measures what a few labels add: accuracy against the number of labels, on real families.

    python benchmarks/teach_curve.py --families ../shared/data/families --work FOLDER

Each family is first learned without labels (preset `quick`, without the simulator). `teach` then
uses labels of random images. Two other readers train on the same labels for comparison. One is the
same network from random weights. The other is the generalist, fine-tuned. Both train on the labels
alone. All readers are judged on the same images, which are not among the labelled ones. Case is
ignored. Writes benchmarks/results/teach_curve.{json,md} after each row. Rows that the file already
holds are not repeated. FOLDER keeps the runs.
"""

import argparse
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import (
    RESULTS,
    Rows,
    made_by_line,
    percent,
    provenance,
    share_with_interval,
    write_table,
)
from zero_shot import REAL_FAMILIES, least_and_most

import simgan_captcha as sc
from simgan_captcha.data.pictures import open_picture
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.evaluation.labels import read_labels_csv
from simgan_captcha.generalist.network import load_generalist
from simgan_captcha.generalist.shipped import shipped
from simgan_captcha.generalist.specialization.specialize import (
    GivenTexts,
    decode_all,
    prepare,
    read_columns,
    specialize,
)
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.lesson import TAUGHT_READINGS
from simgan_captcha.pipeline.run import opened
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import STORE, TeacherTexts
from simgan_captcha.pipeline.stages.distillation import learn_texts
from simgan_captcha.pipeline.stages.specialization import possible_texts
from simgan_captcha.recognizer.decode import decode, read_probabilities
from simgan_captcha.teaching.labels import collect
from simgan_captcha.training.parallel import fabric_precision

WITHOUT_SIMULATOR = {"distillation.enough": 0}
JUDGED = ("without", "taught", "in_use", "from_nothing", "generalist")
"""The keys of a row that hold an accuracy."""


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=Path, default=Path("../shared/data/families"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(REAL_FAMILIES),
        default=["swust_2020", "thsr4", "lzu5", "cryptowin_math"],
    )
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 30, 100, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    most = max(options.labels)
    rows = Rows(options.out / "teach_curve.json", ("family", "labels", "seed"), {"most": most})
    for seed in options.seeds:
        for count in options.labels:
            for name in options.only:
                if not rows.has(name, count, seed):
                    rows.add(measured(name, count, seed, options), began)
                write(options.out, rows, began)


def measured(name: str, count: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one row: a family with this number of labels."""
    folder = options.families / name
    run = learned_without_labels(name, seed, options)
    readings = run.readings()
    truth = collect(
        read_labels_csv(folder / "labels.csv"), [one.name for one in readings], run.scheme
    ).texts
    order = np.random.default_rng(seed).permutation(sorted(truth)).tolist()
    given = {image: truth[image] for image in order[:count]}
    judged = {image: truth[image].casefold() for image in order[max(options.labels) :]}

    def right(texts: Mapping[str, str]) -> list[float]:
        hits = [texts.get(image, "").casefold() == text for image, text in judged.items()]
        return share_with_interval(sum(hits), len(hits))

    without = {one.name: one.text for one in readings}
    start = time.monotonic()
    lesson = run.teach(given, progress=lambda event: None)
    seconds = time.monotonic() - start
    taught = {one.name: one.text for one in load_readings(run.folder / TAUGHT_READINGS)}
    with opened(run.folder) as data:
        nothing = from_nothing(data, given, Path(options.work) / "from-nothing")
        fine_tuned = fine_tuned_generalist(data, given)
    return {
        "family": name,
        "labels": count,
        "seed": seed,
        "judged": len(judged),
        "without": right(without),
        "taught": right(taught),
        "in_use": right(taught if lesson.better else without),
        "from_nothing": right(nothing),
        "generalist": right(fine_tuned),
        "right_before": lesson.right_before,
        "cross_validated": lesson.cross_validated,
        "seconds": round(seconds),
    }


def learned_without_labels(name: str, seed: int, options: argparse.Namespace) -> sc.Run:
    """The finished run of a family. It is made if it is missing."""
    alphabet, length = REAL_FAMILIES[name]
    images = options.families / name / "images"
    scheme = sc.inspect(images, alphabet=alphabet, length=least_and_most(length)).scheme
    return sc.learn(
        images,
        run=options.work / f"{name}-{seed}",
        scheme=scheme,
        seed=seed,
        settings=WITHOUT_SIMULATOR,
        progress=lambda event: None,
    )


def from_nothing(data: RunData, given: Mapping[str, str], work: Path) -> dict[str, str]:
    """Train the recognizer's network on the labels alone, and return its texts."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    alone = TeacherTexts(list(given), list(given.values()), [1.0] * len(given))
    one_round = data.config.distillation.model_copy(update={"rounds": 1})
    data = replace(data, config=data.config.model_copy(update={"distillation": one_round}))
    reader = learn_texts(data, work, alone, given, lambda *_: None).kept.reader
    names, images = data.captchas
    probabilities = read_probabilities(reader, data.background(), images)
    return {one.name: one.text for one in decode(data.config.scheme, names, probabilities)}


def fine_tuned_generalist(data: RunData, given: Mapping[str, str]) -> dict[str, str]:
    """Train the generalist on the labels alone, and return its texts."""
    stored = CaptchaStore(data.run / STORE).in_content_order()
    pictures = prepare([open_picture(image).rgb for image in stored.images])
    chosen = [number for number, name in enumerate(stored.names) if name in given]
    network, _ = load_generalist(shipped("generalist.safetensors"))
    bf16 = fabric_precision(data.fabric) == "bf16-mixed"
    possible = possible_texts(data.config.scheme)
    tuned = specialize(
        network,
        pictures[chosen],
        possible,
        data.config.specialization,
        seed=data.seed,
        given=GivenTexts(
            {place: given[stored.names[number]] for place, number in enumerate(chosen)}
        ),
        bf16=bf16,
    )
    logits = read_columns(tuned, torch.from_numpy(pictures), bf16=bf16)
    decoded = decode_all(logits, possible)
    return {name: one.text for name, one in zip(stored.names, decoded, strict=True)}


def errors_gone(row: Mapping[str, Any]) -> float:
    """The share of the label-free errors that the reader in use corrects."""
    before = 1 - row["without"][0]
    return 1 - (1 - row["in_use"][0]) / before if before else 0.0


def write(out: Path, rows: Rows, began: Mapping[str, Any]) -> None:
    cells = [
        (
            row["family"],
            str(row["labels"]),
            str(row["seed"]),
            f"{row['judged']:,}",
            *(percent(row[key]) for key in JUDGED),
            f"{errors_gone(row):.0%}",
            str(row["right_before"]),
            "" if row["cross_validated"] is None else str(row["cross_validated"]),
            str(row["seconds"]),
        )
        for row in sorted(rows.rows, key=lambda row: (row["family"], row["seed"], row["labels"]))
    ]
    write_table(
        out / "teach_curve.md",
        "A few labels: whole texts right, case ignored (95 % interval)",
        (
            "family", "labels", "seed", "images judged", "without labels", "taught", "in use",
            "same network, labels alone", "generalist, labels alone", "errors gone",
            "labelled images right before", "right in cross-validation", "seconds of teaching",
        ),
        cells,
        (made_by_line(began), ""),
    )  # fmt: skip


if __name__ == "__main__":
    main()
