"""Measures the program on captchas of other families, given only alphabet and length.

    python benchmarks/families.py WORK --python VENV/bin/python --node-path MODULES

Each family has 2,000 unlabelled images. A third-party generator (benchmarks/generators/) draws
them, or our puzzle for a user that was not used in development. The script calls ``init`` as a user
would, ``run`` with one preset for all families, and then ``judge``. It skips families without an
installed generator, and says so. The simulator has none of their fonts. The last seven families
were not used in development before 2026-11-30. Writes
benchmarks/results/NAME.{json,md}.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits
from typing import Any

from record import RESULTS, manifests, provenance, training_flops, write_result

from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.run_folder import JUDGEMENT, READINGS, read_diagnosis
from simgan_captcha.scheme import load_scheme

GENERATORS = Path(__file__).parent / "generators"
_NO_O = "".join(c for c in digits + ascii_letters if c not in "0o1iIlO")
_SERIF = "/usr/share/fonts/truetype/liberation/LiberationSerif-Regular.ttf"


@dataclass(frozen=True)
class Family:
    """One generator and its arguments."""

    program: tuple[str, ...]
    """Interpreter and script. The folder, the count and ``arguments`` follow."""
    arguments: tuple[str, ...]
    alphabet: str
    """The alphabet and the ``length`` that a user would give."""
    length: str
    alike: str = ""
    """Characters that the generator draws much alike. A second figure counts them as the same
    character."""
    seen: Mapping[str, str] = field(default_factory=dict)
    """Settings that `init` cannot see, and that a user sees in ten images."""


FAMILIES = {
    "captcha (PyPI), 4 digits": Family(
        ("python", "pypi_captcha.py"), (digits, "4", "4", "160", "60"), digits, "4"
    ),
    "captcha (PyPI), 4 digits, on gradients": Family(
        ("python", "pypi_captcha.py"), (digits, "4", "4", "160", "60", "--gradients"), digits, "4"
    ),
    "captcha (PyPI), 4 digits, on textures": Family(
        ("python", "pypi_captcha.py"), (digits, "4", "4", "160", "60", "--textures"), digits, "4"
    ),
    "captcha (PyPI), 4 digits, said to lie on textures": Family(
        ("python", "pypi_captcha.py"),
        (digits, "4", "4", "160", "60", "--textures"),
        digits,
        "4",
        seen={"clutter": '["lines", "dots", "texture"]'},
    ),
    "captcha (PyPI), a-z0-9, serif, 4 to 6": Family(
        ("python", "pypi_captcha.py"),
        (ascii_lowercase + digits, "4", "6", "200", "70", _SERIF),
        ascii_lowercase + digits,
        "4-6",
        alike="o0",  # x-height letters are as high as digits here
    ),
    "svg-captcha (npm), 4, one line": Family(("node", "svg_captcha.js"), ("4", "1"), _NO_O, "4"),
    "GD::SecurityImage (Perl), 5": Family(
        ("perl", "gd_securityimage.pl"), ("5",), digits + ascii_uppercase, "5"
    ),
    "Gregwar (PHP), 5": Family(
        ("php", "gregwar.php"), (digits + ascii_lowercase, "5"), digits + ascii_lowercase, "5"
    ),
    "Gregwar (PHP), 5, said to have several fonts": Family(
        ("php", "gregwar.php"),
        (digits + ascii_lowercase, "5"),
        digits + ascii_lowercase,
        "5",
        seen={"multiple_fonts": "true"},
    ),
    "Gregwar (PHP), 5, said to have waves and several fonts": Family(
        ("php", "gregwar.php"),
        (digits + ascii_lowercase, "5"),
        digits + ascii_lowercase,
        "5",
        seen={"wavy_baseline": "true", "multiple_fonts": "true"},
    ),
    "the puzzle, another user": Family((), (), ascii_lowercase + digits, "4"),
    "wheezy.captcha (PyPI), 4": Family(
        ("python", "pypi_more.py"), ("wheezy",), ascii_uppercase + digits, "4"
    ),
    "django-simple-captcha (PyPI), 4": Family(
        ("python", "pypi_more.py"), ("django",), ascii_uppercase, "4"
    ),
    "gvcode (PyPI), 5": Family(
        ("python", "pypi_more.py"), ("gvcode",), ascii_lowercase + digits, "5"
    ),
    "multicolorcaptcha (PyPI), 4": Family(
        ("python", "pypi_more.py"), ("multicolor",), digits + "ABCDEF", "4"
    ),
    "trek-captcha (npm), 5": Family(("node", "npm_more.js"), ("trek",), ascii_lowercase, "5"),
    "ppfun-captcha (npm), 4": Family(("node", "npm_more.js"), ("ppfun",), _NO_O, "4"),
    "captchapng (npm), 4": Family(("node", "npm_more.js"), ("captchapng",), digits, "4"),
}


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="images and runs; what is finished is kept")
    parser.add_argument("--python", default="python", help="one that has the package captcha")
    parser.add_argument("--node-path", default="", help="folder of node's modules")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="families", help="of the result files")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for name in options.families:
        folder = options.work / "".join(c if c.isalnum() else "-" for c in name)
        if why := draw(FAMILIES[name], folder, options):
            print(f"left out: {name}: {why}", flush=True)
            continue
        try:
            rows.append({"family": name, **measure(FAMILIES[name], folder, options)})
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"failed: {name}: {error}", flush=True)
            continue
        print(rows[-1], flush=True)
    if not rows:
        sys.exit("expected a family to measure, none could be; see what was said of each")
    write_result(
        options.out,
        options.name,
        f"Other captcha families, {options.images:,} unlabelled images each, with alphabet "
        "and length alone given",
        {
            **began,
            "preset": options.preset,
            "settings": options.settings,
            "seed": options.seed,
            "precision": rows[-1]["precision"],
            "rows": rows,
            "failed": failed,
        },
        (
            "family",
            "whole texts (95 % interval)",
            "characters",
            "whole texts, likes as one",
            "the run's own estimate",
            "TFLOP",
        ),
        [
            (
                row["family"],
                f"{row['captcha_accuracy']:.1%} ({row['captcha_interval'][0]:.1%} to "
                f"{row['captcha_interval'][1]:.1%})",
                f"{row['character_accuracy']:.1%}",
                f"{row['alike_accuracy']:.1%} ({row['alike']})" if row["alike"] else "",
                f"{row['estimate']['accuracy']:.1%} ({row['estimate']['low']:.1%} to "
                f"{row['estimate']['high']:.1%})",
                f"{row['training_tflop']:.1f}",
            )
            for row in rows
        ]
        + [(name, "its run failed", "", "", "", "") for name in failed],
    )


def draw(family: Family, folder: Path, options: argparse.Namespace) -> str | None:
    """Draw the images and labels of a family, unless they exist. Return why that is impossible."""
    if folder.exists():
        return None
    begun = folder.with_name(folder.name + "-begun")
    shutil.rmtree(begun, ignore_errors=True)
    why = draw_into(begun, family, options)
    if why is None:
        begun.rename(folder)
    return why


def draw_into(folder: Path, family: Family, options: argparse.Namespace) -> str | None:
    if not family.program:
        draw_puzzle(folder, options.images)
        return None
    program, script = family.program
    command = [
        options.python if program == "python" else program,
        str(GENERATORS / script),
        str(folder),
        str(options.images),
        *family.arguments,
    ]
    environment = {**os.environ, "NODE_PATH": options.node_path}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def draw_puzzle(folder: Path, count: int) -> None:
    """Draw captchas of our own puzzle, for a user that was not used in development."""
    from simgan_captcha.puzzle.answers import answer
    from simgan_captcha.puzzle.artwork import Artist

    user, artist = "families", Artist()
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        labels = csv.writer(file)
        labels.writerow(("name", "label"))
        for number in range(count):
            name = f"{number:032x}"
            (folder / "images" / f"{name}.jpg").write_bytes(artist.jpeg(user, name))
            labels.writerow((f"{name}.jpg", answer(user, name)))


def measure(family: Family, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Call ``init``, ``run`` and ``judge`` as on a command line."""
    run, scheme, images = folder / "run", folder / "my.toml", folder / "images"
    if not scheme.exists():
        told = ["--alphabet", family.alphabet, "--length", family.length]
        call("init", images, scheme, *told)
        said = scheme.read_text()
        for key, value in family.seen.items():
            line = re.compile(f"^{key} = .*$", re.MULTILINE)
            said, lines = line.subn(f"{key} = {value}", said)
            if lines != 1:
                raise SystemExit(f"expected init to write one line {key!r}, found {lines}")
        scheme.write_text(said)
    settings = [f"--set={setting}" for setting in options.settings]
    learned = ["--preset", options.preset, "--seed", str(options.seed), *settings]
    call("run", run, "--scheme", scheme, "--images", images, *learned)
    call("judge", run, "--labels", folder / "labels.csv")
    judged = json.loads((run / JUDGEMENT).read_text())
    diagnosis = read_diagnosis(run)
    kept = ("images", "captcha_accuracy", "captcha_interval", "character_accuracy")
    return {
        **{key: judged[key] for key in kept},
        "alike": family.alike,
        "alike_accuracy": alike_accuracy(run, folder / "labels.csv", family.alike),
        "estimate": diagnosis["estimates"][diagnosis["kept"]],
        "scheme": load_scheme(scheme).model_dump(mode="json"),
        "warnings": diagnosis["warnings"],
        "training_tflop": training_flops(run) / 1e12,
        "precision": manifests(run)["readings"]["precision"],
    }


def alike_accuracy(run: Path, labels: Path, alike: str) -> float:
    """The share of texts that are right if these characters count as the same one."""
    as_one = str.maketrans(alike, alike[:1] * len(alike))
    with labels.open(newline="") as file:
        true = {row["name"]: row["label"].translate(as_one) for row in csv.DictReader(file)}
    readings = load_readings(run / READINGS)
    return sum(r.text.translate(as_one) == true[r.name] for r in readings) / len(readings)


def call(*arguments: str | Path) -> None:
    """Call one of our commands. Its output is passed through."""
    subprocess.run([sys.executable, "-m", "simgan_captcha", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
