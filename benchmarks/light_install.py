"""Measures an install without extras: megabytes, and seconds of the first reading.

    python benchmarks/light_install.py

The script makes a new environment and installs the package from this folder without extras. It
starts ``simgan-captcha read image.png`` there once, and then ``--rounds`` times. Megabytes are
those of ``du -sm`` on ``site-packages``, including pip and setuptools. Other work on the machine
increases wall times, but barely changes CPU times. Writes
benchmarks/results/light_install.{json,md}.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from PIL import Image, ImageDraw, ImageFont
from record import RESULTS, provenance, write_result

ROOT = Path(__file__).parents[1]
_LARGEST = 8
"""The entries of ``site-packages`` that the result names."""


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        environment, image = Path(temporary) / "environment", Path(temporary) / "image.png"
        megabytes = install(environment)
        picture = Image.new("RGB", (160, 60), "white")
        ImageDraw.Draw(picture).text((20, 10), "4071", "black", ImageFont.load_default(36))
        picture.save(image)
        first, *others = (read(environment, image) for _ in range(1 + options.rounds))
    again = [median(seconds) for seconds in zip(*others, strict=True)]
    total = megabytes.pop("site-packages")
    largest = sorted(megabytes.items(), key=lambda one: -one[1])[:_LARGEST]
    report = {
        **began,
        "seed": None,
        "precision": "float32",
        "megabytes": {"all": total, **dict(largest)},
        "first": dict(zip(("wall", "cpu"), first, strict=True)),
        "again": dict(zip(("wall", "cpu"), again, strict=True)),
    }
    rows = [
        ("`site-packages` (MB)", f"{total}"),
        *((f"of these, `{name}` (MB)", f"{size}") for name, size in largest),
        ("first `read` (s, s of CPU)", "{:.2f}, {:.2f}".format(*first)),
        (f"median of {options.rounds} more", "{:.2f}, {:.2f}".format(*again)),
    ]
    title = "An install without extras, and `simgan-captcha read image.png` in it"
    write_result(options.out, "light_install", title, report, ("what", "figure"), rows)


def install(environment: Path) -> dict[str, int]:
    """Install the package. Return the megabytes of ``site-packages`` and of each entry."""
    python = environment / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    options = ("--quiet", "--constraint", ROOT / "constraints.txt")
    subprocess.run([python, "-m", "pip", "install", *options, ROOT], check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    counted = subprocess.run(
        ["du", "-m", "--max-depth=1", packages], capture_output=True, text=True, check=True
    )
    lines = (line.split("\t") for line in counted.stdout.splitlines())
    return {Path(path).name: int(size) for size, path in lines}


def read(environment: Path, image: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one complete ``read`` command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [environment / "bin" / "simgan-captcha", "read", image],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},  # without the PYTHONPATH of this process
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "  4071  " in done.stdout, done.stdout
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


if __name__ == "__main__":
    main()
