"""What the generalist finds in a sample of images of one family: lengths and characters.

Nothing is known of the family and nothing is learned. Each conclusion comes with the share of the
images that support it, so that a person can be asked where it is doubtful.

How often each length and each character occurs is estimated, not assumed. The network gives a
probability p_i(k) of class k for image or character i. The shares s of the classes are those of
greatest likelihood (Saerens et al. 2002, expectation maximisation):

    s(k) = mean over i of  s(k) p_i(k) / sum_m s(m) p_i(m)

A class that is often the second choice, but never needed to explain an image, gets no share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase, digits

import numpy as np

from simgan_captcha.generalist.characters import CHARACTERS
from simgan_captcha.generalist.reader import FoundText
from simgan_captcha.types import Doubles

GROUPS = {
    "digits": (digits, "234679"),
    "lower-case letters": (ascii_lowercase, "abdefghmnqrty"),
    "capitals": (ascii_uppercase, "ABDEFGHLMNQRTY"),
    "signs": ("".join(c for c in CHARACTERS if not c.isalnum()), "+*=?#@%&×÷"),
}
"""Groups of characters, and those of each that look like no character of another group."""

_LEAST_SHARE = 0.02
"""Estimated share of the unmistakable characters from which on a group is there."""
_FIXED = 0.88
"""Estimated share of one length from which on all texts have it; most sites have one length."""
_LEAST_OF_LENGTH = 0.05
"""Otherwise, estimated share of the images from which on a length occurs."""
_RARE = 0.1
"""Estimated share, relative to a typical character of the group, below which a character is rare.
"""
_SWALLOWED = 0.2
"""The same relative share if all classes count alike. A rare character above it may be one that the
network takes for another, so it is kept."""
_ENOUGH = 12
"""Occurrences that a character must be expected to have before its absence means anything."""
_ROUNDS = 200
"""Steps of expectation maximisation. Ten were enough for the families that were tried."""


@dataclass(frozen=True)
class Survey:
    """Conclusions from N images."""

    images: int
    lengths: tuple[int, int]
    """Fewest and most characters of a text."""
    length_share: float
    """Estimated share of the images whose text has one of these lengths."""
    groups: tuple[str, ...]
    """Names of `GROUPS` that are there."""
    alphabet: str
    """Characters of these groups, without those that should have been seen and were not."""
    unseen: str
    """The characters left out."""
    confidence: float
    """Mean probability of a character, of all that were found."""


def survey(found: Sequence[FoundText], characters: str = CHARACTERS) -> Survey:
    """Conclusions from the texts found in N images.

    Args:
        found: Texts, with evidence.
        characters: The alphabet of this evidence.
    """
    texts = [one for one in found if one.text]
    if not texts:
        return Survey(len(found), (1, 1), 0.0, (), "", "", 0.0)
    lengths, length_share = _lengths(texts)
    # Texts of other lengths hold a character too many, or lack one.
    fitting = [one for one in texts if lengths[0] <= len(one.text) <= lengths[1]] or texts
    every = np.concatenate([one.characters for one in fitting]).astype(np.float64)
    groups = _groups(every, characters)
    alphabet, unseen = _alphabet(every, characters, groups)
    return Survey(
        images=len(found),
        lengths=lengths,
        length_share=length_share,
        groups=groups,
        alphabet=alphabet,
        unseen=unseen,
        confidence=float(np.concatenate([one.characters.max(1) for one in texts]).mean()),
    )


def estimated_shares(probabilities: Doubles) -> Doubles:
    """Shares (K,) of classes with probabilities (N, K), see the head of this module."""
    shares = np.full(probabilities.shape[1], 1 / probabilities.shape[1])
    for _ in range(_ROUNDS):
        joint = probabilities * shares
        shares = (joint / np.maximum(joint.sum(1, keepdims=True), 1e-300)).mean(0)
    return np.asarray(shares)


def _lengths(texts: Sequence[FoundText]) -> tuple[tuple[int, int], float]:
    """The range of the lengths that occur, and their estimated share."""
    probabilities = np.stack([one.lengths for one in texts])
    probabilities[:, 0] = 0  # every image shows a text
    shares = estimated_shares(probabilities)
    least = _FIXED if shares.max() >= _FIXED else min(_LEAST_OF_LENGTH, shares.max())
    occurring = np.flatnonzero(shares >= least)
    fewest, most = int(occurring[0]), int(occurring[-1])
    return (fewest, most), float(shares[fewest : most + 1].sum())


def _groups(every: Doubles, characters: str) -> tuple[str, ...]:
    shares = estimated_shares(every)
    of_group = {
        name: sum(float(shares[characters.index(c)]) for c in unmistakable if c in characters)
        for name, (_, unmistakable) in GROUPS.items()
    }
    least = max(2 / len(every), _LEAST_SHARE * sum(of_group.values()))
    return tuple(name for name, share in of_group.items() if share >= least)


def _alphabet(every: Doubles, characters: str, groups: tuple[str, ...]) -> tuple[str, str]:
    """Characters of the groups, and those of them that were expected and do not occur."""
    possible = "".join(GROUPS[name][0] for name in groups)
    evidence = np.zeros((len(every), len(possible) + 1))  # the last class: all other characters
    for number, character in enumerate(characters):
        form = character if character in possible else character.swapcase()
        place = possible.find(form) if len(form) == 1 else -1
        evidence[:, place] += every[:, number]
    shares, alike = estimated_shares(evidence), evidence.mean(0)
    kept, unseen = [], []
    for name in groups:
        members = GROUPS[name][0]
        places = [possible.index(c) for c in members]
        # The mean share of the characters of a text: absent ones do not count.
        typical = float((shares[places] ** 2).sum() / max(shares[places].sum(), 1e-9))
        for c, share, raw in zip(members, shares[places], alike[places], strict=True):
            rare = share < _RARE * typical and raw < _SWALLOWED * typical
            if rare and (name == "signs" or len(every) * typical >= _ENOUGH):
                unseen.append(c)
            else:
                kept.append(c)
    return "".join(kept), "".join(c for c in unseen if c not in GROUPS["signs"][0])
