"""Shapes that the simulator lacks, found among what the scout takes for other characters.

Where no font draws a character as the real images do, the scout reads something else in its place:
that class is starved, others are swollen, and neither scout nor reader ever learn better. But the
drawings of the swollen classes do not explain what was read wrongly. If many characters that are
not explained share a shape, it is that of the starved class: the alphabet's prior, not a label,
gives it its name.

Shapes: N images, L characters, K classes, M characters of interest, G side of a glyph.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import numpy.typing as npt

from simgan_captcha.calibration.glyph_fit import (
    FEWEST_EXAMPLES,
    GlyphFit,
    enough_examples,
    mean_glyph,
)
from simgan_captcha.calibration.pose_fit import character_misfits, fit_poses
from simgan_captcha.calibration.poses import Poses
from simgan_captcha.simulator.pose import moving
from simgan_captcha.types import FloatImages, Floats, Ids

_UNEXPLAINED = 3.0
"""Times the median misfit: a character that is drawn worse is not explained by its drawing."""

_BETTER = 0.5
"""Of what a character's own class misses, a shape that explains it misses less than this share."""

_DONORS = 3
"""Swollen classes that are looked through, and one more for each starved one."""

_BY_FEW = 2 / 3
"""Of a shape's characters at least so many are read as three classes. It was 0.88 or more
in shapes that were looked up and were a class's, 0.45 in one that was none."""

_MOST_LACKING = 5
"""Where more classes lack a glyph, it is the scout that lacks training, or the alphabet names what
never occurs, rather than the fonts a shape; and a search for all of them takes long."""

_EXAMPLES = 200
"""Characters of a swollen class that a shape is looked for in."""

_LEAST = 1e-12
"""Probability, so that its logarithm is finite."""

_PASSES = 4
"""Times that a shape is drawn where it was found, and taken anew from where it fits."""

_STEPS = 20
"""That move the poses each time."""


@dataclass(frozen=True)
class LostShape:
    """A shape that was found for a starved class."""

    character: int
    """That class, 0 to K - 1."""
    taken_for: dict[int, int]
    """How many of its characters the scout took for which class, the commonest first."""

    def in_words(self, alphabet: str) -> str:
        """For people."""
        name = alphabet[self.character]
        of_each = ", ".join(f"{count} as {alphabet[k]!r}" for k, count in self.taken_for.items())
        return (
            f"{name!r} was hardly ever read, but {sum(self.taken_for.values())} characters read "
            f"otherwise ({of_each}) share a shape that those characters' own do not explain: taken "
            f"for {name!r}, which would be missing else; look at calibrate/glyphs.png"
        )


@dataclass(frozen=True)
class Recovered:
    """Where lost shapes are, to fit glyphs anew from."""

    glyphs: Floats
    """(K, G, G) coverage, 0 to 1, with those of the lost shapes."""
    poses: Poses
    """Of N images; characters that have a lost shape are surely of its class."""
    shapes: tuple[LostShape, ...]


def find_lost_shapes(normalised: FloatImages, fit: GlyphFit) -> Recovered | None:
    """Look for the shapes of all classes that have no glyph.

    Args:
        normalised: (N, 2, H, W) real images, see `background.Background.normalise`.
        fit: Of the same images.

    Returns:
        None if every class has a glyph, or more than a few have none, or no shape was found that is
        as common as a class's.
    """
    probabilities = fit.poses.probabilities.copy()
    ids = fit.poses.ids
    lacking = set(np.flatnonzero(~fit.glyphs.any(axis=(1, 2))).tolist()) - {fit.poses.absent}
    most = min(_MOST_LACKING, len(fit.glyphs) - 1)
    if not 0 < len(lacking) <= most or not fit.settled.any():
        return None
    poses = fit.poses.places
    own = character_misfits(normalised, ids, poses, fit.glyphs)
    looked_at = fit.settled[:, None] & fit.poses.present
    unlike = _UNEXPLAINED * float(np.median(own[looked_at]))
    unexplained = (own > unlike) & looked_at
    read = np.bincount(ids[looked_at], minlength=len(fit.glyphs))
    search = _Search(normalised, ids, fit.glyphs, unlike, moving(poses))
    shapes: list[Floats] = []
    members: list[tuple[Ids, Ids]] = []  # images and slots of each shape
    for donor in np.argsort(-read, kind="stable")[: _DONORS + len(lacking)]:
        # A class may stand for several shapes that are lost, its own among them.
        while len(shapes) < len(lacking):
            characters = np.argwhere(unexplained & (ids == donor))[:_EXAMPLES]
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
    """Whether the characters (M,) of a shape are read as few classes.

    A shape that all lend a little of is what their letters look like where they overlap or are
    seen badly. Of characters that have no glyph, a scout makes one or two others.
    """
    commonest = Counter(read_as.tolist()).most_common(_DONORS)
    return sum(count for _, count in commonest) >= _BY_FEW * len(read_as)


def _names(thought_of: list[Floats], lacking: set[int]) -> tuple[int, ...]:
    """Which class each shape is, by how likely the scout thought all (K,) of its characters."""
    return max(
        permutations(sorted(lacking), len(thought_of)),
        key=lambda names: sum(
            math.log(float(likely[k]) + _LEAST) for likely, k in zip(thought_of, names, strict=True)
        ),
    )


@dataclass(frozen=True)
class _Search:
    """What is looked through."""

    normalised: FloatImages
    ids: Ids
    glyphs: Floats
    unlike: float
    """Misfit of what is not explained, at least."""
    moving: int
    """How many of `pose.POSE` do, from the first on."""

    def common_shape(self, characters: Ids, poses: Floats) -> Floats | None:
        """(G, G) the shape of most of these characters (M, 2), as k-means would with one centre.

        None if they are few, or it explains few of them.
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
        """(M,) which characters a shape explains that their own does not, and its poses (M, 9).

        Their own is drawn from where the shape was found, too: what only lay elsewhere than the
        scout said is not lost.
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
        """Poses (M, 9) and misfits (M,) of characters drawn with a shape, or with their own."""
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
