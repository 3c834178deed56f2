"""`simgan.train` on images of every kind that it takes."""

import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from simgan_captcha import simgan
from simgan_captcha.errors import RunError, ShapeError, UsageError
from simgan_captcha.simgan.batches import Images, to_image, to_stream

SMALL = simgan.SimGANSettings(
    refiner=simgan.RefinerSettings(features=4, blocks=1),
    discriminator=simgan.DiscriminatorSettings(widths=(4, 4, 4, 4)),
    batch_size=4,
    steps=4,
    pretrain_discriminator_steps=1,
    history_capacity=8,
    checkpoint_every=2,
)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def train(synthetic: Images, real: Images, **options: Any) -> simgan.Refiner:
    return simgan.train(synthetic, real, SMALL, device="cpu", **options)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_channels_are_refined_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.chdir(tmp_path)
    steps: list[int] = []
    refiner = train(
        noise(10, channels, 12, 16),
        noise(10, channels, 12, 16, seed=2) * 0.5,
        progress=lambda step, total, figures: steps.append(step),
    )
    assert steps == [1, 2, 3, 4, 5]
    assert not list(tmp_path.iterdir())
    assert refiner.settings.channels == channels
    assert not refiner.training
    images = noise(2, channels, 20, 31)
    refined = refiner(images)
    assert refined.shape == images.shape
    assert not torch.equal(refined, images)


def test_a_folder_keeps_a_training_that_was_stopped(tmp_path: Path) -> None:
    def stop(step: int, total: int, figures: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    images = noise(10, 3, 12, 16), noise(10, 3, 12, 16, seed=2)
    with pytest.raises(KeyboardInterrupt):
        train(*images, folder=tmp_path / "a", progress=stop)
    resumed = train(*images, folder=tmp_path / "a")
    whole = train(*images, folder=tmp_path / "b")
    assert torch.equal(resumed(images[0]), whole(images[0]))
    names = {path.name.split(".")[0] for path in (tmp_path / "a").iterdir()}
    assert names == {"refiner", "checkpoint", "metrics", "events", "sheet-000005"}
    loaded = simgan.load_refiner(tmp_path / "a" / "refiner.safetensors")
    assert torch.equal(loaded(images[0]), whole(images[0]))
    with pytest.raises(RunError, match="delete it to start again"):
        train(*images, folder=tmp_path / "a", seed=2)


def test_the_seed_decides_and_the_callers_random_state_stays() -> None:
    images = noise(10, 1, 8, 8), noise(10, 1, 8, 8, seed=2)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, other = train(*images), train(*images)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one(images[0]), other(images[0]))
    assert not torch.equal(one(images[0]), train(*images, seed=2)(images[0]))


def as_batches(images: Tensor) -> Iterator[Tensor]:
    return itertools.cycle(images.split(3))


def one_by_one(images: Tensor) -> Iterator[Tensor]:
    return itertools.cycle(images)


def as_pillow(images: Tensor) -> list[tuple[Image.Image, int]]:
    levels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [(Image.fromarray(image), 7) for image in levels]


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: x,
        lambda x: x.numpy(),
        lambda x: ((x + 1) * 127.5).round().byte(),
        lambda x: ((x + 1) * 127.5).round().byte().numpy(),
        lambda x: x.double(),
        list,
        lambda x: TensorDataset(x, torch.arange(len(x))),
        lambda x: DataLoader(TensorDataset(x), batch_size=3),
        as_pillow,
        one_by_one,
        as_batches,
        lambda x: lambda first: itertools.repeat(x[:4]),
    ],
)
def test_every_kind_of_images_becomes_batches(kind: Callable[[Tensor], Images]) -> None:
    images = noise(10, 3, 6, 8)
    stream = to_stream(kind(images), 4, 1)
    for _ in range(2):  # the first batch can always be had again
        batch = next(stream(0))
        assert batch.shape == (4, 3, 6, 8)
        assert batch.dtype == torch.float32
        apart = (batch[:, None] - images).abs().amax((2, 3, 4))  # from each image
        assert apart.min(1).values.max() < 0.005
        assert len(set(apart.argmin(1).tolist())) == 4


def test_datasets_are_shuffled_whole_and_opened_anywhere() -> None:
    stream = to_stream(torch.arange(6).view(6, 1, 1, 1) / 10, 4, seed=1)
    taken = list(itertools.islice(stream(0), 6))
    numbers = (torch.cat(taken).flatten() * 10).round().int().view(4, 6).tolist()
    assert [sorted(epoch) for epoch in numbers] == [list(range(6))] * 4
    assert len({tuple(epoch) for epoch in numbers}) > 1
    for first in (1, 2, 5):
        assert torch.equal(next(stream(first)), taken[first])
    other = to_stream(torch.arange(6).view(6, 1, 1, 1) / 10, 4, seed=2)
    assert not torch.equal(next(other(0)), taken[0])


def test_iterables_are_taken_in_order_and_begun_again() -> None:
    numbered = torch.arange(6).view(6, 1, 1, 1) / 10
    loader = DataLoader(TensorDataset(numbered), batch_size=5)
    stream = to_stream(loader, 4, 1)
    second = (next(stream(1)) * 10).round().int().flatten().tolist()
    assert second == [4, 5, 0, 1]
    generator = to_stream(one_by_one(numbered), 4, 1)
    assert torch.equal(next(generator(0)), numbered[:4])
    batches = generator(0)
    assert torch.equal(next(batches), numbered[:4])
    assert torch.equal(next(batches), torch.cat([numbered[4:], numbered[:2]]))
    resumed = to_stream(one_by_one(numbered), 4, 1)
    next(resumed(0))  # for the picture
    assert torch.equal(next(resumed(1)), torch.cat([numbered[4:], numbered[:2]]))


def test_levels_are_scaled_by_their_kind() -> None:
    assert to_image(np.array([[0, 255]], np.uint8)).tolist() == [[[-1.0, 1.0]]]
    assert to_image(Image.new("RGB", (4, 2), (255, 0, 255))).shape == (3, 2, 4)
    with pytest.raises(ShapeError, match=r"torch\.int64"):
        to_image(np.array([[0, 255]]))
    with pytest.raises(ShapeError, match=r"expected images of \(H, W\)"):
        to_image(np.zeros(4, np.uint8))


@pytest.mark.parametrize(
    ("real", "error", "message"),
    [
        ([], UsageError, "at least one image"),
        (iter(list(noise(2, 1, 8, 8))), UsageError, "without end"),
        (5, UsageError, "got <class 'int'>"),
        ([noise(1, 8, 8), noise(1, 8, 9)], ShapeError, "images of one size"),
        (noise(5, 3, 8, 8), ShapeError, "expected real batches"),
        (noise(5, 1, 8, 8) * 255, ShapeError, "scale them"),
    ],
)
def test_what_cannot_be_is_said(real: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(noise(5, 1, 8, 8), real)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "expected the device"),
        ("cpu:3", "expected the device"),
        ("cuda:first", "expected the device"),
        ("cuda:99", "expected a device that is there, got 'cuda:99'"),
    ],
)
def test_no_such_device(device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        simgan.train(noise(5, 1, 8, 8), noise(5, 1, 8, 8), SMALL, device=device)


def test_alarms_are_warnings() -> None:
    still = SMALL.model_copy(update={"steps": 101, "refiner_learning_rate": 1e-9})
    images = noise(5, 1, 8, 8), noise(5, 1, 8, 8, seed=2)
    with pytest.warns(RuntimeWarning, match="has become the identity"):
        simgan.train(*images, still, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(*images)


def test_settings_are_had_without_torch() -> None:
    code = (
        "import sys; from simgan_captcha.simgan import SimGANSettings; "
        "import simgan_captcha.simgan.settings; assert 'torch' not in sys.modules; "
        "from simgan_captcha import simgan; [getattr(simgan, name) for name in simgan.__all__]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no_such_thing"):
        simgan.no_such_thing  # noqa: B018
