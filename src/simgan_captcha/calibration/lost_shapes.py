"""Missing-glyph recovery: find glyphs that no font of the simulator draws.

If no font draws a character as the real images do, the recognizer reads it as other characters. Its
own class is under-predicted, the others are over-predicted, and training does not correct this. But
the glyphs of the other classes do not explain these letters. If many unexplained letters share a
shape, it is the glyph of the under-predicted class. The alphabet gives it its name, not a label.

Shapes: N images, L characters, K classes, M characters of interest, G side of a glyph.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import numpy.typing as npt

from simgan_captcha.calibration.drawing.misfits import character_misfits
from simgan_captcha.calibration.drawing.pose_fit import fit_poses
from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.glyph_fit import (
    FEWEST_EXAMPLES,
    GlyphFit,
    enough_examples,
    mean_glyph,
)
from simgan_captcha.simulator.pose import moving
from simgan_captcha.types import FloatImages, Floats, Ids

_UNEXPLAINED = 3.0
"""Multiple of the median error above which a character is not explained by its glyph."""

_BETTER = 0.5
"""Ratio of errors below which a shape explains a character better than its own class."""

_DONORS = 3
"""Number of over-predicted source classes, plus one for each missing glyph."""

_BY_FEW = 2 / 3
"""Least share of the characters of a shape that are read as three classes. It was at least 0.88
for true glyphs that were checked, and 0.45 for a false one."""

_MOST_LACKING = 5
"""Greatest number of missing glyphs for a search. If more are missing, the recognizer needs more
training, or the alphabet has characters that never occur. A search would also take long."""

_EXAMPLES = 200
"""Number of characters of a source class in the search for a shape."""

_LEAST = 1e-12
"""Least probability, so that its logarithm is finite."""

_PASSES = 4
"""Number of alternations between fitting poses and averaging the shape."""

_STEPS = 12
"""Greatest number of steps of the poses in each pass."""


@dataclass(frozen=True)
class LostShape:
    """A recovered glyph of an under-predicted class."""

    character: int
    """The class, 0 to K - 1."""
    taken_for: dict[int, int]
    """Number of its characters that were read as each class, the most frequent first."""

    def in_words(self, alphabet: str) -> str:
        """The finding as a sentence."""
        name = alphabet[self.character]
        of_each = ", ".join(f"{count} as {alphabet[k]!r}" for k, count in self.taken_for.items())
        return (
            f"{name!r} was hardly ever read, but {sum(self.taken_for.values())} characters read "
            f"as others ({of_each}) share a shape that their own glyphs do not explain; this shape "
            f"is now the glyph of {name!r}: check calibrate/glyphs.png"
        )


@dataclass(frozen=True)
class Recovered:
    """Recovered glyphs and their poses, as the start of another fit."""

    glyphs: Floats
    """(K, G, G) coverage, 0 to 1, with the recovered glyphs."""
    poses: Poses
    """Poses of N images; characters with a recovered glyph have its class with certainty."""
    shapes: tuple[LostShape, ...]


def find_lost_shapes(normalised: FloatImages, fit: GlyphFit) -> Recovered | None:
    """Search for the glyphs of all classes that have none.

    Args:
        normalised: (N, 2, H, W) real images, see `background.Background.normalise`.
        fit: Fit of the same images.

    Returns:
        None if no glyph is missing, if too many are missing, or if no shape is frequent enough.
    """
    probabilities = fit.poses.probabilities.copy()
    ids = fit.poses.ids
    lacking = set(np.flatnonzero(~fit.glyphs.any(axis=(1, 2))).tolist()) - {fit.poses.blank}
    most = min(_MOST_LACKING, len(fit.glyphs) - 1)
    if not 0 < len(lacking) <= most or not fit.settled.any():
        return None
    poses = fit.poses.places
    own = character_misfits(normalised, ids, poses, fit.glyphs)
    looked_at = fit.settled[:, None] & fit.poses.present
    unlike = _UNEXPLAINED * float(np.median(own[looked_at]))
    unexplained = (own > unlike) & fit.poses.present
    read = np.bincount(ids[looked_at], minlength=len(fit.glyphs))
    search = _Search(normalised, ids, fit.glyphs, unlike, moving(poses))
    shapes: list[Floats] = []
    members: list[tuple[Ids, Ids]] = []  # images and slots of each shape
    for donor in np.argsort(-read, kind="stable")[: _DONORS + len(lacking)]:
        # A source class may hide several missing glyphs.
        while len(shapes) < len(lacking):
            # The pose of a misread character may be wrong; some right ones suffice for the shape.
            characters = np.argwhere(unexplained & looked_at & (ids == donor))[:_EXAMPLES]
            shape = search.common_shape(characters, poses)
            if shape is None:
                break
            everywhere = np.argwhere(unexplained)
            found, at = search.explained(everywhere, poses, shape)
            images, slots = everywhere[found].T
            if len(images) < enough_examples(read) or not _lent_by_few(ids[images, slots]):
                break
            shapes.append(shape)
            members.append((images, slots))
            poses[images, slots], unexplained[images, slots] = at[found], False
    if not shapes:
        return None
    names = _names([probabilities[of_shape].mean(0) for of_shape in members], lacking)
    glyphs, lost = fit.glyphs.copy(), []
    for k, shape, of_shape in zip(names, shapes, members, strict=True):
        glyphs[k] = shape
        probabilities[of_shape] = np.eye(len(glyphs), dtype=np.float32)[k]
        lost.append(LostShape(k, dict(Counter(ids[of_shape].tolist()).most_common())))
    recovered = replace(fit.poses.at(poses), probabilities=probabilities)
    return Recovered(glyphs, recovered, tuple(lost))


def _lent_by_few(read_as: Ids) -> bool:
    """Whether the characters (M,) of a shape come from few source classes.

    A missing glyph is read as one or two other classes. A shape from many classes is usually an
    artefact of overlap or poor visibility.
    """
    commonest = Counter(read_as.tolist()).most_common(_DONORS)
    return sum(count for _, count in commonest) >= _BY_FEW * len(read_as)


def _names(thought_of: list[Floats], lacking: set[int]) -> tuple[int, ...]:
    """Assign a class to each shape by the mean probabilities (K,) of its characters."""
    return max(
        permutations(sorted(lacking), len(thought_of)),
        key=lambda names: sum(
            math.log(float(likely[k]) + _LEAST) for likely, k in zip(thought_of, names, strict=True)
        ),
    )


@dataclass(frozen=True)
class _Search:
    """The images and glyphs of a search."""

    normalised: FloatImages
    ids: Ids
    glyphs: Floats
    unlike: float
    """Least error of an unexplained character."""
    moving: int
    """Number of leading values of `pose.POSE` that are fitted."""

    def common_shape(self, characters: Ids, poses: Floats) -> Floats | None:
        """The common shape (G, G) of most of these characters (M, 2), as k-means with one centre.

        None if there are few characters, or if it explains few of them.
        """
        if len(characters) < FEWEST_EXAMPLES:
            return None
        poses, chosen = poses.copy(), characters
        for _ in range(_PASSES):
            shape = mean_glyph(self.normalised, poses, chosen)
            at, misfit = self._drawn(characters, poses, shape)
            poses[tuple(characters.T)] = at
            best = np.argsort(misfit, kind="stable")
            chosen = characters[best[: max(FEWEST_EXAMPLES, len(best) // 2)]]
        found, _ = self.explained(characters, poses, shape)
        return shape if found.sum() >= FEWEST_EXAMPLES else None

    def explained(
        self, characters: Ids, poses: Floats, shape: Floats
    ) -> tuple[npt.NDArray[np.bool_], Floats]:
        """Mask (M,) of characters that a shape explains better than their own, and poses (M, 9).

        Their own glyph is also fitted from the pose of the shape, to exclude characters that were
        only predicted at a wrong position.
        """
        at, misfit = self._drawn(characters, poses, shape)
        likely = np.flatnonzero(misfit < self.unlike)
        moved = poses.copy()
        moved[tuple(characters[likely].T)] = at[likely]
        found = np.zeros(len(characters), bool)
        _, own = self._drawn(characters[likely], moved, None)
        found[likely] = misfit[likely] < _BETTER * own
        return found, at

    def _drawn(self, characters: Ids, poses: Floats, shape: Floats | None) -> tuple[Floats, Floats]:
        """Fit poses (M, 9) and errors (M,) of characters drawn with a shape, or with their own."""
        images, slots = characters.T
        ids, glyphs = self.ids[images], self.glyphs
        if shape is not None:
            ids = ids.copy()
            ids[np.arange(len(ids)), slots] = len(glyphs)
            glyphs = np.concatenate([glyphs, shape[None]])
        fit = fit_poses(
            self.normalised[images], ids, poses[images], glyphs, _STEPS, moving=self.moving
        )
        misfits = character_misfits(self.normalised[images], ids, fit.poses, glyphs)
        each = np.arange(len(characters))
        return fit.poses[each, slots], misfits[each, slots]
