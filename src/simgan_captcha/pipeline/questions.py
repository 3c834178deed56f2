"""Selection of the images to label, so that few labels teach as much as possible."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from heapq import heapify, heappop, heapreplace
from pathlib import Path

from simgan_captcha.inference.readings import Reading
from simgan_captcha.pipeline.run_folder import TeacherTexts

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

    def value(name: str) -> float:
        return sum(frequency[doubt] / (1 + asked[doubt]) for doubt in doubts[name])

    # The number in this order decides among images with equal scores: less probable texts first.
    order = sorted(free, key=lambda one: (one.confidence, one.name))
    left = [(-value(one.name), number, one.name) for number, one in enumerate(order)]
    heapify(left)
    while left and len(chosen) < count:
        score, number, name = left[0]
        # Scores only fall. So the first is the best if its score is still right.
        if (now := -value(name)) != score:
            heapreplace(left, (now, number, name))
            continue
        heappop(left)
        chosen.append(name)
        asked.update(doubts[name])
    return chosen


def texts_of_generalist(run: Path) -> dict[str, str]:
    """Texts of the generalist by image name, specialized if it was; empty if there are none."""
    for stage in ("specialize", "look"):
        try:
            texts = TeacherTexts.of_stage(run / stage)
            return dict(zip(texts.names, texts.texts, strict=True))
        except (OSError, ValueError, TypeError):  # questions are possible without them
            continue
    return {}


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
