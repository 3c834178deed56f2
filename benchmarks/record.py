"""Provenance of benchmark results, and functions that write the results."""

import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import simgan_captcha
from simgan_captcha.atomic import write_bytes, write_json
from simgan_captcha.evaluation.intervals import wilson_interval
from simgan_captcha.pipeline.graph import STAGES
from simgan_captcha.pipeline.manifest import MANIFEST, machine, versions

RESULTS = Path(__file__).parent / "results"
"""The folder of full runs. A trial gives another folder."""


def provenance() -> dict[str, Any]:
    """The command, commit, machine and versions. Call this at the start of a benchmark."""
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    return {
        "command": shlex.join(["python", script, *sys.argv[1:]]),
        "commit": commit(),
        "machine": _machine(),
        "versions": versions(),
    }


def _machine() -> str:
    """The processor, its cores, the system, and the GPU if there is one."""
    return (
        f"{machine()}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else machine()
    )


def commit() -> str | None:
    """The current commit, with ``-dirty`` if files differ from it. None outside git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"],
            cwd=Path(simgan_captcha.__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def manifests(run: Path) -> dict[str, dict[str, Any]]:
    """The manifest of each finished stage of a run, by the name of the stage."""
    paths = sorted(run.glob(f"*/{MANIFEST}"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def training_flops(run: Path, *, up_to: str = "readings") -> int:
    """The FLOPs of a run up to and including a stage. A multiply-add counts as two."""
    order = [stage.name for stage in STAGES]
    counted = order[: order.index(up_to) + 1]
    return sum(of["training_flops"] for stage, of in manifests(run).items() if stage in counted)


def write_result(
    out: Path,
    name: str,
    title: str,
    report: Mapping[str, Any],
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
) -> None:
    """Write ``name.json`` and a readable ``name.md``, and print the latter.

    Args:
        out: The folder.
        name: The file name without extension.
        title: One line.
        report: All figures, including `provenance` and ``seed``.
        headers: The column headers of the table.
        rows: The cells of the table.
    """
    made_by = f"{made_by_line(report)}, seed {report['seed']}, {report['precision']}"
    write_json(out / f"{name}.json", report)
    write_table(out / f"{name}.md", title, headers, rows, (made_by, ""))


def made_by_line(began: Mapping[str, Any]) -> str:
    """The result of `provenance` as a line below a title."""
    return (
        f"`{began['command']}`, commit {began['commit']}, {began['machine']}, torch "
        f"{began['versions']['torch']}"
    )


class Rows:
    """Rows of a result that takes several sittings, kept in one JSON file.

    Each row is written as soon as it is finished, with its command and commit. Rows in the file
    need not be repeated.

    Args:
        path: The file. The first row creates it.
        keys: The keys that identify a row.
        identity: What all rows have in common. A file with another identity is refused.
    """

    def __init__(self, path: Path, keys: Sequence[str], identity: Mapping[str, Any]) -> None:
        self.path, self.keys = path, tuple(keys)
        self.identity = json.loads(json.dumps(identity))
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["identity"] != self.identity:
                sys.exit(f"expected {path} to be of {self.identity}, it is of {kept['identity']}")
            self.rows = kept["rows"]

    def has(self, *values: Any) -> bool:
        """Whether a row has these values of the keys."""
        return any(tuple(row[key] for key in self.keys) == values for row in self.rows)

    def add(self, row: Mapping[str, Any], began: Mapping[str, Any]) -> None:
        """Add a row, with the `provenance` of its making."""
        self.rows.append({**row, "made_by": dict(began)})
        write_json(self.path, {"identity": self.identity, "rows": self.rows})

    def of(self, **values: Any) -> list[dict[str, Any]]:
        """The rows with these values."""
        return [row for row in self.rows if values.items() <= row.items()]


def over_seeds(values: Sequence[float], form: str = "{:.1%}") -> str:
    """The mean and the half-width of its 95 % interval (Student's t)."""
    if not values:
        return "–"
    mean = form.format(statistics.fmean(values))
    if len(values) < 2:
        return mean
    quantile = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values), 2.0)
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {form.replace(':+', ':').format(half)}"


def write_table(
    path: Path,
    title: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    above: Sequence[str] = (),
) -> None:
    """Write and print a Markdown table. ``above`` are lines between title and table."""
    lines = [
        f"# {title}",
        "",
        *above,
        f"| {' | '.join(headers)} |",
        "|---" * len(headers) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    text = "\n".join([*lines, ""])
    write_bytes(path, text.encode())
    print(text)


def share_with_interval(right: int, count: int) -> list[float]:
    """The share of right texts, and the ends of its 95 % interval."""
    return [right / count, *wilson_interval(right, count)]


def percent(share: Sequence[float]) -> str:
    """Format the result of `share_with_interval`."""
    return f"{share[0]:.1%} ({share[1]:.1%} to {share[2]:.1%})"


def with_interval(figures: Mapping[str, Any]) -> str:
    """Format the accuracy of `real_captchas.figures` on whole captchas, with its 95 % interval."""
    low, high = figures["captcha_interval"]
    return f"**{figures['captcha_accuracy']:.2%}** ({low:.2%} to {high:.2%})"
