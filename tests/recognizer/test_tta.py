import numpy as np
import torch
from torch import Tensor, nn

from simgan_captcha.recognizer.augment import AUGMENTATION, Augmentation
from simgan_captcha.recognizer.decode import BATCH, read_probabilities
from simgan_captcha.recognizer.network import RecognizerArchitecture, build_recognizer
from simgan_captcha.recognizer.tta import MOVES, VIEWS, read_views
from tests.drawing import plain

ARCHITECTURE = RecognizerArchitecture(24, 48, 2, 4, channels=(4, 4, 4, 4, 8))
IMAGES = np.random.default_rng(5).integers(0, 256, (BATCH + 3, 24, 48), dtype=np.uint8)


class Counted(nn.Module):
    """A recognizer that records its input images."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = build_recognizer(ARCHITECTURE)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        logits: Tensor = self.reader(images)
        return logits


def test_unsure_images_are_averaged_over_views_and_others_stay() -> None:
    reader, ground = Counted().eval(), plain(48, 24)
    probabilities = read_probabilities(reader, ground, IMAGES)
    probabilities[::2] = (0.97, 0.01, 0.01, 0.01)
    reader.seen.clear()
    before = probabilities.copy()
    viewed, again = read_views(reader, ground, IMAGES, probabilities, seed=1)
    np.testing.assert_array_equal(probabilities, before)
    np.testing.assert_array_equal(viewed[::2], before[::2])
    assert again == len(IMAGES) // 2
    assert sum(map(len, reader.seen)) == VIEWS * again
    np.testing.assert_allclose(viewed.sum(-1), 1, rtol=1e-5)
    # The mean over the original image and all views.
    with torch.no_grad():
        views = torch.cat(reader.seen).view(VIEWS, again, *reader.seen[0].shape[1:])
        read = torch.stack([reader.reader(images).softmax(-1) for images in views])
    expected = (read.sum(0).numpy() + before[1::2]) / (VIEWS + 1)
    np.testing.assert_allclose(viewed[1::2], expected, rtol=1e-4)
    # All views differ.
    original = torch.from_numpy(ground.normalise(IMAGES[1::2]))
    distances = [float((view - original).abs().mean()) for view in views]
    assert min(distances) > 0.01
    assert len(set(distances)) == VIEWS


def test_views_are_moved_less_than_images_in_training() -> None:
    assert (MOVES.noise, MOVES.hole) == (0, 0)
    for name in ("rotation", "scale", "shear", "shift"):
        assert 0 < getattr(MOVES, name) < getattr(AUGMENTATION, name)


def test_a_view_without_moves_is_the_image() -> None:
    reader, ground = build_recognizer(ARCHITECTURE).eval(), plain(48, 24)
    probabilities = read_probabilities(reader, ground, IMAGES)
    still = Augmentation(rotation=0, scale=0, shear=0, shift=0, noise=0, hole=0)
    viewed, again = read_views(reader, ground, IMAGES, probabilities, seed=1, moves=still)
    assert again == len(IMAGES)
    np.testing.assert_allclose(viewed, probabilities, atol=1e-3)


def test_the_seed_determines_the_views() -> None:
    reader, ground = build_recognizer(ARCHITECTURE).eval(), plain(48, 24)
    probabilities = read_probabilities(reader, ground, IMAGES)
    one, again, other = (
        read_views(reader, ground, IMAGES, probabilities, seed=seed)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_without_unsure_images_nothing_is_read() -> None:
    sure = np.tile(np.array([1, 0, 0, 0], np.float32), (3, 2, 1))
    reader = Counted().eval()
    viewed, again = read_views(reader, plain(48, 24), IMAGES[:3], sure, seed=1)
    assert again == 0
    assert not reader.seen
    np.testing.assert_array_equal(viewed, sure)
