"""Compares what `init` proposes for unknown families with what a person would write.

    python benchmarks/first_look.py WORK --families ../shared/data/families

The images are eight real families, and those of the six generators that zero_shot.py drew into
WORK. `init` proposes alphabet, length, background and clutter from the images alone. Alphabets are
compared as sets of characters, without case. Writes benchmarks/results/first_look.{json,md}.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from families import FAMILIES
from record import RESULTS, provenance, write_result
from zero_shot import GENERATORS, REAL_FAMILIES

import simgan_captcha as sc
from simgan_captcha.scheme import length_in_words


class Person(NamedTuple):
    """What a person writes after looking at ten images."""

    alphabet: str
    length: str
    background: str
    clutter: tuple[str, ...]


SEEN = {
    "lzu5": ("plain", ("dots",)),
    "henan4": ("plain", ("lines",)),
    "cryptowin_math": ("plain", ("lines",)),
    "swust_2019a": ("plain", ("lines",)),
    "swust_2020": ("plain", ("lines",)),
    "nsysu4": ("plain", ("lines", "dots")),
    "thsr4": ("plain", ("lines", "dots")),
    "spas4": ("varying", ("lines",)),
    "pypi_digits4": ("plain", ("lines", "dots")),
    "pypi_serif4to6": ("plain", ("lines", "dots")),
    "svg_captcha4": ("plain", ("lines",)),
    "gd_securityimage5": ("plain", ("lines", "dots")),
    "gregwar5": ("plain", ("lines",)),
    "puzzle4": ("shared", ()),
}
"""The background and clutter of each family, as a person sees them."""


def person(name: str) -> Person:
    """What a person writes for a family."""
    if name in REAL_FAMILIES:
        alphabet, length = REAL_FAMILIES[name]
    else:
        family = FAMILIES[GENERATORS[name]]
        alphabet, length = family.alphabet, family.length
    return Person(alphabet, length.replace("-", " to "), *SEEN[name])


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="where zero_shot.py drew the generators' images")
    parser.add_argument("--families", type=Path, default=Path("../shared/data/families"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows = []
    for name in SEEN:
        place = options.families if name in REAL_FAMILIES else options.work / "generated"
        if not (place / name / "images").is_dir():
            print(f"left out: {name}: no images in {place / name}")
            continue
        rows.append({"family": name, **looked(place / name / "images", person(name))})
        print(rows[-1], flush=True)
    write_result(
        options.out,
        "first_look",
        "What `init` proposes with nothing given, and what a person would write",
        {**began, "seed": None, "precision": "float32", "rows": rows},
        (
            "family",
            "length",
            "alphabet: too many",
            "missing",
            "background",
            "clutter",
            "CPU seconds",
        ),
        [
            (
                row["family"],
                agreement(row["length"], row["person"]["length"]),
                row["too_many"] or "none",
                row["missing"] or "none",
                agreement(row["background"], row["person"]["background"]),
                agreement(" ".join(row["clutter"]), " ".join(row["person"]["clutter"])),
                f"{row['cpu_seconds']:.0f}",
            )
            for row in rows
        ],
    )


def looked(folder: Path, person: Person) -> dict[str, Any]:
    """What `init` proposes for one folder."""
    start = time.process_time()
    seen = sc.inspect(folder)
    scheme = seen.scheme
    proposed, true = set(scheme.alphabet.casefold()), set(person.alphabet.casefold())
    return {
        "length": length_in_words(scheme.length),
        "alphabet": scheme.alphabet,
        "too_many": "".join(sorted(proposed - true)),
        "missing": "".join(sorted(true - proposed)),
        "background": scheme.background,
        "clutter": list(scheme.clutter),
        "doubts": list(seen.doubts),
        "person": {**person._asdict(), "clutter": list(person.clutter)},
        "cpu_seconds": time.process_time() - start,
    }


def agreement(proposed: str, person: str) -> str:
    proposed, person = proposed or "none", person or "none"
    return f"**{proposed}**" if proposed == person else f"{proposed} (a person: {person})"


if __name__ == "__main__":
    main()
