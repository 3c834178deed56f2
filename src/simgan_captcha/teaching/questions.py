"""Chooses the images whose labels teach most."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from simgan_captcha.inference.readings import Reading

_UNSURE = 0.9
"""A character with a lower probability is doubtful."""


def most_useful(
    readings: Sequence[Reading], second: Mapping[str, str], labelled: Set[str], count: int
) -> list[str]:
    """Names of the images to ask about, the most useful first.

    Each image has doubts: pairs of characters on which two readers disagree, and characters of low
    probability. An image counts for each of its doubts d with n(d) / (1 + a(d)), where n(d) is the
    number of images with this doubt and a(d) how often it was asked about already. So frequent
    confusions come first, and none is asked about again and again. Images without a doubt follow,
    the least probable texts first.

    Args:
        readings: Of the run's recognizer, for all images.
        second: Texts of another reader by name, such as the specialized generalist.
        labelled: Names of images that have a label; they are not chosen.
        count: Number of names wanted; there are fewer if the images do not suffice.
    """
    free = [reading for reading in readings if reading.name not in labelled]
    doubts = {one.name: _doubts(one, second.get(one.name)) for one in free}
    frequency = Counter(doubt for of_image in doubts.values() for doubt in of_image)
    asked: Counter[str] = Counter()
    chosen = list[str]()
    # Least probable first, so that these win among images with the same doubts.
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
