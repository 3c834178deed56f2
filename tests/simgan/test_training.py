import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from simgan_captcha.errors import RunError, ShapeError, UsageError
from simgan_captcha.simgan import (
    DiscriminatorSettings,
    RefinerSettings,
    SimGANSettings,
    count_training_flops,
    load_refiner,
    sheet_png,
)
from simgan_captcha.simgan.alarms import WINDOW
from simgan_captcha.training.checkpoint import load_weights

from . import training_case
from .training_case import SETTINGS, edge_maps, make_real, squares, train


def changed(**settings: object) -> SimGANSettings:
    return SimGANSettings.model_validate(SETTINGS.model_dump() | settings)


def test_refined_images_move_towards_real_ones(tmp_path: Path) -> None:
    settings = changed(
        refiner=RefinerSettings(features=8, blocks=1),
        steps=150,
        refiner_learning_rate=3e-3,
        discriminator_learning_rate=2e-3,
        regularization=0.1,
        ema_decay=0.95,
        checkpoint_every=1000,
    )
    refiner = train(tmp_path, settings).refiner
    clean, wanted = squares(3, 0), make_real(squares(4, 0))
    with torch.no_grad():
        refined = refiner(clean)

    def sharpness(images: Tensor) -> float:
        return images.diff(dim=3).abs().amax(dim=(1, 2, 3)).mean().item()

    # An untrained refiner is the identity: clean -> clean.
    for statistic in (lambda images: images.mean().item(), sharpness):
        before = abs(statistic(clean) - statistic(wanted))
        after = abs(statistic(refined) - statistic(wanted))
        assert after < 0.6 * before, (statistic(clean), statistic(refined), statistic(wanted))


def test_regularisation_holds_the_refiner_back(tmp_path: Path) -> None:
    changes = []
    for weight in (0.0, 100.0):
        settings = changed(steps=40, refiner_learning_rate=3e-3, regularization=weight)
        result = train(tmp_path / str(weight), settings)
        changes.append(result.figures["change"])
    assert changes[1] < 0.3 * changes[0]


def test_consistency_guards_what_a_recognizer_reads(tmp_path: Path) -> None:
    """Real images are blurred; what a recognizer of edges reads must stay."""

    def edges(images: Tensor) -> Tensor:
        return images.diff(dim=3).square().mean((1, 2, 3))

    def recognizer(images: Tensor) -> Tensor:
        return torch.stack([edges(images) * 100, torch.full((len(images),), 20.0)], -1)

    clean, softened = squares(3, 0), {}
    for weight in (0.0, 10.0):
        settings = changed(
            refiner=RefinerSettings(features=8, blocks=1),
            steps=100,
            refiner_learning_rate=3e-3,
            discriminator_learning_rate=2e-3,
            regularization=0.1,
            ema_decay=0.95,
            consistency=weight,
        )
        result = train(tmp_path / str(weight), settings, recognizer=recognizer)
        with torch.no_grad():
            softened[weight] = float((edges(clean) - edges(result.refiner(clean))).abs().mean())
    assert softened[10.0] < 0.5 * softened[0.0], softened


def test_consistency_needs_a_recognizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a recognizer"):
        train(tmp_path, changed(consistency=1.0))
    with pytest.raises(UsageError, match="expected a network of features"):
        train(tmp_path, changed(features=1.0))
    assert not list(tmp_path.iterdir())


def test_what_a_training_leaves(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    seen: list[dict[str, float]] = []

    def on_step(step: int, total: int, figures: dict[str, float]) -> None:
        steps.append((step, total))
        seen.append(figures)

    def agreement(synthetic: Tensor, refined: Tensor) -> float:
        assert synthetic.shape == refined.shape == (8, 1, 16, 16)
        return 0.75

    warnings: list[str] = []
    result = train(tmp_path, label_agreement=agreement, on_step=on_step, warn=warnings.append)

    assert steps == [(n, 35) for n in range(1, 36)]
    assert all(figures["images_per_second"] > 0 for figures in seen)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 36))
    assert rows[0].keys() == {"step", "change"}
    assert rows[2].keys() == {"step", "discriminator_loss", "discriminator_accuracy"}
    assert {k: v for k, v in rows[-1].items() if k != "step"} == result.figures
    assert [r["step"] for r in rows if "label_agreement" in r] == [10, 20, 30, 35]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1

    assert sorted(p.name for p in tmp_path.glob("sheet-*")) == [
        f"sheet-{step:06d}.png" for step in (10, 20, 30, 35)
    ]
    # One image a batch: 2 + 3 pre-training steps, 30 steps of K_g = 2 and K_d = 1, and real ones.
    assert result.images == 8 * (2 + 3 * 2 + 30 * (2 + 2))
    assert result.flops == count_training_flops(SETTINGS, 16, 16) > 0
    assert len(result.alarms) == len(warnings) == 1  # once, though measured four times
    assert "refining destroys the labels" in result.alarms[0]
    assert "75.0%" in warnings[0]

    loaded, clean = load_refiner(tmp_path / "refiner.safetensors"), squares(3, 0)
    assert not result.refiner.training
    assert torch.equal(loaded(clean), result.refiner(clean))
    assert not torch.equal(loaded(clean), clean)


def test_history_holds_refined_images_of_long_ago(tmp_path: Path) -> None:
    def numbered(first: int) -> Iterator[Tensor]:
        while True:
            yield torch.full((8, 1, 16, 16), first / 1000)
            first += 1

    # The refiner stays the identity, so an image still shows which batch it was refined from.
    train(tmp_path, changed(refiner_learning_rate=1e-9), synthetic=numbered)
    tensors, _ = load_weights(tmp_path / "checkpoint.safetensors")
    history = tensors["tensor/history/images"]
    assert history.shape == (24, 1, 16, 16)
    batches = (history.mean(dim=(1, 2, 3)) * 1000).round().int().tolist()
    assert batches.count(94) == 4  # half of the very last batch
    # A queue of 24 would hold the last six discriminator steps, three synthetic batches each.
    assert min(batches) < 94 - 6 * 3


def test_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", training_case.__name__, str(killed)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 18:  # four steps after a checkpoint
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "refiner.safetensors").exists()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first_steps: list[int] = []
        resumed = train(killed, on_step=lambda step, total, figures: first_steps.append(step))
        uninterrupted = train(whole)
    finally:
        torch.set_num_threads(threads)
    assert 8 <= first_steps[0] <= 29
    assert resumed.images == uninterrupted.images
    for name in ("refiner.safetensors", "checkpoint.safetensors", "metrics.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


MODERN = changed(
    refiner=RefinerSettings(features=4, blocks=1, noise=True, displacement=2.0, downscale=2),
    discriminator=DiscriminatorSettings(widths=(8, 8, 8, 8), scales=2, spectral_norm=True),
    adversarial="hinge",
    r1=0.1,
    augmentations=("brightness", "translation", "cutout"),
    contrastive=0.5,
    features=2.0,
    steps=9,
)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_with_all_that_came_after_the_paper_it_resumes_to_the_bit(
    tmp_path: Path, precision: str
) -> None:
    def stop(step: int, total: int, figures: dict[str, float]) -> None:
        if step == 12:  # the checkpoint is at 7
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", MODERN, precision=precision, on_step=stop, features=edge_maps)
    train(tmp_path / "stopped", MODERN, precision=precision, features=edge_maps)
    result = train(tmp_path / "whole", MODERN, precision=precision, features=edge_maps)
    for name in ("refiner.safetensors", "metrics.jsonl", "checkpoint.safetensors"):
        stopped, whole = tmp_path / "stopped" / name, tmp_path / "whole" / name
        assert stopped.read_bytes() == whole.read_bytes(), name
    assert result.figures.keys() >= {"contrast", "displacement", "roughness", "gradient_penalty"}
    assert result.figures.keys() >= {"feature_loss", "feature_discriminator_loss"}
    plain = count_training_flops(changed(steps=9), 16, 16)
    assert result.flops == count_training_flops(MODERN, 16, 16) > 1.5 * plain


def test_killed_before_the_first_checkpoint_begins_again(tmp_path: Path) -> None:
    def stop(step: int, total: int, figures: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", on_step=stop)
    train(tmp_path / "stopped")
    train(tmp_path / "whole")
    for name in ("refiner.safetensors", "metrics.jsonl"):
        stopped, whole = tmp_path / "stopped" / name, tmp_path / "whole" / name
        assert stopped.read_bytes() == whole.read_bytes(), name


def test_finished_training_only_gives_its_result(tmp_path: Path) -> None:
    first = train(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_bytes()
    again = train(tmp_path, on_step=lambda step, total, figures: pytest.fail("trained again"))
    assert (again.figures, again.images, again.flops) == (first.figures, first.images, first.flops)
    assert torch.equal(again.refiner(squares(3, 0)), first.refiner(squares(3, 0)))
    assert (tmp_path / "metrics.jsonl").read_bytes() == lines


def test_checkpoint_of_other_settings_or_seed_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(RunError, match="delete it to start again"):
        train(tmp_path, changed(regularization=2.0))
    with pytest.raises(RunError, match="delete it to start again"):
        train(tmp_path, seed=2)


def test_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    train(tmp_path / "b")
    train(tmp_path / "c", seed=2)
    a, b, c = ((tmp_path / n / "refiner.safetensors").read_bytes() for n in "abc")
    assert a == b
    assert a != c


def test_bfloat16_trains(tmp_path: Path) -> None:
    result = train(tmp_path, precision="bf16-mixed")
    assert result.figures["change"] > 0
    assert next(result.refiner.parameters()).dtype == torch.float32


def test_paper_refiner_learns_the_identity_first(tmp_path: Path) -> None:
    settings = changed(
        refiner=RefinerSettings(features=8, blocks=1, global_skip=False),
        pretrain_refiner_steps=150,
        refiner_learning_rate=3e-3,
        steps=1,
    )
    train(tmp_path, settings)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[149]["change"] < 0.3 * rows[0]["change"]


def test_alarm_of_a_refiner_that_may_not_change_anything(tmp_path: Path) -> None:
    warnings: list[str] = []
    settings = changed(steps=WINDOW + 5, refiner_learning_rate=1e-9)
    result = train(tmp_path, settings, warn=warnings.append)
    assert len(warnings) == 1
    assert f"step {5 + WINDOW}: the refiner has become the identity" in warnings[0]
    assert result.alarms[0] in warnings[0]


def stream_of(images: Tensor) -> Iterator[Tensor]:
    while True:
        yield images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(7, 1, 16, 16), r"expected real batches of \(8, 1, 'H', 'W'\)"),
        (torch.zeros(8, 3, 16, 16), "change batch_size or channels"),
        (torch.zeros(8, 16, 16), "expected real batches"),
        (torch.zeros(8, 1, 16, 20), "images of one size"),
        (torch.full((8, 1, 16, 16), 1.01), r"in \[-1, 1\].*to 1\.01"),
        (torch.full((8, 1, 16, 16), float("nan")), r"in \[-1, 1\]"),
        (torch.zeros(8, 1, 16, 16, dtype=torch.uint8), r"torch\.uint8"),
    ],
)
def test_unfit_batches_are_refused(tmp_path: Path, images: Tensor, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        train(tmp_path, real=lambda first: stream_of(images))


def test_diverged_training_stops_at_its_last_good_checkpoint(tmp_path: Path) -> None:
    settings = changed(regularization=1e39, checkpoint_every=1)  # more than a float32 holds
    with pytest.raises(RunError, match="training diverged"):
        train(tmp_path, settings)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["refiner_loss"] is None
    saved = load_weights(tmp_path / "checkpoint.safetensors")[1]["numbers"]["step"]
    assert saved == json.loads(rows[-1])["step"] - 1


def test_sheet_shows_the_four_columns(tmp_path: Path) -> None:
    black, grey, white = (torch.full((3, 1, 4, 6), level) for level in (-1.0, 0.0, 1.0))
    (tmp_path / "sheet.png").write_bytes(sheet_png(black, white, grey))
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (3 * 6 - 2, 4 * 8 - 2)
    assert pixels[0, [0, 8, 16, 24]].tolist() == [0, 255, 255, 128]


@pytest.mark.parametrize("shape", [(8, 3, 224, 224), (32, 1, 50, 100), (1, 1, 2000, 2000)])
def test_sheet_is_small(tmp_path: Path, shape: tuple[int, ...]) -> None:
    noise = torch.rand(shape) * 2 - 1
    assert 1000 < len(sheet_png(noise, -noise, noise)) < 200_000
