"""The generalist's training on a few tiny pools: it goes on to the bit, and its loss falls."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from simgan_captcha.generalist.network import load_generalist
from simgan_captcha.generalist.pretraining.export import export_generalist
from simgan_captcha.generalist.pretraining.train import (
    PretrainingSettings,
    difficulty,
    learning_rate,
    pretrain,
    timed_learning_rate,
)
from simgan_captcha.simulator.glyphs import font_path
from simgan_captcha.simulator.wide.catalogue import FontEntry

SETTINGS = PretrainingSettings(
    batch_size=8, families=4, images=4, warm_up=2, cycles=(8,), easy=8, held_out_families=1
)  # 2 steps for the first pool, then 4, because each pool is used again with the next one


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = ["\t".join(f.name for f in dataclasses.fields(FontEntry))]
    for name, split in (("roboto-black", "train"), ("source-serif", "held-out")):
        lines.append(f"{font_path(name)}\t{name}\t{name}\t\tOFL\t{split}\tFalse")
    file = tmp_path_factory.mktemp("fonts") / "fonts.tsv"
    file.write_text("\n".join([*lines, ""]))
    return file


def test_a_stopped_training_goes_on_to_the_bit(tmp_path: Path, catalogue: Path) -> None:
    torch.set_num_threads(1)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    pretrain(whole, SETTINGS, steps=8, bf16=False, every=4, catalogue=catalogue)
    for steps in (4, 8):
        pretrain(halves, SETTINGS, steps=steps, bf16=False, every=4, catalogue=catalogue)
    assert (whole / "state.safetensors").read_bytes() == (halves / "state.safetensors").read_bytes()
    log = [json.loads(line) for line in (halves / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [6, 10]
    assert log[1]["text"] < log[0]["text"]
    assert log[1]["tflop"] > log[0]["tflop"] > 0
    difference = export_generalist(halves / "best.safetensors", tmp_path / "files")
    assert difference < 0.02
    sizes = [
        (tmp_path / "files" / f"generalist.{e}").stat().st_size for e in ("onnx", "safetensors")
    ]
    assert sum(sizes) < 5_000_000
    network, description = load_generalist(tmp_path / "files" / "generalist.safetensors")
    assert description["settings"]["seed"] == SETTINGS.seed
    assert not network.training


def test_a_timed_training_ends_in_one_cycle(tmp_path: Path, catalogue: Path) -> None:
    torch.set_num_threads(1)
    settings = dataclasses.replace(SETTINGS, uses=3)
    pretrain(tmp_path, settings, steps=1_000, seconds=0.5, bf16=False, catalogue=catalogue)
    [line] = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert 2 <= line["step"] < 1_000
    rates = [timed_learning_rate(settings, 10, share) for share in (0, 0.5, 1, 1.2)]
    assert rates[0] == settings.learning_rate
    assert rates[1] == pytest.approx(0.51 * settings.learning_rate)
    assert rates[2] == rates[3] == pytest.approx(0.02 * settings.learning_rate)
    assert timed_learning_rate(settings, 0, 0) == rates[0] / settings.warm_up


def test_rates_fall_within_a_cycle_and_rise_at_the_next() -> None:
    s = PretrainingSettings(cycles=(100, 200), warm_up=10)
    rates = np.array([learning_rate(s, step) for step in range(700)])
    assert rates.max() <= s.learning_rate
    assert rates[0] < rates[10] > rates[99]
    assert rates[100] > 10 * rates[99]  # the second cycle, of 200 steps
    assert rates[300] > 10 * rates[299]  # the third, of 400
    assert (np.diff(rates[100:300]) < 0).all()


def test_families_get_difficult() -> None:
    s = PretrainingSettings(easy=100)
    assert [round(difficulty(s, step), 2) for step in (0, 50, 100, 1000)] == [0.2, 0.6, 1.0, 1.0]
