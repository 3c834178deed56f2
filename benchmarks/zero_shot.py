"""Measures stock readers and our generalist on captchas that they were not trained on.

    python benchmarks/zero_shot.py WORK --rivals PYTHON --python VENV/bin/python --node-path MODULES

The captchas are eight real families, new images of the six generators of families.py, and the
20,000 real ones of the puzzle. Each is read twice: with nothing known, and with known alphabet and
length. Stock readers do not accept a length, and only one accepts an alphabet. stock_readers.py
therefore also decodes their outputs with both. The packages themselves cannot do this.

All readers get the same images, on one thread, each in its own process. WORK keeps the texts of
stock readers, which are not read again. The script reports missing images, generators and readers,
and leaves them out. Labels are used only for judging. Writes benchmarks/results/zero_shot.{json,md}
and zero_shot_cost.{json,md}.
"""

import argparse
import base64
import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from string import ascii_uppercase, digits
from typing import Any

import our_generalist
from families import FAMILIES, draw
from record import RESULTS, provenance, write_result
from stock_readers import ALPHABET, DECODED, NOTHING, READERS, Job

from simgan_captcha.evaluation.judge import judge, puzzle_truth
from simgan_captcha.evaluation.labels import read_labels_csv
from simgan_captcha.scheme import HACKMIT_2017

OURS, BEST = "ours", "best stock"
KNOWN = {
    NOTHING: "nothing",
    ALPHABET: "alphabet, as the reader takes it",
    DECODED: "alphabet and length",
}
REAL, DRAWN, PUZZLE = "real families", "generators", "the puzzle's real captchas"
SHARED = Path(__file__).parents[2] / "shared" / "data"
PUZZLE_USER = "rickyhan"

REAL_FAMILIES = {
    "lzu5": (digits, "5"),
    "henan4": (digits, "4"),
    "cryptowin_math": (digits + "+", "3-5"),
    "swust_2019a": ("12345678abcdefhknpqxyz", "4"),
    "swust_2020": (ascii_uppercase + digits, "4"),
    "nsysu4": (digits[1:], "4"),
    "thsr4": ("234579ACFHKMNPQRTYZ", "4"),
    "spas4": ("2345678abcdefgmnpwxy", "4"),
}
"""The alphabet and length of each family, from its README."""

GENERATORS = {
    "pypi_digits4": "captcha (PyPI), 4 digits",
    "pypi_serif4to6": "captcha (PyPI), a-z0-9, serif, 4 to 6",
    "svg_captcha4": "svg-captcha (npm), 4, one line",
    "gd_securityimage5": "GD::SecurityImage (Perl), 5",
    "gregwar5": "Gregwar (PHP), 5",
    "puzzle4": "the puzzle, another user",
}
"""Folders, and their entries in `families.FAMILIES`."""

HACKMIT = "hackmit2017"
SETS = (*REAL_FAMILIES, *GENERATORS, HACKMIT)


@dataclass(frozen=True)
class CaptchaSet:
    """Captchas of one kind, in a folder with ``images/`` and ``labels.csv``."""

    name: str
    kind: str
    folder: Path
    alphabet: str
    length: str
    """The length as on our command line: "4" or "4-6"."""

    def job(self, images: Iterable[str]) -> Job:
        """The job for a reader."""
        paths = [str((self.folder / "images" / name).resolve()) for name in images]
        return Job(paths, self.alphabet, *least_and_most(self.length), time.time())


def least_and_most(length: str) -> tuple[int, int]:
    """The shortest and longest length in a string such as "4" or "4-6"."""
    least, _, most = length.partition("-")
    return int(least), int(most or least)


def main() -> None:
    began = provenance()
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    readers = found_readers(options)
    sets = found_sets(options)
    if not readers or not sets:
        sys.exit("expected a reader and captchas to measure, found none; see what was left out")
    rows: list[dict[str, Any]] = []
    for one in sets:
        images = sample(one, options.images, options.seed)
        truth = read_labels_csv(one.folder / "labels.csv")
        for reader, known in readers:
            done = read(one, images, reader, known, options)
            row = {"set": one.name, "kind": one.kind, "reader": reader, "known": known}
            rows.append({**row, **judged(one, images, done["texts"], truth), **cost(done, images)})
            print(f"{one.name}, {reader}, {known}: {rows[-1]['right']}/{len(images)}", flush=True)
    report = {
        **began,
        "seed": options.seed,
        "precision": "float32",
        "training_flops": 0,
        "means": means(rows),
        "readers": costs(rows),
        "rows": rows,
    }
    write_accuracy(options, report)
    write_cost(options, report)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="drawn images and stock readers' texts are kept")
    parser.add_argument("--families", type=Path, default=SHARED / "families")
    parser.add_argument("--puzzle", type=Path, default=SHARED / "hackmit2017" / "challenges")
    parser.add_argument("--rivals", help="PYTHON with the stock readers; without, ours alone")
    parser.add_argument("--python", default="python", help="one that has the package captcha")
    parser.add_argument("--node-path", default="", help="folder of node's modules")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--readers", nargs="+", choices=[*READERS, OURS])
    parser.add_argument("--images", type=int, default=300, help="of each set; 0: all")
    parser.add_argument("--drawn", type=int, default=500, help="images drawn by each generator")
    parser.add_argument("--seed", type=int, default=1, help="decides which images")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def found_readers(options: argparse.Namespace) -> list[tuple[str, str]]:
    """The requested readers, each with its kinds of knowledge. Prints why others are left out."""
    asked = options.readers or [*READERS, OURS]
    stock = [(name, known) for name in READERS if name in asked for known in READERS[name].known]
    if stock and not options.rivals:
        print("stock readers are left out: give --rivals PYTHON (`make rivals` makes one)")
        stock = []
    ours = our_generalist.KNOWN if OURS in asked else ()
    return [*stock, *((OURS, known) for known in ours)]


def found_sets(options: argparse.Namespace) -> list[CaptchaSet]:
    """The requested sets that exist or can be drawn. Prints why others are left out."""
    sets = []
    for name in [name for name in REAL_FAMILIES if name in options.sets]:
        (alphabet, length), folder = REAL_FAMILIES[name], options.families / name
        if folder.is_dir():
            sets.append(CaptchaSet(name, REAL, folder, alphabet, length))
        else:
            print(f"left out: {name}: no folder {folder}")
    asking = argparse.Namespace(**{**vars(options), "images": options.drawn})
    for name in [name for name in GENERATORS if name in options.sets]:
        family, folder = FAMILIES[GENERATORS[name]], options.work / "generated" / name
        folder.parent.mkdir(exist_ok=True)
        if why := draw(family, folder, asking):
            print(f"left out: {name}: {why}")
        else:
            sets.append(CaptchaSet(name, DRAWN, folder, family.alphabet, family.length))
    if HACKMIT in options.sets and options.puzzle.is_dir():
        folder = unpack_puzzle(options)
        alphabet, length = HACKMIT_2017.alphabet, str(HACKMIT_2017.max_length)
        sets.append(CaptchaSet(HACKMIT, PUZZLE, folder, alphabet, length))
    elif HACKMIT in options.sets:
        print(f"left out: {HACKMIT}: no folder {options.puzzle}")
    return sets


def unpack_puzzle(options: argparse.Namespace) -> Path:
    """Unpack some real captchas of the puzzle as numbered image files, once."""
    folder: Path = options.work / f"hackmit2017-{options.images}-of-seed-{options.seed}"
    if (folder / "labels.csv").exists():
        return folder
    batches = [json.loads(path.read_text()) for path in options.puzzle.glob("challenge-*")]
    images = {one["name"]: one["jpg_base64"] for batch in batches for one in batch["images"]}
    names, true = sorted(images), puzzle_truth(PUZZLE_USER)
    if options.images:
        names = random.Random(options.seed).sample(names, options.images)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [("name", "label")]
    for number, name in enumerate(names):
        rows.append((f"{number:05}.jpg", true(name)))
        (folder / "images" / rows[-1][0]).write_bytes(base64.b64decode(images[name]))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def sample(one: CaptchaSet, count: int, seed: int) -> list[str]:
    """Draw this number of image names from a set by the seed, or all if there are no more."""
    names = sorted(path.name for path in (one.folder / "images").iterdir())
    if not 0 < count < len(names):
        return names
    return sorted(random.Random(f"{seed} {one.name}").sample(names, count))


def read(
    one: CaptchaSet, images: Sequence[str], reader: str, known: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Read images in a new process. For stock readers, return the kept result if there is one."""
    kept: Path = options.work / "texts" / f"{reader}-{known}" / f"{one.name}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if reader != OURS and kept.exists():
        before: dict[str, Any] = json.loads(kept.read_text())
        if before["images"] == list(images):
            return before
    here = Path(__file__).parent
    if reader == OURS:
        command = [sys.executable, str(here / "our_generalist.py"), known]
    else:
        command = [options.rivals, str(here / "stock_readers.py"), reader, known]
    job, result = kept.with_suffix(".job"), kept.with_suffix(".result")
    job.write_text(json.dumps(asdict(one.job(images))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(job), str(result)], env=environment, check=True)
    done = {"images": list(images), **json.loads(result.read_text())}
    kept.write_text(json.dumps(done))
    job.unlink()
    result.unlink()
    return done


def judged(
    one: CaptchaSet, images: Sequence[str], texts: Sequence[str], truth: Mapping[str, str]
) -> dict[str, Any]:
    """The accuracy on whole texts and characters, without case."""
    alphabet = "".join(dict.fromkeys(one.alphabet.casefold()))
    found = judge(images, texts, truth, alphabet, fold=str.casefold)
    return {
        "images": found.images,
        "right": round(found.captcha_accuracy * found.images),
        "accuracy": found.captcha_accuracy,
        "interval": found.captcha_interval,
        "character_accuracy": found.character_accuracy,
        "wrong_length": found.wrong_length,
    }


def cost(done: Mapping[str, Any], images: Sequence[str]) -> dict[str, Any]:
    """The cost of reading, and the versions."""
    kept = ("cpu_seconds", "startup_seconds", "startup_cpu_seconds", "model_bytes", "versions")
    return {"cpu_seconds_per_image": done["cpu_seconds"] / len(images)} | {
        key: done[key] for key in kept
    }


def means(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The mean accuracy over the sets of a kind, by reader and by what is known.

    The reader `BEST` is the best stock reader of each set.
    """
    found = []
    for kind, known in unique((row["kind"], row["known"]) for row in rows):
        these = [row for row in rows if (row["kind"], row["known"]) == (kind, known)]
        about = {"kind": kind, "known": known}
        for reader in unique(row["reader"] for row in these):
            of = [row["accuracy"] for row in these if row["reader"] == reader]
            found.append({**about, "reader": reader, "sets": len(of), "accuracy": mean(of)})
        best: dict[str, float] = {}
        for row in these:
            if row["reader"] != OURS:
                best[row["set"]] = max(best.get(row["set"], 0), row["accuracy"])
        if best:
            of = list(best.values())
            found.append({**about, "reader": BEST, "sets": len(of), "accuracy": mean(of)})
    return found


def costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The cost of each reader over all sets with nothing known. Start-up is a median."""
    found = {}
    for reader in unique(row["reader"] for row in rows):
        of = [row for row in rows if row["reader"] == reader and row["known"] == NOTHING]
        images = sum(row["images"] for row in of)
        seconds = sum(row["cpu_seconds"] for row in of)
        found[reader] = {
            "images": images,
            "cpu_seconds_per_image": seconds / images,
            "images_per_cpu_second": images / seconds,
            "slowest_set": min(row["images"] / row["cpu_seconds"] for row in of),
            "fastest_set": max(row["images"] / row["cpu_seconds"] for row in of),
            "startup_seconds": median(row["startup_seconds"] for row in of),
            "startup_cpu_seconds": median(row["startup_cpu_seconds"] for row in of),
            "model_bytes": of[0]["model_bytes"],
            "versions": of[0]["versions"],
        }
    return found


def unique(values: Iterable[Any]) -> list[Any]:
    """The distinct values, in the order of first occurrence."""
    return list(dict.fromkeys(values))


def write_accuracy(options: argparse.Namespace, report: Mapping[str, Any]) -> None:
    """Write a table of sets by readers, for each kind of knowledge."""
    rows = report["rows"]
    readers = unique(row["reader"] for row in rows)
    cells = {(row["known"], row["set"], row["reader"]): cell(row) for row in rows}
    for of in report["means"]:
        cells[of["known"], f"mean of {of['sets']} {of['kind']}", of["reader"]] = (
            f"**{of['accuracy']:.1%}**"
        )
    for known, name in unique((row["known"], row["set"]) for row in rows):
        stock = [
            row["accuracy"]
            for row in rows
            if (row["known"], row["set"]) == (known, name) and row["reader"] != OURS
        ]
        if stock:
            cells[known, name, BEST] = f"{max(stock):.1%}"
    columns = [*readers, BEST]
    names = unique(row["set"] for row in rows)
    names += unique(key[1] for key in cells if key[1] not in names)
    # A mean over a single set repeats that set, so it is left out.
    lines = [name for name in names if not name.startswith("mean of 1 ")]
    write_result(
        options.out,
        "zero_shot",
        "Captchas read by readers that learn nothing from them: whole texts right, case ignored "
        f"(95 % interval), {options.images or 'all'} images each",
        report,
        ("known", "captchas", *columns),
        [
            (KNOWN[known], name, *(cells.get((known, name, reader), "") for reader in columns))
            for known in KNOWN
            for name in lines
            if any((known, name, reader) in cells for reader in readers)
        ],
    )


def cell(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['accuracy']:.1%} ({low:.0%} to {high:.0%})"


def write_cost(options: argparse.Namespace, report: Mapping[str, Any]) -> None:
    """Write speed, start-up and size of each reader, with its accuracy on characters."""
    characters = {
        (reader, known): mean(
            row["character_accuracy"]
            for row in report["rows"]
            if (row["reader"], row["known"]) == (reader, known)
        )
        for reader, known in unique((row["reader"], row["known"]) for row in report["rows"])
    }
    write_result(
        options.out,
        "zero_shot_cost",
        "The same readers on the same images, with nothing known: what they cost on one thread",
        {key: value for key, value in report.items() if key not in ("rows", "means")},
        (
            "reader",
            "images a second of CPU (slowest to fastest set)",
            "s of CPU an image",
            "first text of a new process after (s; s of CPU)",
            "network on disk (MB)",
            "characters right: nothing known; alphabet and length",
            "versions",
        ),
        [
            (
                name,
                f"{of['images_per_cpu_second']:.0f} ({of['slowest_set']:.0f} to "
                f"{of['fastest_set']:.0f})",
                f"{of['cpu_seconds_per_image']:.4f}",
                f"{of['startup_seconds']:.2f}; {of['startup_cpu_seconds']:.2f}",
                f"{of['model_bytes'] / 1e6:.1f}" if of["model_bytes"] else "–",
                "; ".join(f"{characters[name, known]:.1%}" for known in (NOTHING, DECODED)),
                ", ".join(f"{package} {number}" for package, number in of["versions"].items()),
            )
            for name, of in report["readers"].items()
        ],
    )


if __name__ == "__main__":
    main()
