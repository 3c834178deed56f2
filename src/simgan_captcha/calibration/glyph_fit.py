"""Analysis by synthesis: letters' shapes and places that explain unlabelled images, by gradient.

A scout says roughly which letters stand where. Here every image is drawn again as a sum of its
letters, one shape a class and one pose a letter, and both are moved down the gradient of what the
drawing misses. What comes out is a font of the real captchas, finer than their pixels (each shape
is seen at hundreds of places and turns), poses to a part of a pixel, and for every image how badly
its reading explains it.

Shapes: N images, B of them at a time, L characters, K classes, G rows and columns of a glyph.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from simgan_captcha.calibration.calibrate import FORMS_ALIKE, spread_of
from simgan_captcha.calibration.pose_fit import (
    POSE_UNIT,
    draw_characters,
    fit_poses,
    form_prior,
    mean_near,
    near_characters,
    superfluous_characters,
)
from simgan_captcha.calibration.poses import Poses
from simgan_captcha.simulator.calibrated import GLYPH_SCALE
from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.types import FloatImages, Floats

SURE = 0.9
"""A character is learned from where the scout's probability is above this."""

LIKELY = 0.5
"""Of a class with few sure characters, the surest are learned from down to this probability."""

FEWEST_EXAMPLES = 20
"""A class that is read less often gets no glyph; nor does a starved one, that is read
less than a third as often as the others: what is read as it may well be something else. See
`lost_shapes` for what becomes of it."""

_EXAMPLES = 100
"""Characters whose mean the first glyph of a class is, and that are looked for in each class."""

_BATCH = 64
_POSE_RATE, _GLYPH_RATE = 0.5, 0.05
_BLURS = (4.0, 0.7)  # of glyphs, sigma in their pixels: from coarse to fine
_KNOWN_BLUR = 2.0  # where to begin if glyphs are known
_DROPPED = 0.15  # of the characters, half way
_STARVED = 0.3  # of the median class
_SETTLING = 20  # steps that the poses of all characters settle in, at the end
_BODY = 0.3  # of a glyph's most coverage: more than haze has
_EDGE = GLYPH_SCALE  # pixels about a letter's body, one of an image, that are its edge
_FORMED = 300  # images that are asked whether characters have forms of their own
_STRAY = (
    0.12,
    25.0,
)  # of the image's height, and degrees: further from where it was seen is astray


@dataclass(frozen=True)
class GlyphFit:
    """What explains N images best."""

    glyphs: Floats
    """(K, G, G) coverage, 0 to 1, about the point that poses tell, `GLYPH_SCALE` a pixel."""
    poses: Poses
    """Of all N images, improved."""
    kept: npt.NDArray[np.bool_]
    """(N, L) characters that were learned from: sure, and not among those explained worst."""
    settled: npt.NDArray[np.bool_]
    """(N,) images whose letters were all found near where the scout saw them; at least half, but
    for those that cannot be texts and those of which a letter was seen twice."""
    misfit: Floats
    """(N, L) mean squared difference in ink about each character; NaN where it was not sure."""


def glyph_side(height: int) -> int:
    """G for images so many pixels high: a glyph's canvas is four fifths of an image's height."""
    return int(0.8 * height) // 2 * 2 * GLYPH_SCALE


def mean_glyphs(normalised: FloatImages, poses: Poses) -> Floats:
    """(K, G, G) the mean of what lies where a scout says the surest characters of each class are.

    Args:
        normalised: (N, 2, H, W) real images, see `background.Background.normalise`.
        poses: A scout's, of the same images.
    """
    sure, ids = sure_characters(poses.probabilities) & poses.present, poses.ids
    examples = [
        np.argwhere(sure & (ids == k))[: 3 * _EXAMPLES] for k in range(poses.probabilities.shape[2])
    ]
    return np.stack([mean_glyph(normalised, poses.places, of_class) for of_class in examples])


def mean_glyph(normalised: FloatImages, poses: Floats, characters: npt.NDArray[np.int64]) -> Floats:
    """(G, G) the mean of what lies at poses (N, L, 9) of some characters, (M, 2) image and slot."""
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
    """(N, L): which of (N, L, K) are sure, or at least among the surest of their class."""
    confidence, ids = probabilities.max(-1), probabilities.argmax(-1)
    sure = confidence > SURE
    for k in range(probabilities.shape[-1]):
        of_class = np.where(ids == k, confidence, 0).ravel()
        surest = np.argsort(-of_class, kind="stable")[:_EXAMPLES]
        sure.ravel()[surest[of_class[surest] > LIKELY]] = True
    return np.asarray(sure)


def _to_image(pose: Floats, side: int) -> npt.NDArray[np.float64]:
    """OpenCV's map from the pixels of a glyph at a pose (9,) to those of the image."""
    # What is no linear map is left out: a mean only begins a shape, which is then fitted with it.
    x, y, rotation, size, stretch, shear = pose[: POSE.index("taper")].astype(np.float64)
    turn = np.deg2rad(rotation)
    form = np.array([[np.exp(stretch), shear], [0, 1]]) * np.exp(size) / GLYPH_SCALE
    linear = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) @ form
    place = np.array([x, y])
    # OpenCV counts from the middle of the first pixel, places from its corner.
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
    """Shapes of all classes and poses of all characters that together explain the images.

    Overlapping letters cover together: 1 - (1 - a)(1 - b)... Pixels under lines do not count, nor
    those near a character that is not sure. Half way the characters that are explained worst are
    taken for misread, and are no longer sure.

    Args:
        normalised: (N, 2, H, W) real images, see `background.Background.normalise`.
        poses: A scout's, of the same images; its likeliest classes are taken as read.
        seed: Of the order of the images.
        glyphs: (K, G, G) to begin with; by default the mean of what lies at the poses.
        begin: (N, L, 9) where poses begin, if not where the scout told; images are settled if their
            letters are found near where it did.
        moving: How many of `pose.POSE` do, from the first on: places alone, and characters have
            their glyphs' forms, or forms of their own, too, see `forms_differ`.
        epochs: Passes over the images.
        on_epoch: Called after each, with the mean misfit of its images.
    """
    H, W = normalised.shape[2:]
    ids, present = torch.from_numpy(poses.ids), torch.from_numpy(poses.present)
    N, L = ids.shape
    ink = torch.from_numpy((normalised[:, 0] + 1) / 2)
    visible = torch.from_numpy((1 - normalised[:, 1]) / 2)
    unit, P = torch.tensor(POSE_UNIT), len(POSE)
    moved = unit * (torch.arange(P) < moving)
    begun = poses.places if begin is None else begin
    pose = nn.Embedding(N, L * P, sparse=True, _weight=(torch.from_numpy(begun) / unit).flatten(1))
    first = mean_glyphs(normalised, poses) if glyphs is None else glyphs
    coarse = _BLURS[0] if glyphs is None else _KNOWN_BLUR
    shape = nn.Parameter(torch.from_numpy(first.copy()))
    of_pose = torch.optim.SparseAdam(list(pose.parameters()), _POSE_RATE)
    of_shape = torch.optim.Adam([shape], _GLYPH_RATE)

    generator = torch.Generator().manual_seed(seed)
    sure = torch.from_numpy(sure_characters(poses.probabilities)) & present
    misfit = torch.full((N, L), torch.nan)
    for epoch in range(epochs if sure.any() else 0):
        if epoch == epochs // 2:
            sure &= misfit <= misfit[sure].quantile(1 - _DROPPED)
        for optimizer, rate in ((of_pose, _POSE_RATE), (of_shape, _GLYPH_RATE)):
            optimizer.param_groups[0]["lr"] = rate * (1 - epoch / epochs)
        window = _gaussian(max(_BLURS[1], coarse * (1 - 2 * epoch / epochs)), len(shape[0]))
        images = torch.from_numpy(np.flatnonzero(sure.any(1).numpy()))
        for batch in images[torch.randperm(len(images), generator=generator)].split(_BATCH):
            at, counts = pose(batch).view(-1, L, P) * moved, sure[batch]
            drawn = draw_characters(_blurred(shape.clamp(0, 1), window), ids[batch], at, H, W)
            covered = 1 - (1 - drawn * counts[..., None, None]).prod(1)
            near = near_characters(at.detach(), H, W) & present[batch][..., None, None]
            looked_at = visible[batch] * ~(near & ~counts[..., None, None]).any(1)
            missed = (covered - ink[batch]).square() * looked_at
            misfit[batch] = mean_near(missed.detach(), looked_at, near).where(counts, torch.nan)
            # Where the clamp hides the gradient, this leads back between 0 and 1.
            outside = (shape - shape.detach().clamp(0, 1)).square().sum()
            for optimizer in (of_pose, of_shape):
                optimizer.zero_grad()
            ((missed.sum() + form_prior(at)) / L + outside).backward()
            of_pose.step()
            of_shape.step()
        on_epoch(epoch + 1, epochs, misfit[sure].mean().item())

    fitted = (pose.weight.detach().view(N, L, P) * moved).numpy()
    fitted = np.where(sure.numpy()[..., None], fitted, begun)
    read = np.bincount(ids[sure].numpy(), minlength=len(first))
    fine = _blurred(shape.detach().clamp(0, 1), _gaussian(_BLURS[1], len(shape[0])))
    found = without_haze(fine.numpy()) * found_classes(read)[:, None, None].astype(np.float32)
    settled = fit_poses(normalised, ids.numpy(), fitted, found, _SETTLING, moving=moving).poses
    limits = np.array([_STRAY[0] * H, _STRAY[0] * H, _STRAY[1]], np.float32)
    strayed = (np.abs(settled - poses.places)[..., :PLACED] / limits).max((1, 2))
    seen_twice = superfluous_characters(
        normalised, ids.numpy(), present.numpy(), settled, found
    ).any(1)
    return GlyphFit(
        found,
        poses.at(settled),
        sure.numpy(),
        # A scout that has hardly learned sees all of them roughly: then the better half.
        (strayed <= max(1.0, float(np.median(strayed)))) & poses.possible & ~seen_twice,
        misfit.numpy(),
    )


def renamed_glyphs(glyphs: Floats, names: Mapping[int, int]) -> Floats:
    """(K, G, G) glyphs of some classes as those of others that have none; none is left of them."""
    renamed = glyphs.copy()
    renamed[list(names)] = 0
    for k, name in names.items():
        if not renamed[name].any():
            renamed[name] = glyphs[k]
    return renamed


def forms_differ(normalised: FloatImages, fit: GlyphFit, moving: int) -> bool:
    """Whether characters are of many sizes, widths or slants, so that one glyph does not fit all.

    Those of some images are given forms of their own; where all are alike, hardly any changes.

    Args:
        normalised: (N, 2, H, W) real images.
        fit: Of them, without forms.
        moving: How many of `pose.POSE` may tell of their forms, from the first on.
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
    """(G, G) a matrix that blurs along one axis; its rows sum to 1 but at the edges."""
    apart = torch.arange(side) - torch.arange(side)[:, None]
    weights = torch.exp(-0.5 * (apart / sigma).square())
    return weights / weights.sum(1).max()


def without_haze(glyphs: Floats) -> Floats:
    """(K, G, G) of the same coverage where there is a letter, and next to it, and none elsewhere.

    Clutter and parts of neighbours lie about a letter otherwise each time. What is left of them on
    average would be drawn around every letter. A shape of which little is known yet is pale all
    over, so what counts is measured by its most.
    """
    body = (glyphs > _BODY * glyphs.max((1, 2), keepdims=True)).astype(np.uint8)
    window = np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8)
    return np.stack([g * cv2.dilate(b, window) for g, b in zip(glyphs, body, strict=True)])


def _blurred(glyphs: Tensor, window: Tensor) -> Tensor:
    """(K, G, G), each blurred down and across."""
    return window @ glyphs @ window.T


def found_classes(read: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(K,) whether so many characters learned from, (K,), are enough for a glyph."""
    return np.asarray(read >= enough_examples(read))


def enough_examples(read: npt.NDArray[np.int64]) -> float:
    """How many characters a class needs for a glyph, where so many of each, (K,), are read."""
    return max(FEWEST_EXAMPLES, _STARVED * float(np.median(read)))
