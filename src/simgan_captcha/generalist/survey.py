"""What the generalist finds in a sample of images of one family: lengths and characters.

Nothing is known of the family and nothing is learned. Each conclusion comes with the share of the
images that support it, so that a person can be asked where it is doubtful.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase, digits

import numpy as np

from simgan_captcha.generalist.characters import CHARACTERS
from simgan_captcha.generalist.reader import FoundCharacter

GROUPS = {
    "digits": (digits, "234679"),
    "lower-case letters": (ascii_lowercase, "abdefghmnqrty"),
    "capitals": (ascii_uppercase, "ABDEFGHLMNQRTY"),
    "signs": ("".join(c for c in CHARACTERS if not c.isalnum()), "+*=?#@%&×÷"),
}
"""Groups of characters, and those of each that look like no character of another group."""

_SURE = 0.5
"""Characters that are less probable do not count."""
_LEAST_SHARE = 0.02
"""Share of the unmistakable characters from which on a group is there."""
_FIXED = 0.75
"""Share of one length, among the surest images, from which on all texts have it."""
_ENOUGH = 12
"""Occurrences that a character must be expected to have before its absence means anything."""


@dataclass(frozen=True)
class Survey:
    """Conclusions from N images."""

    images: int
    lengths: tuple[int, int]
    """Fewest and most characters of a text."""
    length_share: float
    """Share of the surest images whose text has one of these lengths."""
    groups: tuple[str, ...]
    """Names of `GROUPS` that are there."""
    alphabet: str
    """Characters of these groups, without those that should have been seen and were not."""
    unseen: str
    """The characters left out."""
    confidence: float
    """Mean probability of a character, of all that were found."""


def survey(found: Sequence[Sequence[FoundCharacter]]) -> Survey:
    """Conclusions from the characters found in N images."""
    texts = [characters for characters in found if characters]
    every = [c for characters in texts for c in characters]
    if not every:
        return Survey(len(found), (1, 1), 0.0, (), "", "", 0.0)
    lengths, length_share = _lengths(texts)
    groups = _groups(every)
    alphabet, unseen = _alphabet(every, groups)
    return Survey(
        images=len(found),
        lengths=lengths,
        length_share=length_share,
        groups=groups,
        alphabet=alphabet,
        unseen=unseen,
        confidence=float(np.mean([c.confidence for c in every])),
    )


def _lengths(texts: Sequence[Sequence[FoundCharacter]]) -> tuple[tuple[int, int], float]:
    """Of the half of the images that are read with most confidence."""
    # The geometric mean: a product would favour short texts.
    sure = np.array([np.mean(np.log([c.confidence + 1e-9 for c in x])) for x in texts])
    counts = np.array([len(characters) for characters in texts])
    kept = counts[np.argsort(-sure, kind="stable")[: max(1, (len(counts) + 1) // 2)]]
    usual, times = Counter(kept.tolist()).most_common(1)[0]
    if times >= _FIXED * len(kept):
        return (usual, usual), times / len(kept)
    fewest, most = (int(np.percentile(kept, p, method="nearest")) for p in (4, 96))
    return (fewest, most), float(((kept >= fewest) & (kept <= most)).mean())


def _groups(every: Sequence[FoundCharacter]) -> tuple[str, ...]:
    plain = "".join(unmistakable for _, unmistakable in GROUPS.values())
    seen = [c.character for c in every if c.confidence >= _SURE and c.character in plain]
    return tuple(
        name
        for name, (_, unmistakable) in GROUPS.items()
        if sum(c in unmistakable for c in seen) >= max(2, _LEAST_SHARE * len(seen))
    )


def _alphabet(every: Sequence[FoundCharacter], groups: tuple[str, ...]) -> tuple[str, str]:
    """Characters of the groups, and those of them that were expected and never seen."""
    possible = "".join(GROUPS[name][0] for name in groups)
    counts: Counter[str] = Counter()
    for one in every:
        if one.confidence < _SURE:
            continue
        character = one.character
        if character not in possible and character.swapcase() in possible:
            character = character.swapcase()
        counts[character] += 1
    kept, unseen = [], []
    for name in groups:
        members = GROUPS[name][0]
        total = sum(counts[c] for c in members)
        # Signs are few and uneven; of the others all are expected about equally often.
        expected = total / len(members)
        for c in members:
            rare = counts[c] < max(1, 0.1 * expected)
            if rare and (name == "signs" or expected >= _ENOUGH):
                unseen.append(c)
            else:
                kept.append(c)
    return "".join(kept), "".join(c for c in unseen if c not in GROUPS["signs"][0])
