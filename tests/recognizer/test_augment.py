import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from simgan_captcha.recognizer.augment import AUGMENTATION, Augmentation, augment

NOTHING = Augmentation(rotation=0, scale=0, shear=0, shift=0, noise=0, hole=0)


def only(**settings: float) -> Augmentation:
    return replace(NOTHING, **settings)


def random_images(count: int = 8, height: int = 20, width: int = 40, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 2, height, width, generator=draws) * 2 - 1
    images[:, 1] = images[:, 1].sign()
    return images


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bar(count: int, height: int = 50, width: int = 100) -> Tensor:
    """A horizontal bar through the middle, 4 pixels high, without lines."""
    images = -torch.ones(count, 2, height, width)
    images[:, 0, height // 2 - 2 : height // 2 + 2, width // 4 : -width // 4] = 1
    return images


def weight(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ink of one channel (H, W) above background, and the coordinates of the pixel centres."""
    H, W = image.shape
    return image + 1, torch.arange(H).view(-1, 1) + 0.5, torch.arange(W).view(1, -1) + 0.5


def middle(image: Tensor) -> tuple[float, float]:
    """Centre of mass, (x, y) in pixels."""
    ink, y, x = weight(image)
    return float((ink * x).sum() / ink.sum()), float((ink * y).sum() / ink.sum())


def tilt(image: Tensor) -> float:
    """Angle of the principal axis to the horizontal, in degrees, in [-90, 90]."""
    ink, y, x = weight(image)
    cx, cy = middle(image)
    xx, yy = (ink * (x - cx) ** 2).sum(), (ink * (y - cy) ** 2).sum()
    xy = (ink * (x - cx) * (y - cy)).sum()
    return math.degrees(0.5 * math.atan2(2 * float(xy), float(xx - yy)))


@pytest.mark.parametrize(("height", "width"), [(20, 40), (50, 100), (40, 20), (31, 47)])
def test_limits_of_zero_change_nothing(height: int, width: int) -> None:
    images = random_images(height=height, width=width)
    kept = images.clone()
    torch.testing.assert_close(augment(images, NOTHING, generator()), images, rtol=0, atol=3e-5)
    assert torch.equal(images, kept)  # not in place


@given(
    seed=st.integers(0, 2**32),
    limits=st.builds(
        Augmentation,
        rotation=st.floats(0, 45),
        scale=st.floats(0, 0.99),
        shear=st.floats(0, 0.99),
        shift=st.floats(0, 0.99),
        noise=st.floats(0, 10),
        hole=st.floats(0, 1),
    ),
)
def test_any_limits_give_reproducible_images_in_range(seed: int, limits: Augmentation) -> None:
    images = random_images(4)
    moved = augment(images, limits, generator(seed))
    assert moved.shape == images.shape
    assert moved.dtype == torch.float32
    assert moved.min() >= -1
    assert moved.max() <= 1
    assert torch.equal(moved, augment(images, limits, generator(seed)))


def test_every_image_draws_its_own_values() -> None:
    same = random_images(1).expand(8, -1, -1, -1)
    moved = augment(same, AUGMENTATION, generator())
    assert all(not torch.equal(moved[0], other) for other in moved[1:])
    assert not torch.equal(moved, augment(same, AUGMENTATION, generator(2)))


def test_the_global_random_state_is_unchanged() -> None:
    before = torch.get_rng_state()
    augment(random_images(), AUGMENTATION, generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("limit", [5.0, 20.0, 45.0])
def test_rotation_is_in_degrees_for_any_aspect_ratio(limit: float) -> None:
    moved = augment(bar(200), only(rotation=limit), generator())
    tilts = [tilt(image[0]) for image in moved]
    assert max(map(abs, tilts)) <= limit * 1.02 + 0.1
    assert max(tilts) > 0.9 * limit
    assert min(tilts) < -0.9 * limit
    # A rotation, not a shear: the ends of the bar have the same distance from the middle.
    centre = torch.tensor([24.5, 49.5])
    reach = [float(((i[0] > 0).nonzero() - centre).norm(dim=1).max()) for i in moved]
    if limit < 45:  # beyond, the bar leaves the image
        assert min(reach) > 23.5
    assert max(reach) < 26
    torch.testing.assert_close(
        (moved[:, 0] + 1).sum((1, 2)), (bar(200)[:, 0] + 1).sum((1, 2)), rtol=0.05, atol=0
    )


def test_shift_is_a_fraction_of_the_height_along_both_axes() -> None:
    moved = augment(bar(200), only(shift=0.1), generator())
    places = torch.tensor([middle(image[0]) for image in moved]) - torch.tensor(
        middle(bar(1)[0, 0])
    )
    assert places.abs().max() <= 0.1 * 50 + 0.1
    assert (places.max(dim=0).values > 4).all()
    assert (places.min(dim=0).values < -4).all()


def test_scale_is_bounded_and_each_axis_draws_its_own() -> None:
    images = -torch.ones(200, 2, 50, 100)
    images[:, 0, 15:35, 30:70] = 1
    moved = augment(images, only(scale=0.2), generator())
    high = (moved[:, 0, :, 50] > 0).sum(1) / 20
    wide = (moved[:, 0, 25] > 0).sum(1) / 40
    for factor in (high, wide):
        assert factor.min() >= 1 / 1.2 - 0.06
        assert factor.max() <= 1 / 0.8 + 0.06
        assert factor.std() > 0.05
    assert abs(torch.corrcoef(torch.stack([high, wide]))[0, 1]) < 0.3


def test_shear_leans_letters_and_keeps_rows() -> None:
    images = -torch.ones(200, 2, 50, 100)
    images[:, 0, 10:40, 48:52] = 1  # an upright bar
    moved = augment(images, only(shear=0.3), generator())
    leans = []
    for image in moved[:, 0] + 1:
        centres = (image * (torch.arange(100) + 0.5)).sum(1)[[12, 37]] / image.sum(1)[[12, 37]]
        leans.append(float(centres[1] - centres[0]) / 25)
    assert 0.25 < max(leans) < 0.32
    assert -0.32 < min(leans) < -0.25
    torch.testing.assert_close(
        (moved[:, 0] + 1).sum(2), (images[:, 0] + 1).sum(2), rtol=0.02, atol=0.1
    )


def test_outside_the_image_is_background_without_lines() -> None:
    images = torch.ones(16, 2, 20, 40)
    moved = augment(images, only(shift=0.9), generator())
    assert (moved == -1).any()
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert (moved[:, 0] == -1).float().mean() > 0.1


def test_ink_and_mask_move_together() -> None:
    images = random_images()
    images[:, 1] = images[:, 0]
    moved = augment(images, only(rotation=20, scale=0.2, shear=0.2, shift=0.2), generator())
    assert torch.equal(moved[:, 0], moved[:, 1])


def test_noise_changes_only_ink_up_to_its_strength() -> None:
    images = torch.zeros(300, 2, 20, 40)
    moved = augment(images, only(noise=0.2), generator())
    torch.testing.assert_close(moved[:, 1], images[:, 1], rtol=0, atol=1e-5)
    strengths = moved[:, 0].std((1, 2))
    assert strengths.max() < 0.22
    assert strengths.min() < 0.02
    assert strengths.median() == pytest.approx(0.1, abs=0.02)


def test_a_hole_looks_like_a_line() -> None:
    images = torch.zeros(400, 2, 50, 100)
    images[:, 1] = -1
    moved = augment(images, only(hole=0.2), generator())
    hidden = moved[:, 1] == 1
    torch.testing.assert_close(moved[:, 1][~hidden], images[:, 1][~hidden])
    assert (moved[:, 0][hidden] == -1).all()
    torch.testing.assert_close(
        moved[:, 0][~hidden], torch.zeros_like(moved[:, 0][~hidden]), rtol=0, atol=1e-5
    )
    with_hole = hidden.flatten(1).any(1)
    assert 0.3 < with_hole.float().mean() < 0.6
    for hole in hidden[with_hole]:
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert max(rows, columns) <= 0.2 * 50
        assert hole.sum() == rows * columns  # a rectangle
    assert max(int(h.any(1).sum()) for h in hidden) == 10


def test_the_largest_hole_may_be_as_high_as_the_image() -> None:
    moved = augment(random_images(200), only(hole=1.0), generator())
    assert moved.shape == (200, 2, 20, 40)
    assert (moved[:, 1] == 1).all(1).any()  # some column is hidden from top to bottom
