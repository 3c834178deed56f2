"""Measures runs on eight families of real captchas, which they learn without labels.

    python benchmarks/real_families.py --families ../shared/data/families

`init` gets the alphabet and length of each family, as a user would state them. A run follows. Its
readings are then compared with the labels, ignoring case. Labels are not used before that. The
table also shows the best of four stock readers, from benchmarks/results/zero_shot.json (300 images,
alphabet and length known). Writes benchmarks/results/real_families.{json,md} after each family.
Rows that the file already holds are not repeated.
"""

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from record import (
    RESULTS,
    Rows,
    made_by_line,
    manifests,
    percent,
    provenance,
    share_with_interval,
    training_flops,
    write_table,
)
from zero_shot import REAL_FAMILIES, least_and_most

import simgan_captcha as sc
from simgan_captcha.documents import read_object
from simgan_captcha.evaluation.labels import read_labels_csv
from simgan_captcha.pipeline.run_folder import read_diagnosis

AIMS = {
    "henan4": 0.995,
    "lzu5": 0.99,
    "swust_2019a": 0.995,
    "swust_2020": 0.97,
    "nsysu4": 0.97,
    "spas4": 0.99,
    "thsr4": 0.97,
    "cryptowin_math": 0.95,
}


def arguments_of(description: str | None, families: Sequence[str]) -> argparse.ArgumentParser:
    """The arguments of a benchmark that learns real families, by default these."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--families", type=Path, default=Path("../shared/data/families"))
    found.add_argument("--preset", default="quick")
    found.add_argument("--seeds", type=int, nargs="+", default=[1])
    found.add_argument("--set", nargs="+", default=[], dest="settings")
    found.add_argument("--only", nargs="+", choices=list(REAL_FAMILIES), default=families)
    found.add_argument("--out", type=Path, default=RESULTS)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = arguments_of(__doc__, list(AIMS))
    parser.add_argument("--name", default="real_families", help="of the result files")
    options = parser.parse_args(arguments)
    identity = {"preset": options.preset, "settings": options.settings}
    rows = Rows(options.out / f"{options.name}.json", ("family", "seed"), identity)
    stock = best_stock(options.out / "zero_shot.json")
    for seed in options.seeds:
        for name in options.only:
            if not rows.has(name, seed):
                row = {"family": name, "seed": seed, **learned(name, seed, options)}
                rows.add(row, began)
            write(options, rows, stock, rows.rows[-1]["made_by"])


def learned(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Learn one family, and return its figures."""
    folder = options.families / name
    truth = {n: t.casefold() for n, t in read_labels_csv(folder / "labels.csv").items()}
    characters, length = REAL_FAMILIES[name]
    start, cpu = time.monotonic(), time.process_time()
    scheme = sc.inspect(
        folder / "images", alphabet=characters, length=least_and_most(length)
    ).scheme
    with TemporaryDirectory() as work:
        run = sc.learn(
            folder / "images",
            run=Path(work) / "run",
            scheme=scheme,
            preset=options.preset,
            seed=seed,
            settings=options.settings,
            progress=lambda event: None,
        )
        seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        read = {one.name: one.text.casefold() for one in run.readings()}
        estimate = run.estimate
        stages = manifests(run.folder)
        diagnosis, flops = read_diagnosis(run.folder), training_flops(run.folder)
        teaching = "specialize" if "specialize" in stages else "look"
        specialized = read_object(run.folder / teaching / "pseudo_labels.json")
    teacher = [
        text.casefold() == truth[image]
        for image, text in zip(specialized["names"], specialized["texts"], strict=True)
    ]
    right = {image: read.get(image) == text for image, text in truth.items()}
    doubled = [ok for image, ok in right.items() if doubles(truth[image])]
    return {
        "images": len(truth),
        "specialized": sum(teacher) / len(teacher),
        "right": share_with_interval(sum(right.values()), len(right)),
        "estimate": [estimate.accuracy, estimate.low, estimate.high],
        "kept": diagnosis["kept"],
        "warnings": diagnosis["warnings"],
        "doubled": share_with_interval(sum(doubled), len(doubled)) if doubled else None,
        "share_error": share_error(truth, read),
        "seconds": round(seconds),
        "cpu_seconds": round(cpu),
        "stage_seconds": {stage: of["seconds"] for stage, of in stages.items()},
        "training_flops": flops,
    }


def doubles(text: str) -> bool:
    """Whether a text repeats a character directly."""
    return any(a == b for a, b in pairwise(text))


def share_error(truth: Mapping[str, str], read: Mapping[str, str]) -> float:
    """The largest relative error of a character frequency."""
    true, found = (Counter("".join(texts.values())) for texts in (truth, read))
    return max(
        abs(found[c] / max(1, found.total()) / (count / true.total()) - 1)
        for c, count in true.items()
    )


def means(rows: Sequence[Mapping[str, Any]], stock: Mapping[str, float]) -> tuple[str, ...]:
    """The last row of the table: means over families, and the coverage of the estimate.

    The rows of a family, of several seeds, weigh as much together as the one row of another family.
    """
    rows_of = Counter(row["family"] for row in rows)
    weights = [1 / (rows_of[row["family"]] * len(rows_of)) for row in rows]

    def mean(values: Sequence[float]) -> float:
        return sum(weight * value for weight, value in zip(weights, values, strict=True))

    inside = sum(row["estimate"][1] <= row["right"][0] <= row["estimate"][2] for row in rows)
    known = all(row["family"] in stock for row in rows)
    return (
        "mean", "", "",
        f"{mean([stock[row['family']] for row in rows]):.1%}" if known else "",
        f"{mean([row['specialized'] for row in rows]):.1%}",
        f"**{mean([row['right'][0] for row in rows]):.1%}**",
        f"{mean([AIMS[row['family']] for row in rows]):.1%}",
        f"{inside} of {len(rows)} inside",
        "", "", "",
        f"{mean([row['seconds'] for row in rows]):.0f}",
        "", "",
    )  # fmt: skip


def best_stock(file: Path) -> dict[str, float]:
    """The best stock reader's accuracy on each family with known alphabet and length."""
    rows = read_object(file)["rows"] if file.is_file() else []
    best: dict[str, float] = {}
    for row in rows:
        if row["reader"] != "ours" and row["known"] == "decoded":
            best[row["set"]] = max(best.get(row["set"], 0.0), row["accuracy"])
    return best


def write(
    options: argparse.Namespace, rows: Rows, stock: Mapping[str, float], began: Mapping[str, Any]
) -> None:
    cells = list[tuple[str, ...]]()
    for row in rows.rows:
        accuracy, low, high = row["estimate"]
        inside = "inside" if low <= row["right"][0] <= high else "outside"
        cells.append(
            (
                row["family"],
                str(row["seed"]),
                f"{row['images']:,}",
                f"{stock[row['family']]:.1%}" if row["family"] in stock else "",
                f"{row['specialized']:.1%}",
                f"**{percent(row['right'])}**",
                f"{AIMS[row['family']]:.1%}",
                f"{accuracy:.1%} ({low:.1%} to {high:.1%}), {inside}",
                row["kept"],
                f"{row['share_error']:.0%}",
                percent(row["doubled"]) if row["doubled"] else "",
                f"{row['seconds']}",
                f"{row['training_flops'] / 1e12:.1f}",
                row["made_by"]["commit"],
            )
        )
    cells.append(means(rows.rows, stock))
    write_table(
        options.out / f"{options.name}.md",
        "Real captchas after learning from them without labels: whole texts right, case ignored "
        "(95 % interval)",
        (
            "family", "seed", "images", "best stock reader", "specialized generalist",
            "after learning", "aim", "own estimate", "kept", "largest error of a character's share",
            "texts with a doubled character", "seconds", "training TFLOP", "commit",
        ),
        cells,
        (made_by_line(began), ""),
    )  # fmt: skip


if __name__ == "__main__":
    main()
