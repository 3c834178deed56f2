"""Lists the installed fonts that the generalist may learn from, with their licences.

    python -m simgan_captcha.simulator.wide.catalogue fonts.tsv --hold-back families.txt

The list, not the fonts, is part of the repository. A font is taken if it draws all 62 Latin letters
and digits, and its letters look like those of other fonts (those of icon fonts do not). It must
also differ from every font taken before.
"""

import argparse
import csv
import hashlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from string import ascii_letters, digits

import cv2
import numpy as np
import numpy.typing as npt
from fontTools.ttLib import TTFont, TTLibError
from PIL import Image, ImageFont

_ALPHANUMERIC = digits + ascii_letters
_BOX = 24
"""Side of the square that glyphs are compared in, in pixels."""
_LEAST_SIMILARITY = 0.45
"""Median correlation of a font's glyphs with the mean glyphs of all fonts."""
_UNICASE = 0.95
"""Correlation of a lower-case with an upper-case glyph that are one shape."""
_HELD_OUT = 10
"""One in so many families is kept to measure on."""


@dataclass(frozen=True)
class FontEntry:
    """One font file that the generalist may draw with."""

    path: str
    package: str
    family: str
    style: str
    licence: str
    split: str
    """``train``; ``held-out``: one family in ten, to measure on; ``benchmark``: a font that a
    benchmark's generator draws with, never drawn with here."""
    unicase: bool
    """Whether lower-case letters have the shapes of upper-case ones."""


def read_catalogue(file: Path) -> list[FontEntry]:
    """Entries of a list that this module wrote."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        return [FontEntry(**{**row, "unicase": row["unicase"] == "True"}) for row in rows]  # type: ignore[arg-type]


def catalogue(root: Path, held_back: Sequence[str]) -> Iterator[FontEntry]:
    """Usable fonts below a folder, in the order of their paths.

    Args:
        root: Searched with all folders below it.
        held_back: Families, or beginnings of their names, that benchmarks draw with.
    """
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in {".ttf", ".otf"})
    drawn = {}
    for path in paths:
        glyphs = _normalised_glyphs(path)
        if glyphs is not None:
            drawn[path] = glyphs
    mean = np.mean(list(drawn.values()), axis=0)
    seen: set[str] = set()
    for path, glyphs in drawn.items():
        similarity = float(np.median(_correlation(glyphs, mean)))
        shape = hashlib.sha256(np.packbits(glyphs > 0.5).tobytes()).hexdigest()
        if similarity < _LEAST_SIMILARITY or shape in seen:
            continue
        seen.add(shape)
        family, style = _names(path)
        package, licence = _origin(path)
        yield FontEntry(
            str(path), package, family, style, licence, _split(family, held_back), _unicase(glyphs)
        )


def _split(family: str, held_back: Sequence[str]) -> str:
    if any(family.casefold().startswith(name.casefold()) for name in held_back):
        return "benchmark"
    # The first word: "Noto Sans" and "Noto Serif" go together, so that held-out shapes are new.
    word = family.split()[0].casefold() if family.split() else ""
    number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
    return "held-out" if number % _HELD_OUT == 0 else "train"


def _normalised_glyphs(path: Path) -> npt.NDArray[np.float32] | None:
    """(62, 24, 24) glyphs, each stretched to the box; None if one is missing."""
    try:
        if not {ord(c) for c in _ALPHANUMERIC} <= set(TTFont(path, lazy=True).getBestCmap() or ()):
            return None
        font = ImageFont.truetype(path, 32, layout_engine=ImageFont.Layout.BASIC)
        glyphs = []
        for character in _ALPHANUMERIC:
            mask = font.getmask(character, mode="L")
            if min(mask.size) < 1 or max(mask.size) > 400:
                return None
            pixels = np.asarray(Image.frombytes("L", mask.size, bytes(mask)), np.float32) / 255
            rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
            if not len(rows):
                return None
            cut = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            glyphs.append(cv2.resize(cut, (_BOX, _BOX), interpolation=cv2.INTER_AREA))
    except (OSError, ValueError, TTLibError, AssertionError, KeyError, AttributeError):
        return None
    return np.stack(glyphs).astype(np.float32)


def _correlation(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """(N,) correlation of pixels of (N, h, w) pictures."""
    a, b = (x.reshape(len(x), -1) - x.mean((1, 2))[:, None] for x in (first, second))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / np.maximum(norms, 1e-6), np.float32)


def _unicase(glyphs: npt.NDArray[np.float32]) -> bool:
    # Letters whose two cases differ in shape in every font that has two.
    lower, upper = (
        glyphs[[_ALPHANUMERIC.index(c) for c in letters]]
        for letters in ("abdeghnqrt", "ABDEGHNQRT")
    )
    return bool(np.median(_correlation(lower, upper)) > _UNICASE)


def _names(path: Path) -> tuple[str, str]:
    try:
        table = TTFont(path, lazy=True)["name"]
        family = table.getDebugName(16) or table.getDebugName(1) or path.stem
        style = table.getDebugName(17) or table.getDebugName(2) or ""
    except (KeyError, TTLibError):
        family, style = path.stem, ""
    return " ".join(family.split()), " ".join(style.split())


def _origin(path: Path) -> tuple[str, str]:
    """Debian package of a file, and its licences by the package's copyright file."""
    found = subprocess.run(
        ["dpkg", "-S", re.sub(r"([\[\]*?])", r"\\\1", str(path.resolve()))],
        capture_output=True,
        text=True,
        check=False,
    )
    package = found.stdout.split(":")[0] if found.returncode == 0 else ""
    notice = Path("/usr/share/doc") / package / "copyright"
    if not package or not notice.is_file():
        return package, "unknown"
    names = re.findall(r"^License:[ \t]*(\S.*)$", notice.read_text(errors="replace"), re.M)
    return package, ", ".join(dict.fromkeys(" ".join(n.split()) for n in names)) or "see copyright"


def main() -> None:
    """Write the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--root", type=Path, default=Path("/usr/share/fonts"))
    parser.add_argument("--hold-back", type=Path, required=True, help="a family's name a line")
    options = parser.parse_args()
    held_back = [line.strip() for line in options.hold_back.read_text().splitlines()]
    entries = list(catalogue(options.root, [name for name in held_back if name]))
    with options.out.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(
            lines, [f.name for f in fields(FontEntry)], delimiter="\t", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in entries)
    counts = {
        split: sum(e.split == split for e in entries)
        for split in ("train", "held-out", "benchmark")
    }
    print(f"{len(entries)} fonts: {counts}")


if __name__ == "__main__":
    main()
