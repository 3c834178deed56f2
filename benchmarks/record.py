"""What every benchmark says of itself beside its figures, and how both are written down."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import simgan_captcha
from simgan_captcha.atomic import write_bytes, write_json
from simgan_captcha.pipeline.graph import STAGES
from simgan_captcha.pipeline.manifest import MANIFEST, machine, versions

RESULTS = Path(__file__).parent / "results"
"""Where full runs write; a try-out names another folder."""


def provenance() -> dict[str, Any]:
    """The command, the commit that runs, the machine and the versions; to be asked at the start."""
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    return {
        "command": shlex.join(["python", script, *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }


def commit() -> str | None:
    """The commit checked out, with ``-dirty`` where files differ from it; None outside git."""
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
    """What each finished stage of a run recorded, by the stage's name."""
    paths = sorted(run.glob(f"*/{MANIFEST}"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def training_flops(run: Path, *, up_to: str = "readings") -> int:
    """Of the stages of a run up to one, that included; a multiply-add is two."""
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
    """Write ``name.json`` and, for people, ``name.md``; print the latter.

    Args:
        out: Folder.
        name: Of the files, without their endings.
        title: One line.
        report: All figures, `provenance` and ``seed`` among them.
        headers: Of the table's columns.
        rows: The table's cells.
    """
    lines = [
        f"# {title}",
        "",
        f"`{report['command']}`, commit {report['commit']}, seed {report['seed']}, "
        f"{report['machine']}, torch {report['versions']['torch']}, {report['precision']}",
        "",
        f"| {' | '.join(headers)} |",
        "|---" * len(headers) + "|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    text = "\n".join([*lines, ""])
    write_json(out / f"{name}.json", report)
    write_bytes(out / f"{name}.md", text.encode())
    print(text)


def with_interval(figures: Mapping[str, Any]) -> str:
    """Whole captchas right, with the 95 % interval, of `real_captchas.figures`."""
    low, high = figures["captcha_interval"]
    return f"**{figures['captcha_accuracy']:.2%}** ({low:.2%} to {high:.2%})"
