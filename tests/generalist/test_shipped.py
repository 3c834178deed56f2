"""The weights that the package ships, through the doors that a user has."""

import io
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import simgan_captcha as sc
from simgan_captcha.cli.scheme_file import scheme_text
from simgan_captcha.generalist.reader import GeneralistReader
from simgan_captcha.puzzle.artwork import Artist
from simgan_captcha.simulator.glyphs import font_path
from tests.commands import command

WEIGHTS = files("simgan_captcha") / "generalist" / "weights"
DIGITS = "0123456789"


def captcha(text: str, generator: np.random.Generator) -> Image.Image:
    """A plain captcha in a font that the generalist never learned from."""
    font = ImageFont.truetype(font_path("dejavu-serif-bold"), int(generator.integers(24, 34)))
    paper = tuple(int(x) for x in generator.integers(190, 256, 3))
    image = Image.new("RGB", (150, 56), paper)
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        ends = [(int(generator.integers(0, 150)), int(generator.integers(0, 56))) for _ in "ab"]
        draw.line(ends, fill=tuple(int(x) for x in generator.integers(60, 180, 3)))
    for place, character in enumerate(text):
        ink = tuple(int(x) for x in generator.integers(0, 110, 3))
        draw.text((14 + 31 * place, int(generator.integers(4, 16))), character, ink, font)
    return image


@pytest.fixture(scope="module")
def captchas(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    generator = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("captchas")
    texts = {}
    for number in range(80):
        text = "".join(generator.choice(list(DIGITS), size=4))
        file = folder / f"{number:02d}.png"
        captcha(text, generator).save(file)
        texts[file] = text
    return texts


def test_both_files_together_take_at_most_five_megabytes() -> None:
    sizes = [
        len((WEIGHTS / name).read_bytes()) for name in ("generalist.onnx", "generalist.safetensors")
    ]
    assert sum(sizes) <= 5_000_000


def test_captchas_in_an_unknown_font_are_read(captchas: dict[Path, str]) -> None:
    free = GeneralistReader(threads=1).read(list(captchas))
    known = GeneralistReader(DIGITS, 4, threads=1).read(list(captchas))
    assert np.mean([r.text == t for r, t in zip(free, captchas.values(), strict=True)]) > 0.8  # type: ignore[union-attr]
    assert np.mean([r.text == t for r, t in zip(known, captchas.values(), strict=True)]) > 0.9  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "reads",
    [
        "print(sc.read(sys.argv[2], alphabet='0123456789', length=4).text)",
        "cli.app(standalone_mode=False)",
    ],
    ids=["in Python", "by the command"],
)
def test_reading_loads_nothing_heavy(captchas: dict[Path, str], reads: str) -> None:
    file, text = next(iter(captchas.items()))
    code = (
        f"import sys, simgan_captcha as sc; from simgan_captcha import cli; {reads}\n"
        "assert not {'torch', 'pyarrow', 'matplotlib', 'fastapi', 'onnx'} & set(sys.modules)\n"
    )
    options = ["--alphabet", DIGITS, "--length", "4"]
    command = [sys.executable, "-c", code, "read", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert text in done.stdout


def test_the_command_reads_an_image_without_a_run(captchas: dict[Path, str]) -> None:
    file, text = next(iter(captchas.items()))
    done = command("read", file, "--alphabet", DIGITS, "--length", "4")
    assert text in done.out


def test_the_command_reports_a_missing_image_in_one_line(tmp_path: Path) -> None:
    done = command("read", tmp_path / "no.png")
    assert done.code == 1
    reason = f"expected an image at {tmp_path / 'no.png'}, found no file; correct the path"
    assert done.err.splitlines() == [f"{tmp_path / 'no.png'}: {reason}"]


def test_a_folder_is_described_as_a_person_would(captchas: dict[Path, str]) -> None:
    folder = next(iter(captchas)).parent
    seen = sc.inspect(folder)
    assert seen.scheme.length == 4
    assert set(seen.scheme.alphabet) == set(DIGITS)
    assert seen.survey is not None
    assert len(seen.texts) == len(seen.look.pictures)
    text = scheme_text(seen.look, seen.scheme, folder, "my.toml", remarks=seen.remarks)
    assert "# Found in 80 images by the generalist: digits" in text
    Image.open(io.BytesIO(seen.sheet)).verify()


def test_a_shared_picture_is_removed_before_the_first_look(tmp_path: Path) -> None:
    artist = Artist()
    for number in range(200):
        (tmp_path / f"{number}.jpg").write_bytes(artist.jpeg("somebody", str(number)))
    seen = sc.inspect(tmp_path)
    assert seen.scheme.background == "shared"
    # With lines and stripes, lengths of 2 to 4 are found.
    assert seen.scheme.length == 4
