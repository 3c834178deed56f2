"""Selection of the images to label, so that few labels teach as much as possible."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from simgan_captcha.inference.readings import Reading

_UNSURE = 0.9
"""Probability of a character below which it is uncertain."""


def most_useful(
    readings: Sequence[Reading], second: Mapping[str, str], labelled: Set[str], count: int
) -> list[str]:
    """Names of the images to ask about, the most useful first.

    An uncertainty of an image is a pair of characters on which two readers disagree, or a character
    of low probability. The score of an image is the sum of n(d) / (1 + a(d)) over its uncertainties
    d. Here n(d) is the number of images with d, and a(d) is the number of images with d that were
    already chosen. So frequent confusions come first, and none is repeated too often. Images
    without uncertainties come last, the least probable texts first.

    Args:
        readings: Readings of the recognizer of the run, for all images.
        second: Texts of another reader by image name, such as the specialized generalist.
        labelled: Names of images with a label; they are not chosen.
        count: Largest number of names.
    """
    free = [reading for reading in readings if reading.name not in labelled]
    doubts = {one.name: _doubts(one, second.get(one.name)) for one in free}
    frequency = Counter(doubt for of_image in doubts.values() for doubt in of_image)
    asked: Counter[str] = Counter()
    chosen = list[str]()
    # The least probable texts are first, so they are chosen among images with equal scores.
    left = [one.name for one in sorted(free, key=lambda one: (one.confidence, one.name))]

    def value(name: str) -> float:
        return sum(frequency[doubt] / (1 + asked[doubt]) for doubt in doubts[name])

    while left and len(chosen) < count:
        best = max(left, key=value)  # the first of equals
        left.remove(best)
        chosen.append(best)
        asked.update(doubts[best])
    return chosen


def _doubts(reading: Reading, other: str | None) -> set[str]:
    found = {
        character
        for character, probability in zip(reading.text, reading.character_confidence, strict=True)
        if probability < _UNSURE
    }
    if other is None or other == reading.text:
        return found
    if len(other) != len(reading.text):
        return found | {"another length"}
    pairs = zip(reading.text, other, strict=True)
    return found | {"/".join(sorted(pair)) for pair in pairs if pair[0] != pair[1]}
