from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.rescoring import (
    Comparisons,
    Redrawing,
    borderline_characters,
    contradicts,
    decide,
    does_harm,
    uncertain_characters,
)
from simgan_captcha.recognizer.network import PosedOutput
from simgan_captcha.simulator.calibrated import Calibration
from simgan_captcha.simulator.pose import POSE
from simgan_captcha.types import Floats, GreyImages
from tests.calibration.scene import (
    LETTERS,
    SIZE,
    STRANGER,
    STRIPED,
    disturbed,
    drawn,
    font_glyphs,
    skewed,
)

CLASSES = len(LETTERS.alphabet)
COUNT = 60


class Telling(nn.Module):
    """A bootstrap recognizer that recalls the poses of known images."""

    def __init__(self, images: GreyImages, poses: Poses) -> None:
        super().__init__()
        keys = (ink.tobytes() for ink in STRIPED.normalise(images))
        self.known = {key: n for n, key in enumerate(keys)}
        slots = (np.arange(LETTERS.max_length) + 0.5) * 25
        pose = [(poses.x - slots) / 25, poses.y / LETTERS.height - 0.5, poses.rotation / 45]
        self.pose = torch.from_numpy(np.stack(pose, -1).astype(np.float32))
        self.logits = torch.from_numpy(np.log(poses.probabilities + 1e-6))

    def forward(self, images: Tensor) -> PosedOutput:
        chosen = [self.known[image.numpy().tobytes()] for image in images]
        nothing = torch.zeros(0)
        return PosedOutput(self.logits[chosen], self.pose[chosen], nothing, nothing)


def calibration() -> Calibration:
    """A calibration with exactly the drawn glyphs."""
    glyphs = np.rint(font_glyphs(STRANGER, SIZE) * 255).astype(np.uint8)
    return replace(skewed(LETTERS), glyphs=glyphs)


@pytest.fixture(scope="module")
def doubtful() -> tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats]:
    return often_wrong(*drawn(COUNT))


def often_wrong(
    images: GreyImages, exact: Poses
) -> tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats]:
    """Images, predicted poses, true ids, and probabilities of a recognizer that is often wrong.

    One character per image is uncertain. In half of them, the wrong class is likelier.
    """
    ids = exact.probabilities.argmax(-1)
    generator = np.random.default_rng(4)
    probabilities = exact.probabilities * 0.98 + 0.02 / CLASSES
    for n in range(COUNT):
        slot = generator.integers(LETTERS.max_length)
        other = (ids[n, slot] + generator.integers(1, CLASSES)) % CLASSES
        true, wrong = (0.35, 0.6) if n % 2 else (0.6, 0.35)
        probabilities[n, slot] = 0.05 / (CLASSES - 2)
        probabilities[n, slot, ids[n, slot]], probabilities[n, slot, other] = true, wrong
    return images, disturbed(exact, 1, 4), ids, probabilities.astype(np.float32)


def doubts_of(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats], found: Calibration
) -> Comparisons:
    return comparison(doubtful, found, uncertain_characters(doubtful[3]))


def comparison(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats],
    found: Calibration,
    chosen: npt.NDArray[np.bool_],
) -> Comparisons:
    images, poses, _, probabilities = doubtful
    redrawing = Redrawing(STRIPED, Telling(images, poses), found, LETTERS)
    return redrawing.compare(images, probabilities, chosen)


@pytest.fixture(scope="module")
def doubts(doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats]) -> Comparisons:
    return doubts_of(doubtful, calibration())


@pytest.fixture(scope="module")
def borderline(doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats]) -> Comparisons:
    return comparison(doubtful, calibration(), borderline_characters(doubtful[3], calibration()))


def test_uncertain_characters_are_decided_by_drawings(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats], doubts: Comparisons
) -> None:
    _, _, ids, probabilities = doubtful
    np.testing.assert_array_equal(doubts.images, np.arange(COUNT))
    decided = decide(probabilities, doubts)
    before, after = (
        (p.argmax(-1) == ids)[doubts.images, doubts.slots].mean() for p in (probabilities, decided)
    )
    assert before == 0.5
    assert after > 0.95
    assert not does_harm(doubts, ids)


def test_only_the_two_likeliest_classes_change(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats], doubts: Comparisons
) -> None:
    probabilities = doubtful[3]
    decided = decide(probabilities, doubts)
    np.testing.assert_allclose(decided.sum(-1), 1, atol=1e-5)
    other = np.ones(probabilities.shape, np.bool_)
    for classes in (doubts.first, doubts.second):
        other[doubts.images, doubts.slots, classes] = False
    np.testing.assert_array_equal(decided[other], probabilities[other])


def test_a_class_without_a_glyph_is_not_drawn(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats], doubts: Comparisons
) -> None:
    found = calibration()
    found.glyphs[2] = 0
    fewer = doubts_of(doubtful, found)
    concerned = (doubts.first == 2) | (doubts.second == 2)
    assert 0 < concerned.sum() < COUNT
    np.testing.assert_array_equal(fewer.images, doubts.images[~concerned])


def test_without_uncertain_characters_nothing_changes(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats],
) -> None:
    images, poses, ids, _ = doubtful
    sure = np.eye(CLASSES, dtype=np.float32)[ids]
    none = doubts_of((images, poses, ids, sure), calibration())
    assert len(none.images) == 0
    assert not does_harm(none, ids)
    np.testing.assert_array_equal(decide(sure, none), sure)


def test_borderline_characters_are_read_with_some_confidence(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats], borderline: Comparisons
) -> None:
    probabilities = doubtful[3]
    chosen = borderline_characters(probabilities, calibration())
    second = np.partition(probabilities, -2, -1)[..., -2]
    assert 0 < second[chosen].max() <= 0.1
    np.testing.assert_array_equal(
        borderline.first, doubtful[2][borderline.images, borderline.slots]
    )
    # Characters with an impossible second class are left out.
    sure = np.eye(CLASSES, dtype=np.float32)[doubtful[2]]
    assert not borderline_characters(sure, calibration()).any()


def test_noisier_drawings_count_less(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats], doubts: Comparisons
) -> None:
    probabilities = doubtful[3]
    hazy = decide(probabilities, replace(doubts, variance=1e6))
    np.testing.assert_allclose(hazy, probabilities, atol=1e-3)


def test_drawings_confirm_confident_characters_if_glyphs_fit(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats], borderline: Comparisons
) -> None:
    assert len(borderline.images) > COUNT
    assert not contradicts(borderline)
    # Every letter is drawn as its neighbour in the alphabet.
    found = calibration()
    other = replace(found, glyphs=np.roll(found.glyphs, 1, axis=0))
    assert contradicts(
        comparison(doubtful, other, borderline_characters(doubtful[3], calibration()))
    )


def test_contradictions_that_the_probabilities_predict_are_allowed(borderline: Comparisons) -> None:
    count = len(borderline.images)
    generator = np.random.default_rng(6)
    for second, against, refused in (
        (0.09, 0.09, False),
        (0.09, 0.3, True),
        (0.005, 0.01, False),
        (0.005, 0.2, True),
    ):
        odds = np.full(count, np.log((1 - second) / second), np.float32)
        evidence = np.where(generator.random(count) < against, 3, -3).astype(np.float32)
        assert contradicts(replace(borderline, odds=odds, evidence=evidence)) is refused


def test_a_single_drawing_decides_nothing(borderline: Comparisons) -> None:
    few = replace(borderline, images=borderline.images[:3], odds=borderline.odds[:3])
    assert not contradicts(replace(few, evidence=np.array([3, -3, -3], np.float32)))


def test_characters_without_glyphs_are_not_compared(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats],
) -> None:
    found = calibration()
    found.glyphs[2] = 0
    chosen = borderline_characters(doubtful[3], found)
    assert chosen.any()
    assert not chosen[doubtful[2] == 2].any()


def test_harmful_drawings_are_noticed(
    doubtful: tuple[GreyImages, Poses, npt.NDArray[np.int64], Floats], doubts: Comparisons
) -> None:
    contrary = replace(doubts, evidence=-np.abs(doubts.evidence))
    contrary = replace(
        contrary, evidence=np.where(doubts.odds > 0, -doubts.evidence, doubts.evidence)
    )
    assert does_harm(contrary, doubtful[2])


def test_letters_are_drawn_in_their_own_sizes() -> None:
    doubtful = often_wrong(*drawn(COUNT, size=(16, 32)))
    stiff = calibration()
    poses = stiff.poses.copy()
    poses[..., POSE.index("size")] = 0.1
    formed = replace(stiff, poses=poses)
    assert formed.formed.tolist() == [True, *[False] * 5]
    of_one_size, of_many = (doubts_of(doubtful, found) for found in (stiff, formed))
    assert of_many.variance < 0.6 * of_one_size.variance
    _, _, ids, probabilities = doubtful
    right = [
        (decide(probabilities, doubts).argmax(-1) == ids)[doubts.images, doubts.slots].mean()
        for doubts in (of_one_size, of_many)
    ]
    assert right[1] > 0.9
    assert right[1] >= right[0]


@pytest.mark.parametrize(
    ("against", "some", "many"), [(18, False, False), (35, True, False), (90, True, True)]
)
def test_drawings_may_contradict_as_many_characters_as_the_probabilities_predict(
    against: int, some: bool, many: bool
) -> None:
    """Of 300 characters, 12 are expected to be of the second class."""
    each, odds = np.arange(300), np.full(300, np.log(24), np.float32)
    evidence = np.where(each < against, 1, -1).astype(np.float32)
    borderline = Comparisons(each, each, each, each, odds, evidence, 0.1)
    assert contradicts(borderline, share=0) == some
    assert contradicts(borderline) == many
