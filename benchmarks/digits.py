"""Measures what refining adds on images that are not captchas, with examples/refine_digits.py.

    python benchmarks/digits.py WORK

A classifier of handwritten digits trains on printed digits, once raw and once refined. The seeds
are those of the example. Writes benchmarks/results/digits.{json,md}.
"""

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

from record import RESULTS, provenance, write_result

EXAMPLE = Path(__file__).parent.parent / "examples" / "refine_digits.py"
_SAID = re.compile(r"seed (\d+), trained on (printed|refined) digits: ([\d.]+)% of (\d+)")


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="the refiners are trained here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    lines = []
    with subprocess.Popen(
        [sys.executable, "-u", EXAMPLE, arguments.work], stdout=subprocess.PIPE, text=True
    ) as example:
        for line in example.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    if example.returncode:
        sys.exit(f"expected {EXAMPLE} to end well, it ended with {example.returncode}")
    rows: dict[int, dict[str, float]] = {}
    for seed, images, percent, _ in _SAID.findall("".join(lines)):
        rows.setdefault(int(seed), {})[images] = float(percent) / 100
    gains = [row["refined"] - row["printed"] for row in rows.values()]
    spread = statistics.stdev(gains)
    write_result(
        arguments.out,
        "digits",
        f"Handwritten digits, none labelled: refining adds {statistics.mean(gains):.1%} "
        f"(± {spread:.1%} between seeds)",
        {
            **began,
            "seed": ", ".join(map(str, rows)),
            "precision": "32-true",
            "accuracy": rows,
            "gain": {"mean": statistics.mean(gains), "standard_deviation": spread},
        },
        ["seed", "after printed digits", "after refined ones"],
        [
            (str(seed), f"{row['printed']:.1%}", f"{row['refined']:.1%}")
            for seed, row in rows.items()
        ],
    )


if __name__ == "__main__":
    main()
