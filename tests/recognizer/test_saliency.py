import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from simgan_captcha.recognizer.saliency import saliency


class LooksAt(nn.Module):
    """A recognizer in which the odds of slot k are a multiple of the ink of spot k."""

    def __init__(self, spots: list[tuple[int, int]], scale: float = 1.0) -> None:
        super().__init__()
        self.spots, self.scale = spots, scale

    def forward(self, images: Tensor) -> Tensor:
        ink = torch.stack([images[:, 0, y, x] for y, x in self.spots], 1)
        return self.scale * torch.stack([ink, -ink], -1)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_maps_show_the_ink_that_matters(scale: float) -> None:
    """This also holds if the probability is so near 1 that it has no gradient."""
    spots = [(5, 8), (20, 30)]
    maps = saliency(LooksAt(spots, scale), np.ones((3, 2, 30, 40), np.float32))
    assert maps.shape == (3, 2, 30, 40)
    assert maps.dtype == np.float32
    for slot, spot in enumerate(spots):
        for image in range(3):
            heat = maps[image, slot]
            assert np.unravel_index(heat.argmax(), heat.shape) == spot
            assert heat.max() == pytest.approx(1)
            assert heat.min() >= 0
            assert heat.sum() < 20  # a spot, smoothed


def test_a_reading_that_depends_on_nothing_has_an_empty_map() -> None:
    maps = saliency(LooksAt([(0, 0)], 0.0), np.zeros((1, 2, 10, 10), np.float32))
    assert (maps == 0).all()


def test_other_images_of_the_batch_change_nothing() -> None:
    images = np.random.default_rng(3).uniform(-1, 1, (4, 2, 24, 48)).astype(np.float32)
    for kind in ("attention", "original"):
        size = {"height": 48, "width": 48} if kind == "original" else {"height": 24, "width": 48}
        given = np.tile(images, (1, 1, 2, 1)) if kind == "original" else images
        torch.manual_seed(1)
        reader = build_recognizer(
            RecognizerArchitecture(**size, length=3, classes=5, kind=kind)  # type: ignore[arg-type]
        ).eval()
        maps = saliency(reader, given)
        np.testing.assert_allclose(maps[2:3], saliency(reader, given[2:3]), atol=1e-4)
