"""Compares the costs of a run at two commits, alternated on one machine.

    python benchmarks/run_cost.py a8a9182 HEAD --work WORK --challenges FOLDER --user rickyhan
    python benchmarks/run_cost.py a8a9182 HEAD --work WORK --images FOLDER --scheme my.toml \
        --labels labels.csv

Each commit is checked out into a git worktree in WORK, which ``git worktree remove`` deletes. It
runs in the environment of this command. Wall seconds are those of the stages, as the runs record
them. CPU seconds are those of the command. The readings are judged afterwards. Ratios of a round
compare runs that followed each other, so slow hours affect both. Writes
benchmarks/results/NAME.{json,md} after each run. Rows that the file already holds are not repeated.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from record import RESULTS, Rows, made_by_line, manifests, provenance, write_table

from simgan_captcha.documents import read_object

_MAIN = "from simgan_captcha.cli import main; main()"
_ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    began, options = provenance(), parse(arguments)
    commits = [name_of(commit) for commit in (options.old, options.new)]
    identity = {"preset": options.preset, "settings": options.settings, "commits": commits}
    rows = Rows(options.out / f"{options.name}.json", ("commit", "round"), identity)
    for number in range(1, options.rounds + 1):
        for commit in commits:
            if not rows.has(commit, number):
                row = cost_of(checked_out(commit, options.work), number, options)
                rows.add({"commit": commit, "round": number, **row}, began)
            write(options, rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--challenges", type=Path)
    parser.add_argument("--user", default="rickyhan")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--scheme", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--set", nargs="+", default=[], dest="settings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="run_cost", help="of the result files")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if (options.challenges is None) == (options.images is None):
        parser.error("expected --challenges or --images, got both or neither")
    if options.images and not (options.scheme and options.labels):
        parser.error("expected --scheme and --labels with --images, one is missing")
    return options


def name_of(commit: str) -> str:
    """The first 12 digits of a commit."""
    git = ("git", "rev-parse", "--short=12", f"{commit}^{{commit}}")
    done = subprocess.run(git, cwd=_ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def checked_out(commit: str, work: Path) -> Path:
    """The source folder of a commit."""
    folder = (work / commit).resolve()
    if not folder.exists():
        git = ("git", "worktree", "add", "--detach", "--quiet", folder, commit)
        subprocess.run(git, cwd=_ROOT, check=True)
    return folder / "src"


def cost_of(source: Path, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run once in a new folder, and return costs and accuracy."""
    run = options.work / f"run-{source.parent.name}-{number}"
    shutil.rmtree(run, ignore_errors=True)
    if options.challenges:
        images = ["--challenges", options.challenges, "--user", options.user]
        truth = ["--user", options.user]
    else:
        images = ["--images", options.images, "--scheme", options.scheme]
        truth = ["--labels", options.labels]
    preset = ["--preset", options.preset, "--seed", "1", "--quiet"]
    settings = [part for value in options.settings for part in ("--set", value)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command(source, "run", run, *images, *preset, *settings)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    command(source, "judge", run, *truth)
    stages = manifests(run)
    seconds = {stage: of["seconds"] for stage, of in stages.items()}
    return {
        "seconds": round(sum(seconds.values()), 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
        "stages": seconds,
        # Commits differ in their stages, so `record.training_flops` does not know all of them.
        "training_flops": sum(of["training_flops"] for of in stages.values()),
        "right": read_object(run / "judge" / "judgement.json")["captcha_accuracy"],
    }


def command(source: Path, *arguments: object) -> None:
    """Run the command line of a commit."""
    subprocess.run(
        [sys.executable, "-c", _MAIN, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def write(options: argparse.Namespace, rows: Rows) -> None:
    old, new = rows.identity["commits"]
    pairs = zip(rows.of(commit=old), rows.of(commit=new), strict=False)
    ratios = [(a["seconds"] / b["seconds"], a["cpu_seconds"] / b["cpu_seconds"]) for a, b in pairs]
    cells = [
        (
            f"`{row['commit']}`",
            str(row["round"]),
            f"{row['seconds']:.0f}",
            f"{row['cpu_seconds']}",
            f"{row['training_flops'] / 1e12:.1f}",
            f"{row['right']:.2%}",
            ", ".join(f"{stage} {s:.0f}" for stage, s in row["stages"].items() if s >= 1),
        )
        for row in rows.rows
    ]
    if ratios:
        wall, cpu = (median(of) for of in zip(*ratios, strict=True))
        cells.append(("median ratio", "", f"**{wall:.1f}**", f"**{cpu:.1f}**", "", "", ""))
    write_table(
        options.out / f"{options.name}.md",
        f"Cost of a run, preset {options.preset}, at two commits",
        (
            "commit", "round", "seconds of all stages", "CPU seconds", "training TFLOP",
            "texts right", "seconds by stage",
        ),
        cells,
        (made_by_line(rows.rows[-1]["made_by"]), ""),
    )  # fmt: skip


if __name__ == "__main__":
    main()
