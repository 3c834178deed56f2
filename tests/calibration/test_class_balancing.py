import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.look import balance_classes, class_weights

Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


def read_as(classes: int, seen: Ids, second: Ids, doubt: float, spread: float = 0.5) -> Doubles:
    """Probabilities (M, K) with a likeliest class and a much less likely second class."""
    generator = np.random.default_rng(0)
    logits = generator.normal(-25, spread, (len(seen), classes))
    rows = np.arange(len(seen))
    logits[rows, second] = np.log(doubt) + generator.normal(0, spread, len(seen))
    logits[rows, seen] = 0
    likely = np.exp(logits)
    return np.asarray(likely / likely.sum(1, keepdims=True))


def poses(probabilities: Doubles, length: int, blank: int | None = None) -> Poses:
    shaped = probabilities.reshape(-1, length, probabilities.shape[1]).astype(np.float32)
    nowhere = np.zeros(shaped.shape[:2], np.float32)
    return Poses(shaped, nowhere, nowhere, nowhere, blank=blank)


def test_an_over_predicted_class_loses_characters_to_two_others() -> None:
    true = np.random.default_rng(1).integers(12, size=4000)
    # 0 and 1 are confidently read as 2, but their true class is the second likeliest.
    seen = np.where(true < 2, 2, true)
    second = np.where(true < 2, true, (true + 1) % 12)
    likely = read_as(12, seen, second, 1e-5)
    assert (likely.max(1) > 0.99).all()
    found = balance_classes(poses(likely, 4)).probabilities.reshape(-1, 12)
    assert (found.argmax(1) == true).mean() > 0.97
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_a_class_that_never_occurs_gets_no_characters() -> None:
    true = np.random.default_rng(2).integers(1, 12, size=4000)
    # All classes are slightly similar to 0, and 1 is very similar.
    likely = read_as(12, true, np.zeros_like(true), 1e-3)
    likely[true == 1, 0] = 0.3
    found = balance_classes(poses(likely, 4)).probabilities.reshape(-1, 12)
    np.testing.assert_array_equal(found.argmax(1), true)


def test_balanced_classes_are_unchanged() -> None:
    true = np.tile(np.arange(10), 300)
    likely = read_as(10, true, (true + 3) % 10, 0.2)
    np.testing.assert_array_equal(class_weights(likely), 1)
    before = poses(likely, 5)
    np.testing.assert_allclose(
        balance_classes(before).probabilities, before.probabilities, atol=1e-6
    )


def test_the_probability_of_an_empty_slot_is_unchanged() -> None:
    true = np.random.default_rng(3).integers(6, size=3000)
    seen = np.where(true == 0, 1, true)
    likely = read_as(6, seen, true, 1e-4)
    gone = np.random.default_rng(4).random(3000) < 0.3
    blank = np.where(gone, 0.9, 0.1)
    whole = np.column_stack([likely * (1 - blank)[:, None], blank])
    found = balance_classes(poses(whole, 3, blank=6)).probabilities.reshape(-1, 7)
    np.testing.assert_allclose(found[:, 6], blank, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert (found[~gone].argmax(1) == true[~gone]).mean() > 0.97


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 400), st.floats(0.1, 30))
def test_no_class_has_much_more_than_its_share(
    seed: int, classes: int, count: int, steepness: float
) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, steepness, (count, classes)) + generator.normal(0, 3, classes)
    likely = np.exp(logits - logits.max(1, keepdims=True))
    likely /= likely.sum(1, keepdims=True)
    weights = class_weights(likely)
    assert ((weights > 0) & (weights <= 1)).all()
    shared = likely.clip(1e-30) * weights
    taken = (shared / shared.sum(1, keepdims=True)).sum(0)
    occurring = (taken >= max(20, 0.3 * np.median(taken))).sum()
    if occurring:
        share = count / occurring
        assert taken.max() <= 1.05 * (share + np.sqrt(share))


@pytest.mark.parametrize("blank", [None, 2])
def test_predictions_without_characters_are_unchanged(blank: int | None) -> None:
    empty = poses(np.zeros((0, 3)), 2, blank)
    assert balance_classes(empty).probabilities.shape == (0, 2, 3)
    nobody = poses(np.tile([0.1, 0.1, 0.8], (4, 1)), 2, blank=2)
    np.testing.assert_array_equal(balance_classes(nobody).probabilities, nobody.probabilities)
