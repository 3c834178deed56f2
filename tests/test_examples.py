"""The example runs at a small size."""

import importlib
import re
from pathlib import Path

import pytest

from simgan_captcha.simgan import RefinerSettings, load_refiner

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_digits_are_refined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("refine_digits")
    settings = example.SETTINGS.model_copy(
        update={
            "refiner": RefinerSettings(features=2, blocks=1),
            "steps": 2,
            "pretrain_discriminator_steps": 1,
        }
    )
    example.main(tmp_path, settings, steps=2)
    lines = capsys.readouterr().out.splitlines()
    said = re.compile(r"seed (\d+), trained on (printed|refined) digits: ([\d.]+)% of 1797")
    assert [said.match(line) is not None for line in lines] == [True] * 6
    assert load_refiner(tmp_path / "3" / "refiner.safetensors").settings.features == 2
    assert len((EXAMPLES / "refine_digits.py").read_text().splitlines()) <= 40
