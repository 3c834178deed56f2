"""Poses of characters with known glyphs, by damped least squares.

Shapes: N images, B of them at a time, L characters, K classes, G side of a glyph, M pixels of the
patch around a character.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simgan_captcha.calibration.drawing.characters import (
    FORM_WEIGHT,
    Patches,
    cover,
    form_prior,
    glyph_radius,
    patch_size,
    reach,
    slopes_at,
    with_gradients,
)
from simgan_captcha.calibration.drawing.misfits import INKED, ink_of
from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.pose import PLACED
from simgan_captcha.types import FloatImages, Floats

POSE_UNIT = (1.0, 1.0, 4.0, 0.08, 0.08, 0.08, 0.3, 0.3, 0.4)
"""Step of each value of `POSE` that moves the rim of a letter by about one pixel."""

_COARSE, _BLUR = 0.25, 0.06
"""Share of the steps with blurred images, and sigma of the blur in image heights."""
_BATCH = 64
_SLOPES = 1 << 22
"""Greatest number of derivatives that are computed together; more do not fit into the cache."""
_DAMPING, _TRUST, _DOUBT, _STUCK = 0.1, 3.0, 4.0, 30.0
"""First damping, its factors after a step that lowers the error and one that does not, and the
damping above which steps are too short."""
_STRIDE, _GAIN, _LEAST = 3.0, 1e-3, 1e-3
"""Longest step in these units, relative gain that is worth another step, and least damping."""


@dataclass(frozen=True)
class PoseFit:
    """The best drawings of N images."""

    poses: Floats
    """(N, L, 9), see `pose.POSE`."""
    missed: Floats
    """(N,) sum of squared errors."""
    inked: Floats
    """(N,) number of visible pixels with ink."""


def fit_poses(
    normalised: FloatImages,
    ids: npt.NDArray[np.int64],
    begin: Floats,
    glyphs: Floats,
    steps: int,
    *,
    moving: int = PLACED,
) -> PoseFit:
    """Fit poses to minimise the squared error of drawings, by damped least squares.

    Each step linearises the drawing around the pose of each character by itself, see `_Descent`
    (Levenberg 1944, Marquardt 1963). An image that no longer gains takes no further steps. The
    first steps compare blurred glyphs with blurred images, so a letter may begin some pixels off.

    Args:
        normalised: (N, 2, H, W) images, see `background.Background.normalise`.
        ids: (N, L) classes to draw; classes with empty glyphs leave no ink and do not move.
        begin: (N, L, 9) initial poses.
        glyphs: (K, G, G) coverage, 0 to 1.
        steps: Greatest number of steps of each image.
        moving: Number of leading values of `POSE` that are fitted; the others stay.
    """
    sigma, coarse = _BLUR * normalised.shape[2], int(_COARSE * steps)
    if coarse:
        blurred = np.stack([_blurred(glyph, GLYPH_SCALE * sigma) for glyph in glyphs])
        descent = _Descent(_blurred_images(normalised, sigma), ids, begin, blurred, moving)
        descent.descend(coarse)
        begin = descent.poses.numpy()
    descent = _Descent(normalised, ids, begin, glyphs, moving)
    descent.descend(steps - coarse)
    inked = (descent.visible * (descent.ink > INKED)).sum((1, 2))
    return PoseFit(descent.poses.numpy(), descent.missed.numpy(), inked.numpy())


def _blurred_images(normalised: FloatImages, sigma: float) -> FloatImages:
    """Images (N, 2, H, W) with blurred ink; hidden pixels take the ink around them."""
    found = normalised.copy()
    for image, (ink, hidden) in zip(found, normalised, strict=True):
        seen = (1 - hidden) / 2
        around = np.maximum(_blurred(seen, sigma), _LEAST)
        image[0] = _blurred((ink + 1) * seen, sigma) / around - 1
    return found


def _blurred(image: Floats, sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


class _Descent:
    """Damped least squares for the poses of N images.

    With the residuals r and their derivatives J by the pose of one character, in units of
    `POSE_UNIT`, a step is -(J'J + damping * diag(J'J))^-1 J'r. All characters of an image move
    together, if its error falls; otherwise its damping grows.
    """

    @torch.inference_mode()
    def __init__(
        self,
        normalised: FloatImages,
        ids: npt.NDArray[np.int64],
        begin: Floats,
        glyphs: Floats,
        moving: int,
    ) -> None:
        self.size, self.moving = (normalised.shape[2], normalised.shape[3]), moving
        self.glyphs, self.radius = torch.from_numpy(glyphs.astype(np.float32)), glyph_radius(glyphs)
        self.sloping = with_gradients(self.glyphs)
        self.unit = torch.tensor(POSE_UNIT)[:moving]
        self.ids, self.poses = torch.from_numpy(ids), torch.from_numpy(begin.astype(np.float32))
        self.ink, self.visible = ink_of(normalised)
        self.damping, self.missed = torch.full((2, len(ids)), _DAMPING)
        rows, columns = patch_size(reach(self.radius, self.poses, self.size), self.size)
        each = max(1, ids.shape[1] * len(POSE_UNIT) * rows * columns)
        self.together = max(1, min(_BATCH, _SLOPES // each))
        for chosen in torch.arange(len(ids)).split(self.together):
            self.missed[chosen] = self._missed(chosen, self.poses[chosen])

    def descend(self, steps: int) -> None:
        """Take at most so many steps of each image."""
        active = torch.arange(len(self.ids))
        for _ in range(steps if len(active) else 0):
            active = torch.cat([batch[self.step(batch)] for batch in active.split(self.together)])

    @torch.inference_mode()
    def step(self, chosen: Tensor) -> Tensor:
        """Take a step of images ``chosen`` (B,), and return a mask (B,) of those that may gain."""
        poses, unit = self.poses[chosen], self.unit
        loss = self.missed[chosen] + form_prior(poses)
        residuals, slopes = self._linear(chosen, poses)
        # The prior counts as the residuals sqrt(weight) * form.
        prior = math.sqrt(FORM_WEIGHT) * unit * (torch.arange(self.moving) >= PLACED)
        gradient = (slopes @ residuals[..., None]).squeeze(3)
        gradient += prior * math.sqrt(FORM_WEIGHT) * poses[..., : self.moving]
        curvature = slopes @ slopes.transpose(2, 3) + torch.diag(prior.square())
        scale = curvature.diagonal(dim1=2, dim2=3)
        least = _LEAST * scale.amax(-1, keepdim=True) + _LEAST  # for values without influence
        damped = torch.diag_embed(self.damping[chosen, None, None] * scale + least)
        change = -torch.linalg.solve(curvature + damped, gradient).clamp(-_STRIDE, _STRIDE)
        nearer = poses.clone()
        nearer[..., : self.moving] += change * unit
        missed = self._missed(chosen, nearer)
        after = missed + form_prior(nearer)
        better = after < loss
        self.poses[chosen] = nearer.where(better[:, None, None], poses)
        self.missed[chosen] = missed.where(better, self.missed[chosen])
        factor = torch.where(better, 1 / _TRUST, _DOUBT)
        self.damping[chosen] = (self.damping[chosen] * factor).clamp(min=_LEAST)
        gained = loss - after > _GAIN * loss
        return torch.where(better, gained, self.damping[chosen] < _STUCK)

    def _linear(self, chosen: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals (B, L, M) of each patch, and derivatives (B, L, moving, M)."""
        patches = Patches.around(poses, reach(self.radius, poses, self.size), self.size)

        def cut(images: Tensor) -> Tensor:
            flat = images.flatten(1)[:, None].expand(-1, poses.shape[1], -1)
            return flat.gather(2, patches.places)

        at = (patches.right, patches.down, self.size[0])
        drawn, slopes = slopes_at(self.sloping, self.ids[chosen], poses, *at)
        coverage = drawn.flatten(2)
        uncovered = patches.uncovered(coverage, self.size)
        # d(1 - (1 - a)(1 - b)...) / da = (1 - b)...
        by_others = cut(uncovered) / (1 - coverage).clamp(min=_LEAST)
        seen = cut(self.visible[chosen]).sqrt()
        residuals = (1 - cut(uncovered) - cut(self.ink[chosen])) * seen
        slopes = slopes[:, :, : self.moving].flatten(3) * (by_others * seen)[:, :, None]
        return residuals, slopes * self.unit[:, None]

    def _missed(self, chosen: Tensor, poses: Tensor) -> Tensor:
        """The sum of squared errors (B,) of a drawing."""
        covered = cover(self.glyphs, self.ids[chosen], poses, self.size, self.radius)
        return ((covered - self.ink[chosen]).square() * self.visible[chosen]).sum((1, 2))
