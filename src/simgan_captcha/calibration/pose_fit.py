"""Where letters of known shapes lie: poses moved down the gradient of what drawings miss.

Shapes: N images, B of them at a time, L characters, K classes, G side of a glyph.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.pose import PLACED
from simgan_captcha.types import FloatImages, Floats

_BATCH = 64
_REACH = 0.3  # of the image's height: as far as a character hides its neighbours
_INKED = 0.1
_FORM_WEIGHT = 2.0
_SUPERFLUOUS = 0.2
"""Of the squared ink that a character draws: one that spares less than this explains nothing..."""
_COVERED = 0.3
"""...and stands where others do, if they cover this share of what it covers."""
_OUTSIDE = 2.0  # of a glyph, whose pixels lie between -1 and 1
_RATE = 0.4  # pixels a step at first
POSE_UNIT = (1.0, 1.0, 4.0, 0.08, 0.08, 0.08, 0.3, 0.3, 0.4)
"""Of each of `POSE`: about as far as a step of one pixel goes, at the rim of a letter."""


def draw_characters(glyphs: Tensor, ids: Tensor, pose: Tensor, height: int, width: int) -> Tensor:
    """Each character's coverage of the image, differentiable in glyphs and poses.

    Args:
        glyphs: (K, G, G) coverage, 0 to 1.
        ids: (B, L) int64.
        pose: (B, L, 9), see `pose.POSE`.
        height: H.
        width: W.

    Returns:
        (B, L, H, W).
    """
    B, L = ids.shape
    turn = torch.deg2rad(pose[..., 2])[..., None, None]
    right = torch.arange(width) + 0.5 - pose[..., 0, None, None]  # (B, L, 1, W)
    down = (torch.arange(height) + 0.5).view(-1, 1) - pose[..., 1, None, None]  # (B, L, H, 1)
    cosine, sine = torch.cos(turn), torch.sin(turn)
    size, stretch, shear, taper, swell, bend = pose[..., PLACED:, None, None].unbind(2)
    # Straightened, turned back, then out of its form, see `Simulator.render`.
    diagonal = right * down / height
    straight = down - bend * right.square() / height
    across = cosine * right - sine * straight - taper * diagonal
    along = sine * right + cosine * straight - swell * diagonal
    unit = 2 * GLYPH_SCALE / glyphs.shape[-1] * torch.exp(-size)
    grid = torch.stack([(across - shear * along) * torch.exp(-stretch), along], -1)
    # Beyond the line where perspective folds over, a map would show the glyph again, mirrored.
    unfolded = swell * (cosine * right + sine * down) + taper * (cosine * down - sine * right)
    grid = (grid * unit[..., None]).where((unfolded < height)[..., None], _OUTSIDE)
    drawn = nn.functional.grid_sample(
        glyphs.index_select(0, ids.flatten()).unsqueeze(1), grid.flatten(0, 1), align_corners=False
    )
    return drawn.view(B, L, height, width)


def form_prior(pose: Tensor) -> Tensor:
    """What forms of poses (B, L, 9) weigh beside the squared ink that drawings miss.

    Hardly anything: it keeps glyphs as large as most of their characters, and forms of what cannot
    be seen as they are.
    """
    return _FORM_WEIGHT * pose[..., PLACED:].square().sum()


def near_characters(pose: Tensor, height: int, width: int) -> Tensor:
    """(B, L, H, W) bool: pixels within reach of each character, poses (B, L, 9)."""
    right = torch.arange(width) + 0.5 - pose[..., 0, None, None]
    down = (torch.arange(height) + 0.5).view(-1, 1) - pose[..., 1, None, None]
    return right.square() + down.square() < (_REACH * height) ** 2


def mean_near(missed: Tensor, looked_at: Tensor, near: Tensor) -> Tensor:
    """(B, L) mean of (B, H, W) over the pixels near each character that are looked at."""
    total = (missed.unsqueeze(1) * near).sum((2, 3))
    return total / (looked_at.unsqueeze(1) * near).sum((2, 3)).clamp(min=1)


@torch.inference_mode()
def character_misfits(
    normalised: FloatImages, ids: npt.NDArray[np.int64], poses: Floats, glyphs: Floats
) -> Floats:
    """(N, L): the mean squared ink that a drawing misses near each character.

    Args:
        normalised: (N, 2, H, W) images, see `background.Background.normalise`.
        ids: (N, L) what is drawn.
        poses: (N, L, 9) where, see `pose.POSE`.
        glyphs: (K, G, G) coverage, 0 to 1.
    """
    misfits = np.zeros(ids.shape, np.float32)
    for chosen, drawn, ink, visible in _drawn_batches(normalised, ids, poses, glyphs):
        missed = (1 - (1 - drawn).prod(1) - ink).square() * visible
        near = near_characters(torch.from_numpy(poses[chosen]), *ink.shape[1:])
        misfits[chosen] = mean_near(missed, visible, near).numpy()
    return misfits


@torch.inference_mode()
def superfluous_characters(
    normalised: FloatImages,
    ids: npt.NDArray[np.int64],
    present: npt.NDArray[np.bool_],
    poses: Floats,
    glyphs: Floats,
) -> npt.NDArray[np.bool_]:
    """(N, L): characters that stand on others and explain no ink that those leave unexplained.

    A scout that reads a text too long sees one letter twice; both seem to lie where they should.

    Args:
        normalised: (N, 2, H, W) images, see `background.Background.normalise`.
        ids: (N, L) what is drawn.
        present: (N, L) where a character stands.
        poses: (N, L, 9) where, see `pose.POSE`.
        glyphs: (K, G, G) coverage, 0 to 1.
    """
    superfluous = np.zeros(ids.shape, np.bool_)
    for chosen, letters, ink, visible in _drawn_batches(normalised, ids, poses, glyphs):
        drawn = letters * torch.from_numpy(present[chosen])[..., None, None]
        uncovered = 1 - drawn
        all_of_them = 1 - uncovered.prod(1)
        # Pale letters would leave ink unexplained wherever they overlap: it is counted in theirs,
        # as they are where there is any.
        seen = all_of_them * visible * (ink > _INKED)
        pale = (seen * ink).sum((1, 2)).clamp(min=1)
        ink = ink * ((seen * all_of_them).sum((1, 2)) / pale)[:, None, None]
        missed = ((all_of_them - ink).square() * visible).sum((1, 2))
        for slot in range(ids.shape[1]):
            own = drawn[:, slot] * visible
            without = 1 - torch.cat([uncovered[:, :slot], uncovered[:, slot + 1 :]], 1).prod(1)
            spared = ((without - ink).square() * visible).sum((1, 2)) - missed
            idle = spared < _SUPERFLUOUS * own.square().sum((1, 2))
            covered = (own * without).sum((1, 2)) > _COVERED * own.sum((1, 2))
            superfluous[chosen, slot] = (idle & covered).numpy()
    return superfluous


def _drawn_batches(
    normalised: FloatImages, ids: npt.NDArray[np.int64], poses: Floats, glyphs: Floats
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Which images, their characters (B, L, H, W), ink and visibility (B, H, W)."""
    shapes, size = torch.from_numpy(glyphs), normalised.shape[2:]
    for at in range(0, len(ids), _BATCH):
        chosen = slice(at, at + _BATCH)
        of_ids, pose = torch.from_numpy(ids[chosen]), torch.from_numpy(poses[chosen])
        yield chosen, draw_characters(shapes, of_ids, pose, *size), *_ink(normalised[chosen])


def _ink(normalised: FloatImages) -> tuple[Tensor, Tensor]:
    """Ink and visibility, (B, H, W) each, 0 to 1, of images (B, 2, H, W)."""
    images = torch.from_numpy(normalised)
    return (images[:, 0] + 1) / 2, (1 - images[:, 1]) / 2


@dataclass(frozen=True)
class PoseFit:
    """The best drawings found of N images."""

    poses: Floats
    """(N, L, 9), see `pose.POSE`."""
    missed: Floats
    """(N,) squared ink that they miss."""
    inked: Floats
    """(N,) visible pixels with ink, which is where drawings can err."""


def fit_poses(
    normalised: FloatImages,
    ids: npt.NDArray[np.int64],
    begin: Floats,
    glyphs: Floats,
    steps: int,
    *,
    moving: int = PLACED,
) -> PoseFit:
    """Poses with which drawings miss least, from where they begin.

    Args:
        normalised: (N, 2, H, W) images, see `background.Background.normalise`.
        ids: (N, L) what is drawn; a class whose glyph is empty leaves no ink, and its places stay.
        begin: (N, L, 9) poses.
        glyphs: (K, G, G) coverage, 0 to 1.
        steps: Of each image.
        moving: How many of `POSE` do, from the first on; the others stay as they begin.
    """
    shapes, unit = torch.from_numpy(glyphs.astype(np.float32)), torch.tensor(POSE_UNIT)
    fitted = begin.astype(np.float32)
    missed_ink, inked = np.zeros((2, len(ids)), np.float32)
    for at in range(0, len(ids), _BATCH):
        chosen = slice(at, at + _BATCH)
        ink, visible = _ink(normalised[chosen])
        classes = torch.from_numpy(ids[chosen])
        poses = (torch.from_numpy(fitted[chosen]) / unit).requires_grad_(True)
        optimizer = torch.optim.Adam([poses], _RATE)

        def missed(
            poses: Tensor = poses,
            classes: Tensor = classes,
            ink: Tensor = ink,
            visible: Tensor = visible,
        ) -> Tensor:
            drawn = draw_characters(shapes, classes, poses * unit, *ink.shape[1:])
            covered = 1 - (1 - drawn).prod(1)
            return ((covered - ink).square() * visible).sum((1, 2))

        for step in range(steps):
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            optimizer.zero_grad()
            (missed().sum() + form_prior(poses * unit)).backward()
            assert poses.grad is not None  # what was just computed
            poses.grad[..., moving:] = 0
            optimizer.step()
        with torch.no_grad():
            fitted[chosen], missed_ink[chosen] = (poses * unit).numpy(), missed().numpy()
            inked[chosen] = (visible * (ink > _INKED)).sum((1, 2)).numpy()
    return PoseFit(fitted, missed_ink, inked)
