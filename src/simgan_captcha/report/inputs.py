"""Read the files of a run folder for the report; damage is noted and never fatal.

These functions take a list ``damage`` and append a message for the user about everything that they
cannot use. A missing file is not damage.
"""

import hashlib
import math
import re
from collections import Counter
from pathlib import Path

from simgan_captcha.atomic import file_hash
from simgan_captcha.documents import Json, parse_object, read_object
from simgan_captcha.errors import RunError
from simgan_captcha.inference.readings import Reading, load_readings
from simgan_captcha.pipeline.run_folder import READINGS

_MAX_METRICS_BYTES = 64_000_000
_UNPLOTTED = {"step", "steps", "epoch", "images", "seconds", "flops", "eta"}
"""Metrics with one of these words in their name are counts or costs, not curves."""


def read_readings(path: Path, damage: list[str]) -> list[Reading] | None:
    """The readings in a Parquet file; None if it is missing or damaged. Damage is noted."""
    if not path.exists():
        return None
    try:
        return load_readings(path)
    except RunError as error:
        damage.append(str(error))
        return None


def read_metrics(path: Path, damage: list[str]) -> dict[str, list[tuple[float, float]]]:
    """Curves by name. If a resumed run repeats a step, its later line counts."""
    if not path.exists():
        return {}
    if path.stat().st_size > _MAX_METRICS_BYTES:
        damage.append(f"{path}: expected at most {_MAX_METRICS_BYTES} bytes; no curves are drawn")
        return {}
    points: dict[str, dict[float, float]] = {}
    unusable, infinite = 0, Counter[str]()
    for line in path.read_text("utf-8", "replace").splitlines():
        entry = _entry(line)
        step = None if entry is None else as_number(entry.get("step"))
        if entry is None or step is None:
            unusable += 1
            continue
        for key, value in entry.items():
            if _UNPLOTTED & set(key.split("_")):
                continue
            number = as_number(value)
            if number is not None:
                points.setdefault(key, {})[step] = number
            elif value is None:
                infinite[key] += 1
    damage += [f"{path}: {key} was not finite {times} times" for key, times in infinite.items()]
    if unusable:
        damage.append(f"{path}: {unusable} lines are not metrics and are left out")
    return {key: sorted(curve.items()) for key, curve in points.items()}


def _entry(line: str) -> Json | None:
    try:
        return parse_object(line)
    except ValueError:
        return None


def read_json(path: Path, damage: list[str]) -> Json | None:
    """A JSON object; None if the file is missing or damaged. Damage is noted."""
    try:
        return read_object(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        damage.append(f"{path}: expected a JSON object, could not read one ({error})")
        return None


def scheme_of(run: Json) -> Json:
    """The scheme in a ``run.json``; empty if it has none."""
    return as_mapping(run.get("scheme")) or as_mapping(as_mapping(run.get("config")).get("scheme"))


def as_mapping(value: object) -> Json:
    """The value if it is a JSON object, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def as_texts(value: object) -> list[str]:
    """The value's items as texts if it is a JSON array, otherwise none."""
    return [str(item) for item in value] if isinstance(value, list) else []


def warnings_of(manifest: Json) -> list[str]:
    """Warnings of a finished stage."""
    return as_texts(as_mapping(manifest.get("result")).get("warnings"))


def as_number(value: object) -> float | None:
    """The value if it is a finite number, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def first_text(*values: object) -> str | None:
    """The first of the values that is a text of at least one character."""
    return next((value for value in values if isinstance(value, str) and value), None)


def of_these_readings(path: Path, run_folder: Path, damage: list[str]) -> Json | None:
    """A judgement or verdict; None if it belongs to other readings than the current ones."""
    value = read_json(path, damage)
    readings = run_folder / READINGS
    if value is None or "readings_sha256" not in value or not readings.exists():
        return value
    if value.pop("readings_sha256") == file_hash(readings):
        return value
    damage.append(
        f"{path.name} belongs to earlier readings and is not shown; judge or submit again"
    )
    return None


def refiner_sheets(run_folder: Path) -> dict[int, Path]:
    """The refiner's pictures by training step, in ascending order."""
    sheets = {
        int(match[1]): path
        for path in (run_folder / "refine").glob("sheet-*.png")
        if (match := re.fullmatch(r"sheet-(\d{1,12})\.png", path.name))
    }
    return dict(sorted(sheets.items()))


def file_states(*paths: Path) -> str:
    """A hash that changes when one of these files is written, replaced or removed."""
    states = []
    for path in paths:
        try:
            about = path.stat()
            states.append(f"{path.name} {about.st_mtime_ns} {about.st_size} {about.st_ino}")
        except OSError:
            states.append(f"{path.name} is not there")
    return hashlib.sha256("\n".join(states).encode("utf-8", "replace")).hexdigest()[:16]
