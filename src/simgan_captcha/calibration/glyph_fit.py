"""Analysis by synthesis: fit glyphs and poses to unlabelled images by gradient descent.

The bootstrap recognizer predicts roughly which letters are where. Each image is drawn again from
its letters, with one glyph per class and one pose per letter. Gradient descent on the squared error
of the drawing fits both. The result is the font of the real captchas. It is finer than their
pixels, because each glyph is seen in hundreds of poses. Poses are exact to a fraction of a pixel.
The error of each character shows how well its reading explains the image.

Shapes: N images, B of them in a batch, L characters, K classes, G rows and columns of a glyph.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simgan_captcha.calibration.calibrate import FORMS_ALIKE, spread_of
from simgan_captcha.calibration.drawing.characters import cover, form_prior
from simgan_captcha.calibration.drawing.misfits import Near, superfluous_characters
from simgan_captcha.calibration.drawing.pose_fit import POSE_UNIT, fit_poses
from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.types import FloatImages, Floats

SURE = 0.9
"""Least probability of a confident character, from which glyphs are learned."""

LIKELY = 0.5
"""Least probability in classes with few confident characters; the most confident are used."""

FEWEST_EXAMPLES = 20
"""Least number of characters of a class for a glyph. Under-predicted classes, with less than a
third of the median, get none either, because they may be misread. See `lost_shapes`."""

_EXAMPLES = 100
"""Number of characters in the mean that starts a glyph, and wanted in each class."""

_BATCH = 64
_POSE_RATE, _GLYPH_RATE = 0.5, 0.05
_BLURS = (4.0, 0.7)  # sigma of glyphs in glyph pixels, from coarse to fine
_KNOWN_BLUR = 2.0  # first sigma if glyphs are known
_DROPPED = 0.15  # share of characters dropped half way
_STARVED = 0.3  # share of the median class
_SETTLING = 12  # greatest number of final steps for the poses of all characters
_BODY = 0.3  # share of the greatest coverage of a glyph, above haze
_EDGE = GLYPH_SCALE  # glyph pixels around the body of a letter that are its edge: one image pixel
_FORMED = 100  # images that decide whether forms differ
_STRAY = (
    0.12,
    25.0,
)  # image heights and degrees between prediction and fit, above which a pose is wrong


@dataclass(frozen=True)
class GlyphFit:
    """Glyphs and poses that explain N images best."""

    glyphs: Floats
    """(K, G, G) coverage, 0 to 1, around the pose, `GLYPH_SCALE` pixels per image pixel."""
    poses: Poses
    """Fitted poses of all N images."""
    kept: npt.NDArray[np.bool_]
    """(N, L) mask of inliers: confident, and not among the characters with the largest error."""
    settled: npt.NDArray[np.bool_]
    """(N,) mask of converged images: all letters are near their predictions. It has at least half
    of the images, except impossible texts and images with a letter seen twice."""
    misfit: Floats
    """(N, L) mean squared error around each character; NaN for unsure characters."""


def glyph_side(height: int) -> int:
    """G for a given image height; the canvas of a glyph is four fifths as high."""
    return int(0.8 * height) // 2 * 2 * GLYPH_SCALE


def mean_glyphs(normalised: FloatImages, poses: Poses) -> Floats:
    """Mean images (K, G, G) of the most confident characters of each class.

    Args:
        normalised: (N, 2, H, W) real images, see `background.Background.normalise`.
        poses: Predictions of the bootstrap recognizer for these images.
    """
    sure, ids = sure_characters(poses.probabilities) & poses.present, poses.ids
    examples = [
        np.argwhere(sure & (ids == k))[: 3 * _EXAMPLES] for k in range(poses.probabilities.shape[2])
    ]
    return np.stack([mean_glyph(normalised, poses.places, of_class) for of_class in examples])


def mean_glyph(normalised: FloatImages, poses: Floats, characters: npt.NDArray[np.int64]) -> Floats:
    """Mean image (G, G) of characters (M, 2), image and slot, at poses (N, L, 9)."""
    side = glyph_side(normalised.shape[2])
    total, weight = np.zeros((2, side, side), np.float32)
    for n, slot in characters:
        ink, hidden = normalised[n]
        matrix = _to_image(poses[n, slot], side)
        seen = _cut((1 - hidden) / 2, matrix, side)
        total += _cut((ink + 1) / 2, matrix, side) * seen
        weight += seen
    return np.asarray(total / (weight + 1e-3), np.float32)


def sure_characters(probabilities: Floats) -> npt.NDArray[np.bool_]:
    """Mask (N, L) of confident characters, or the most confident ones of a rare class."""
    confidence, ids = probabilities.max(-1), probabilities.argmax(-1)
    sure = confidence > SURE
    for k in range(probabilities.shape[-1]):
        of_class = np.where(ids == k, confidence, 0).ravel()
        surest = np.argsort(-of_class, kind="stable")[:_EXAMPLES]
        sure.ravel()[surest[of_class[surest] > LIKELY]] = True
    return np.asarray(sure)


def _to_image(pose: Floats, side: int) -> npt.NDArray[np.float64]:
    """The affine map from glyph pixels to image pixels at a pose (9,), for OpenCV."""
    # Perspective and bend are left out, because the mean only starts the fit.
    x, y, rotation, size, stretch, shear = pose[: POSE.index("taper")].astype(np.float64)
    turn = np.deg2rad(rotation)
    form = np.array([[np.exp(stretch), shear], [0, 1]]) * np.exp(size) / GLYPH_SCALE
    linear = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ form
    place = np.array([x, y])
    # OpenCV coordinates start at the centre of the first pixel, poses at its corner.
    return np.column_stack([linear, place - 0.5 - linear @ np.full(2, side / 2 - 0.5)])


def _cut(channel: FloatImages, matrix: npt.NDArray[np.float64], side: int) -> Floats:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(channel, matrix, (side, side), flags=flags), np.float32)


def fit_glyphs(
    normalised: FloatImages,
    poses: Poses,
    seed: int,
    *,
    glyphs: Floats | None = None,
    begin: Floats | None = None,
    moving: int = PLACED,
    epochs: int = 20,
    on_epoch: Callable[[int, int, float], None] = lambda done, epochs, misfit: None,
) -> GlyphFit:
    """Fit the glyphs of all classes and the poses of all characters to the images.

    Overlapping letters with coverages a, b, ... cover 1 - (1 - a)(1 - b)... The error ignores
    pixels under lines and near unsure characters. Half way, the characters with the largest error
    count as misread and become unsure.

    Args:
        normalised: (N, 2, H, W) real images, see `background.Background.normalise`.
        poses: Predictions of the bootstrap recognizer; their likeliest classes are drawn.
        seed: Random seed of the order of images.
        glyphs: (K, G, G) initial glyphs; by default the mean images at the poses.
        begin: (N, L, 9) initial poses, by default the predictions. Convergence is measured from
            the predictions in both cases.
        moving: Number of leading values of `pose.POSE` that are fitted: places only, or forms
            too, see `forms_differ`.
        epochs: Passes over the images.
        on_epoch: Called after each pass with the mean error of its images.
    """
    begun = poses.places if begin is None else begin
    first = mean_glyphs(normalised, poses) if glyphs is None else glyphs
    descent = _Descent(normalised, poses, first, begun, moving)
    coarse = _BLURS[0] if glyphs is None else _KNOWN_BLUR
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs if descent.sure.any() else 0):
        if epoch == epochs // 2:
            descent.drop_misread()
        left = 1 - epoch / epochs
        blur = max(_BLURS[1], coarse * (1 - 2 * epoch / epochs))
        descent.pass_over_images(left, blur, generator)
        on_epoch(epoch + 1, epochs, descent.misfit[descent.sure].mean().item())
    return _settled(normalised, poses, descent, begun, moving)


class _Descent:
    """Gradient descent on the glyphs of all classes and the poses of all characters.

    Attributes:
        sure: (N, L) mask of characters from which glyphs are learned.
        misfit: (N, L) mean squared error around each of them; NaN for others.
    """

    def __init__(
        self, normalised: FloatImages, poses: Poses, glyphs: Floats, begun: Floats, moving: int
    ) -> None:
        self.size = normalised.shape[2], normalised.shape[3]
        self.ids, self.present = torch.from_numpy(poses.ids), torch.from_numpy(poses.present)
        N, L = self.ids.shape
        self.ink = torch.from_numpy((normalised[:, 0] + 1) / 2)
        self.visible = torch.from_numpy((1 - normalised[:, 1]) / 2)
        unit, P = torch.tensor(POSE_UNIT), len(POSE)
        self.moved = unit * (torch.arange(P) < moving)
        units = (torch.from_numpy(begun) / unit).flatten(1)
        self.pose = nn.Embedding(N, L * P, sparse=True, _weight=units)
        self.shape = nn.Parameter(torch.from_numpy(glyphs.copy()))
        self.of_pose = torch.optim.SparseAdam(list(self.pose.parameters()), _POSE_RATE)
        self.of_shape = torch.optim.Adam([self.shape], _GLYPH_RATE)
        self.sure = torch.from_numpy(sure_characters(poses.probabilities)) & self.present
        self.misfit = torch.full((N, L), torch.nan)

    def drop_misread(self) -> None:
        """Count the characters with the largest error as misread."""
        self.sure &= self.misfit <= self.misfit[self.sure].quantile(1 - _DROPPED)

    def pass_over_images(self, left: float, blur: float, generator: torch.Generator) -> None:
        """Take a step for each batch of the images that have a sure character.

        Args:
            left: Share of the passes that are left; learning rates fall with it.
            blur: Sigma of the glyphs in glyph pixels.
            generator: Draws the order of the images.
        """
        for optimizer, rate in ((self.of_pose, _POSE_RATE), (self.of_shape, _GLYPH_RATE)):
            optimizer.param_groups[0]["lr"] = rate * left
        window = _gaussian(blur, len(self.shape[0]))
        images = torch.from_numpy(np.flatnonzero(self.sure.any(1).numpy()))
        for batch in images[torch.randperm(len(images), generator=generator)].split(_BATCH):
            self._step(batch, window)

    def _step(self, batch: Tensor, window: Tensor) -> None:
        shape, L = self.shape, self.ids.shape[1]
        at = self.pose(batch).view(-1, L, len(POSE)) * self.moved
        counts = self.sure[batch]
        glyphs = _blurred(shape.clamp(0, 1), window)
        radius = shape.shape[1] / 2 / GLYPH_SCALE
        covered = cover(glyphs, self.ids[batch], at, self.size, radius, counts)
        near = Near.of(at.detach(), self.size)
        unsure = self.present[batch] & ~counts
        looked_at = self.visible[batch] * ~near.of_any(unsure, self.size)
        missed = (covered - self.ink[batch]).square() * looked_at
        misfit = near.mean(missed.detach(), looked_at)
        self.misfit[batch] = misfit.where(counts, torch.nan)
        # Where the clamp has no gradient, this term leads back to [0, 1].
        outside = (shape - shape.detach().clamp(0, 1)).square().sum()
        for optimizer in (self.of_pose, self.of_shape):
            optimizer.zero_grad()
        ((missed.sum() + form_prior(at).sum()) / L + outside).backward()
        self.of_pose.step()
        self.of_shape.step()

    def places(self) -> Floats:
        """Poses (N, L, 9) so far."""
        of_all = self.pose.weight.detach().view(*self.ids.shape, len(POSE))
        return np.asarray((of_all * self.moved).numpy())

    def glyphs(self) -> Floats:
        """Glyphs (K, G, G) so far, with none of classes with few characters."""
        read = np.bincount(self.ids[self.sure].numpy(), minlength=len(self.shape))
        window = _gaussian(_BLURS[1], len(self.shape[0]))
        fine = without_haze(_blurred(self.shape.detach().clamp(0, 1), window).numpy())
        return fine * found_classes(read)[:, None, None].astype(np.float32)


def _settled(
    normalised: FloatImages, poses: Poses, descent: _Descent, begun: Floats, moving: int
) -> GlyphFit:
    """The result of a descent, after a fit of the poses of all characters to its glyphs."""
    H = normalised.shape[2]
    sure, found = descent.sure.numpy(), descent.glyphs()
    fitted = np.where(sure[..., None], descent.places(), begun)
    settled = fit_poses(normalised, poses.ids, fitted, found, _SETTLING, moving=moving).poses
    limits = np.array([_STRAY[0] * H, _STRAY[0] * H, _STRAY[1]], np.float32)
    strayed = (np.abs(settled - poses.places)[..., :PLACED] / limits).max((1, 2))
    seen_twice = superfluous_characters(normalised, poses.ids, poses.present, settled, found).any(1)
    return GlyphFit(
        found,
        poses.at(settled),
        sure,
        # An untrained recognizer predicts all poses roughly; the better half is kept then.
        (strayed <= max(1.0, float(np.median(strayed)))) & poses.possible & ~seen_twice,
        descent.misfit.numpy(),
    )


def renamed_glyphs(glyphs: Floats, names: Mapping[int, int]) -> Floats:
    """Move glyphs (K, G, G) to other classes, unless these have one; the old classes have none."""
    renamed = glyphs.copy()
    renamed[list(names)] = 0
    for k, name in names.items():
        if not renamed[name].any():
            renamed[name] = glyphs[k]
    return renamed


def forms_differ(normalised: FloatImages, fit: GlyphFit, moving: int) -> bool:
    """Whether characters differ in size, width, slant or perspective, so one glyph does not fit.

    Forms are fitted to some images. If all characters have the same form, the fit changes little.

    Args:
        normalised: (N, 2, H, W) real images.
        fit: Fit of these images without forms.
        moving: Number of leading values of `pose.POSE` that may vary.
    """
    images = np.flatnonzero(fit.kept.any(1))[:_FORMED]
    kept, poses = fit.kept[images], fit.poses
    if not kept.any():
        return False
    ids, places = poses.ids[images], poses.places[images]
    steps = 2 * _SETTLING
    found = fit_poses(normalised[images], ids, places, fit.glyphs, steps, moving=moving).poses[kept]
    return bool((spread_of(found)[PLACED:] > FORMS_ALIKE).any())


def _gaussian(sigma: float, side: int) -> Tensor:
    """A matrix (G, G) that blurs along one axis; rows sum to 1, except at the edges."""
    apart = torch.arange(side) - torch.arange(side)[:, None]
    weights = torch.exp(-0.5 * (apart / sigma).square())
    return weights / weights.sum(1).max()


def without_haze(glyphs: Floats) -> Floats:
    """Glyphs (K, G, G) without coverage outside the body of the letter and its edge.

    Clutter and neighbours leave a faint average around a glyph, which would be drawn around each
    letter. The threshold is relative to the greatest coverage, because new glyphs are pale.
    """
    body = (glyphs > _BODY * glyphs.max((1, 2), keepdims=True)).astype(np.uint8)
    window = np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8)
    return np.stack([g * cv2.dilate(b, window) for g, b in zip(glyphs, body, strict=True)])


def _blurred(glyphs: Tensor, window: Tensor) -> Tensor:
    """Glyphs (K, G, G), blurred along both axes."""
    return window @ glyphs @ window.T


def found_classes(read: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Mask (K,) of classes with enough characters (K,) for a glyph."""
    return np.asarray(read >= enough_examples(read))


def enough_examples(read: npt.NDArray[np.int64]) -> float:
    """Least number of characters for a glyph, given the numbers (K,) of all classes."""
    return max(FEWEST_EXAMPLES, _STARVED * float(np.median(read)))
