"""Follow docs/guide.md command by command, with shorter training."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from simgan_captcha.evaluation.audit.page import PAGE
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.run_folder import JUDGEMENT, READINGS
from simgan_captcha.report.report import REPORT
from simgan_captcha.scheme import load_scheme
from simgan_captcha.simulator.glyphs import open_font
from tests.commands import command
from tests.small_run import ASSIGNMENTS, PRETRAINED

GUIDE = Path(__file__).parents[1] / "docs" / "guide.md"
TRAINING = (
    "simgan.", "recognizer.", "adaptation.", "label_check_steps", "specialization.",
    "distillation.", "precision", "threads", "workers",
)  # fmt: skip
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def commands() -> list[list[str]]:
    """The commands of the guide in their order, without "simgan-captcha"."""
    blocks = re.findall(r"^```\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    assert all(line[0] == "simgan-captcha" for line in words)
    return [line[1:] for line in words]


def write_captchas(folder: Path, count: int) -> None:
    folder.mkdir()
    font, labels = open_font("dejavu-sans", 26, ALPHABET), ["name,label"]
    for number in range(count):
        random = np.random.default_rng(number)
        text = "".join(random.choice(list(ALPHABET), random.integers(4, 7)))
        image = Image.new("RGB", (150, 50), tuple(map(int, random.integers(200, 256, 3))))
        draw = ImageDraw.Draw(image)
        ink = tuple(map(int, random.integers(0, 120, 3)))
        for slot, character in enumerate(text):
            draw.text((8 + 22 * slot, 8 + int(random.integers(-3, 4))), character, ink, font)
        image.save(folder / f"{number}.png")
        labels.append(f"{number}.png,{text}")
    Path("labels.csv").write_text("\n".join(labels))


def test_the_guide_followed_to_the_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_captchas(Path("captchas"), 120)
    settings = (*ASSIGNMENTS, *PRETRAINED)
    small = [f"--set={setting}" for setting in settings if setting.startswith(TRAINING)]
    followed = []
    for words in commands():
        more = {
            # After so little training, too few readings are confident enough for calibration.
            "run": [*small, "--set=calibrate=false", "--quiet"],
            "audit": ["--images", "20", "--steps", "2", "--quiet"],
        }.get(words[0], [])
        done = command(*words, *more)
        assert done.code == 0, (words, done.err)
        followed.append(words[0])
    assert followed == ["init", "run", "judge", "export", "read", "read", "read", "audit"]
    written = load_scheme(Path("my.toml"))
    assert (written.alphabet, written.min_length, written.max_length) == (ALPHABET, 4, 6)
    assert len(load_readings(Path("RUN") / READINGS)) == 120
    for made in (REPORT, JUDGEMENT, PAGE):
        assert (Path("RUN") / made).is_file()
