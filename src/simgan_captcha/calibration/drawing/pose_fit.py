"""Poses of characters with known glyphs, by damped least squares.

Shapes: N images, B of them that still gain, L characters, K classes, G side of a glyph.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from simgan_captcha.calibration.drawing.characters import (
    FORM_WEIGHT,
    form_prior,
    glyph_radius,
    reaches,
)
from simgan_captcha.calibration.drawing.linear import (
    Scene,
    linearise,
    missed_by,
    with_gradients,
)
from simgan_captcha.calibration.drawing.misfits import INKED, ink_of
from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.pose import PLACED
from simgan_captcha.types import FloatImages, Floats, Ids

POSE_UNIT = (1.0, 1.0, 4.0, 0.08, 0.08, 0.08, 0.3, 0.3, 0.4)
"""Step of each value of `POSE` that moves the rim of a letter by about one pixel."""

_COARSE, _BLUR = 0.25, 0.06
"""Share of the steps with blurred images, and sigma of the blur in image heights."""
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
    sharp = _Glyphs.of(glyphs)
    blurred = _Glyphs.of(np.stack([_blurred(glyph, GLYPH_SCALE * sigma) for glyph in glyphs]))

    def fit(some: slice) -> PoseFit:
        images, poses = normalised[some], begin[some]
        if coarse:
            descent = _Descent(_blurred_images(images, sigma), ids[some], poses, blurred, moving)
            descent.descend(coarse)
            poses = descent.poses
        descent = _Descent(images, ids[some], poses, sharp, moving)
        descent.descend(steps - coarse)
        inked = (descent.visible * (descent.ink > INKED)).sum((1, 2))
        return PoseFit(descent.poses, descent.missed, inked)

    with ThreadPoolExecutor(threads := torch.get_num_threads()) as pool:
        parts = list(pool.map(fit, (slice(n, None, threads) for n in range(threads))))
    whole = PoseFit(np.empty(begin.shape, np.float32), *np.empty((2, len(ids)), np.float32))
    for n, part in enumerate(parts):
        whole.poses[n::threads], whole.missed[n::threads] = part.poses, part.missed
        whole.inked[n::threads] = part.inked
    return whole


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


class _Glyphs(NamedTuple):
    """Glyphs of K classes, for compiled drawings."""

    sloping: Floats
    """(K, G, G, 3), see `linear.with_gradients`."""
    radius: Tensor
    """(K,) see `characters.glyph_radius`."""

    @staticmethod
    def of(glyphs: Floats) -> "_Glyphs":
        radius = [glyph_radius(glyph[None]) for glyph in glyphs]
        return _Glyphs(with_gradients(glyphs), torch.tensor(radius))


class _Descent:
    """Damped least squares for the poses of N images.

    With the residuals r and their derivatives J by the pose of one character, in units of
    `POSE_UNIT`, a step is -(J'J + damping * diag(J'J))^-1 J'r. All characters of an image move
    together, if its error falls; otherwise its damping grows.
    """

    def __init__(
        self,
        normalised: FloatImages,
        ids: npt.NDArray[np.int64],
        begin: Floats,
        glyphs: _Glyphs,
        moving: int,
    ) -> None:
        self.moving, self.unit = moving, np.array(POSE_UNIT[:moving], np.float32)
        self.glyphs, self.ids = glyphs, ids
        self.poses = begin.astype(np.float32)
        self.ink, self.visible = (image.numpy() for image in ink_of(normalised))
        self.damping = np.full(len(ids), _DAMPING, np.float32)
        self.missed = self._missed(np.arange(len(ids)), self.poses)

    def descend(self, steps: int) -> None:
        """Take at most so many steps of each image."""
        active = np.arange(len(self.ids))
        for _ in range(steps):
            active = active[self.step(active)]

    def step(self, chosen: Ids) -> npt.NDArray[np.bool_]:
        """Take a step of images ``chosen`` (B,), and return a mask (B,) of those that may gain."""
        poses, unit, moving = self.poses[chosen], self.unit, self.moving
        loss = self.missed[chosen] + _form_prior(poses)
        gradient = np.empty((*poses.shape[:2], moving), np.float32)
        curvature = np.empty((*gradient.shape, moving), np.float32)
        linearise(gradient, curvature, self._scene(chosen, poses))
        # The prior counts as the residuals sqrt(weight) * form.
        weight = FORM_WEIGHT * (np.arange(moving) >= PLACED)
        gradient = (gradient + weight * poses[..., :moving]) * unit
        curvature = curvature * unit * unit[:, None] + np.diag(weight * np.square(unit))
        scale = np.diagonal(curvature, axis1=2, axis2=3)
        least = _LEAST * scale.max(-1, keepdims=True) + _LEAST  # for values without influence
        damped = (self.damping[chosen, None, None] * scale + least)[..., None] * np.eye(moving)
        change = np.linalg.solve(curvature + damped, gradient[..., None])[..., 0]
        nearer = poses.copy()
        nearer[..., :moving] -= change.clip(-_STRIDE, _STRIDE) * unit
        missed = self._missed(chosen, nearer)
        after = missed + _form_prior(nearer)
        better = after < loss
        self.poses[chosen[better]], self.missed[chosen[better]] = nearer[better], missed[better]
        factor = np.where(better, 1 / _TRUST, _DOUBT).astype(np.float32)
        self.damping[chosen] = np.maximum(self.damping[chosen] * factor, _LEAST)
        gained = loss - after > _GAIN * loss
        return np.asarray(np.where(better, gained, self.damping[chosen] < _STUCK))

    def _missed(self, chosen: Ids, poses: Floats) -> Floats:
        """The sum of squared errors (B,) of a drawing."""
        missed = np.empty(len(chosen), np.float32)
        missed_by(missed, self._scene(chosen, poses))
        return missed

    def _scene(self, chosen: Ids, poses: Floats) -> Scene:
        """Images ``chosen`` (B,), with their characters at poses (B, L, 9)."""
        ids, size = self.ids[chosen], (self.ink.shape[1], self.ink.shape[2])
        reach = reaches(self.glyphs.radius[ids], torch.from_numpy(poses), size).numpy()
        return Scene(self.ink[chosen], self.visible[chosen], self.glyphs.sloping, ids, poses, reach)


def _form_prior(poses: Floats) -> Floats:
    return form_prior(torch.from_numpy(poses)).numpy()
