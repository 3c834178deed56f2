"""Draws images of generators that the generalist misreads, for docs/generalist.md.

    python benchmarks/misread_picture.py WORK

WORK holds the images of zero_shot.py. Writes docs/misread.png: images of three generators that the
generalist misreads although it knows alphabet and length, each with the true text and the reading.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from families import FAMILIES
from zero_shot import GENERATORS, least_and_most

from simgan_captcha.data.images import contact_sheet
from simgan_captcha.data.pictures import Pixels, open_picture
from simgan_captcha.generalist.reader import GeneralistReader

SHOWN = ("pypi_serif4to6", "pypi_digits4", "gregwar5")
_EACH = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder of zero_shot.py")
    parser.add_argument("--picture", type=Path, default=Path("docs/misread.png"))
    options = parser.parse_args()
    pictures, captions = [], []
    for name in SHOWN:
        for picture, caption in misread(options.work / "generated" / name, name):
            pictures.append(picture)
            captions.append(caption)
    options.picture.write_bytes(contact_sheet(pictures, captions))
    print(f"{options.picture}: {options.picture.stat().st_size:,} bytes")


def misread(folder: Path, name: str) -> Iterator[tuple[Pixels, str]]:
    """The first misread images of a generator, and what they say."""
    family = FAMILIES[GENERATORS[name]]
    reader = GeneralistReader(family.alphabet, least_and_most(family.length))
    found = 0
    with (folder / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            picture = open_picture(folder / "images" / row["name"]).rgb
            read = reader.read(picture).text
            if read.casefold() != row["label"].casefold():
                yield picture, f"{row['label']}, read {read}"
                if (found := found + 1) == _EACH:
                    return


if __name__ == "__main__":
    main()
