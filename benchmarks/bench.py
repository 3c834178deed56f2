"""Runs the benchmarks that take minutes on a CPU, one after another. `make bench` calls it.

    python benchmarks/bench.py --run RUN [--rivals PYTHON]

The results are written to benchmarks/results/ when all benchmarks are finished. Their ratios are
compared with the committed ones. A ratio that is more than 20 % lower is reported, and the exit
code is then 1. Other work on the machine affects ratios less than times, but it does affect them:
the ratio of puzzle_rate has varied from 4.5 to 6. Measure again before you trust a loss.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import RESULTS

MOST_LOST = 0.2


@dataclass(frozen=True)
class Benchmark:
    """A script, and the keys of its ratios in the JSON result. Higher ratios are better."""

    script: str
    ratios: Mapping[str, tuple[str, ...]]
    needs_run: bool = True


BENCHMARKS = (
    Benchmark(
        "simulator_rate",
        {"our simulator by the 2017 project's": ("times_the_2017_project",)},
    ),
    Benchmark(
        "training_rate",
        {
            "training by the convolution roofline": ("median", "of_roofline"),
            "training with the simulator by without": ("median", "kept_up"),
        },
    ),
    Benchmark("puzzle_rate", {"a challenge by plain drawing": ("ratio",)}, needs_run=False),
    Benchmark(
        "reading_rate",
        {
            "our reader by ddddocr": ("readers", "ours", "times_ddddocr"),
            "our reader by the 2017 network": ("readers", "ours", "times_2017"),
        },
    ),
    Benchmark("labelling_rate", {}),  # no ratios, only rates for docs/scale.md
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a finished run")
    parser.add_argument("--rivals", help="PYTHON with ddddocr and pytesseract")
    parser.add_argument("--only", nargs="+", choices=[one.script for one in BENCHMARKS])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    lost: list[str] = []
    written: dict[str, bytes] = {}
    for benchmark in BENCHMARKS:
        if options.only and benchmark.script not in options.only:
            continue
        before = committed(benchmark)
        command = [sys.executable, str(Path(__file__).with_name(f"{benchmark.script}.py"))]
        if benchmark.needs_run:
            command += ["--run", str(options.run)]
        if benchmark.script == "reading_rate" and options.rivals:
            command += ["--rivals", options.rivals]
        print(f"== {benchmark.script}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            # If a benchmark fails, the committed results stay as they are.
            subprocess.run([*command, "--out", folder], check=True)
            lost += compare(before, ratios(benchmark, Path(folder)))
            written |= {file.name: file.read_bytes() for file in Path(folder).iterdir()}
    for name, data in written.items():  # at the end, or the benchmarks would record a dirty commit
        (options.out / name).write_bytes(data)
    for line in lost:
        print(f"WORSE: {line}")
    sys.exit(1 if lost else 0)


def ratios(benchmark: Benchmark, folder: Path) -> dict[str, float]:
    """The ratios in a result, or none if it has not been measured yet."""
    path = folder / f"{benchmark.script}.json"
    if not path.exists():
        return {}
    found = {}
    for name, keys in benchmark.ratios.items():
        value: Any = json.loads(path.read_text())
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[name] = float(value)
    return found


def committed(benchmark: Benchmark) -> dict[str, float]:
    """The ratios in the last commit, or none outside git."""
    with tempfile.TemporaryDirectory() as folder:
        name = f"{benchmark.script}.json"
        shown = subprocess.run(
            ["git", "show", f"HEAD:./results/{name}"],
            cwd=Path(__file__).parent,
            capture_output=True,
        )
        if shown.returncode == 0:
            (Path(folder) / name).write_bytes(shown.stdout)
        return ratios(benchmark, Path(folder))


def compare(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Print each ratio with the committed one. Return those that fell."""
    lost = []
    for name in before.keys() - after.keys():
        print(f"{name}: not measured (was {before[name]:.3g})")
    for name, now in after.items():
        was = before.get(name)
        line = f"{name}: {now:.3g} ({'not measured before' if was is None else f'was {was:.3g}'})"
        print(line, flush=True)
        if was is not None and now < (1 - MOST_LOST) * was:
            lost.append(line)
    return lost


if __name__ == "__main__":
    main()
