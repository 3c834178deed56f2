import json
import math
import subprocess
import sys
from hashlib import md5
from string import ascii_lowercase, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from simgan_captcha.errors import SchemeError, ShapeError, UsageError
from simgan_captcha.evaluation.intervals import wilson_interval
from simgan_captcha.evaluation.judge import judge, puzzle_truth
from simgan_captcha.evaluation.judgement import MAX_CONFUSIONS, MAX_WRONG, Judgement
from simgan_captcha.pipeline.estimate import Estimate

ALPHABET = "abcdefgh"
TEXTS = st.text(ALPHABET, min_size=3, max_size=3)
PAIRS = st.lists(st.tuples(TEXTS, st.text(ALPHABET, max_size=5)), min_size=1, max_size=40)


def test_figures_of_a_small_example() -> None:
    found = judge(
        ["1", "2", "3", "4", "5"],
        ["abc", "abd", "abd", "ab", "cab"],
        {"1": "abc", "2": "abc", "3": "abc", "4": "abc", "9": "abc"},
        "abcd",
        confidences=[0.99, 0.4, 0.95, 0.2, 0.5],
    )
    assert (found.images, found.unlabelled, found.unread, found.wrong_length) == (4, 1, 1, 1)
    assert found.captcha_accuracy == 1 / 4
    assert found.character_accuracy == 7 / 12
    assert found.per_position == [3 / 4, 3 / 4, 1 / 4]
    assert found.per_character["c"].model_dump() == {"right": 1, "total": 4, "accuracy": 0.25}
    assert found.per_character["d"].model_dump() == {"right": 0, "total": 0, "accuracy": None}
    assert [c.model_dump() for c in found.confusions] == [{"truth": "c", "read": "d", "count": 2}]
    assert found.confusion_matrix == {"a": {"a": 3}, "b": {"b": 3}, "c": {"c": 1, "d": 2}}
    assert [(w.name, w.confidence) for w in found.wrong] == [("3", 0.95), ("2", 0.4), ("4", 0.2)]
    assert found.captcha_interval == wilson_interval(1, 4)
    assert found.character_interval == wilson_interval(7, 12)


def test_calibration_by_hand() -> None:
    found = judge(
        ["1", "2", "3", "4"],
        ["a", "a", "a", "b"],
        {"1": "a", "2": "a", "3": "a", "4": "a"},
        "ab",
        confidences=[0.5, 0.52, 1.0, 0.9],
    )
    assert found.mean_confidence == pytest.approx(0.73)
    assert [(b.low, b.high, b.images) for b in found.calibration] == [(0.5, 0.6, 2), (0.9, 1.0, 2)]
    assert [b.accuracy for b in found.calibration] == [1.0, 0.5]
    # |0.51 - 1| and |0.95 - 0.5|, two images each of four.
    assert found.expected_calibration_error == pytest.approx(0.49 / 2 + 0.45 / 2)


def test_the_runs_own_estimate_stands_beside_the_truth() -> None:
    names = [str(number) for number in range(8)]
    read = ["abc"] * 6 + ["abd"] * 2
    for accuracy, points in ((0.749, 0.1), (0.8, -5.0), (0.75, 0.0)):
        estimate = Estimate(accuracy, 0.7, 0.9, 0.85)
        found = judge(names, read, lambda _: "abc", ALPHABET, estimate=estimate).own_estimate
        assert found is not None
        assert found.model_dump() == {
            "accuracy": accuracy,
            "low": 0.7,
            "high": 0.9,
            "points_below": pytest.approx(points),
        }
    assert judge(names, read, lambda _: "abc", ALPHABET).own_estimate is None


def test_judging_loads_no_torch() -> None:
    script = "import sys, simgan_captcha.evaluation.judge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_without_confidences_there_is_no_calibration() -> None:
    found = judge(["1", "2"], ["b", "b"], {"1": "a", "2": "a"}, "ab")
    assert found.mean_confidence is None
    assert found.expected_calibration_error is None
    assert found.calibration == []
    assert [(w.name, w.confidence) for w in found.wrong] == [("1", None), ("2", None)]


def test_truth_by_function_labels_every_reading() -> None:
    found = judge(["ab", "cd"], ["ba", "cd"], lambda name: name[::-1], ALPHABET)
    assert (found.captcha_accuracy, found.unlabelled, found.unread) == (0.5, 0, 0)


def test_truths_of_different_lengths_have_their_own_positions() -> None:
    found = judge(["1", "2"], ["abc", "a"], {"1": "abd", "2": "a"}, "abcd")
    assert found.per_position == [1.0, 1.0, 0.0]
    assert found.character_accuracy == 3 / 4


def test_lists_are_bounded() -> None:
    symbols = ascii_lowercase + digits
    names = [a + b for a in symbols for b in symbols if a != b]
    found = judge(names, [name[1] for name in names], lambda name: name[0], symbols)
    assert len(found.confusions) == MAX_CONFUSIONS
    assert len(found.wrong) == MAX_WRONG
    assert sum(sum(row.values()) for row in found.confusion_matrix.values()) == len(names)


@given(PAIRS)
def test_every_figure_agrees_with_counting(pairs: list[tuple[str, str]]) -> None:
    true = [pair[0] for pair in pairs]
    read = [pair[1] for pair in pairs]
    names = [str(index) for index in range(len(pairs))]
    found = judge(names, read, dict(zip(names, true, strict=True)), ALPHABET)
    aligned = [(a, b) for a, b in pairs if len(a) == len(b)]
    hits = sum(x == y for a, b in aligned for x, y in zip(a, b, strict=True))
    assert found.captcha_accuracy == sum(a == b for a, b in pairs) / len(pairs)
    assert found.character_accuracy == hits / (3 * len(pairs))
    assert sum(found.per_position) == pytest.approx(3 * found.character_accuracy)
    assert sum(score.right for score in found.per_character.values()) == hits
    assert sum(score.total for score in found.per_character.values()) == 3 * len(pairs)
    assert found.wrong_length == len(pairs) - len(aligned)
    assert len(found.wrong) == sum(a != b for a, b in pairs)
    low, high = found.captcha_interval
    assert low <= found.captcha_accuracy <= high
    counts = [confusion.count for confusion in found.confusions]
    assert counts == sorted(counts, reverse=True)
    assert Judgement.model_validate_json(json.dumps(found.model_dump(mode="json"))) == found


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=20))
def test_confusion_matrix_agrees_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    names = [str(index) for index in range(len(pairs))]
    truth = {name: pair[0] for name, pair in zip(names, pairs, strict=True)}
    found = judge(names, [pair[1] for pair in pairs], truth, ALPHABET)
    expected = confusion_matrix(
        list("".join(pair[0] for pair in pairs)),
        list("".join(pair[1] for pair in pairs)),
        labels=list(ALPHABET),
    )
    got = [[found.confusion_matrix.get(a, {}).get(b, 0) for b in ALPHABET] for a in ALPHABET]
    assert got == expected.tolist()


def test_no_overlap_is_refused() -> None:
    with pytest.raises(UsageError, match="got 1 labels and none by the name of a reading"):
        judge(["1"], ["a"], {"2": "a"}, "ab")


def test_no_readings_are_refused() -> None:
    with pytest.raises(UsageError, match="expected labels for some of the 0 readings"):
        judge([], [], {"2": "a"}, "ab")


def test_bad_readings_are_refused() -> None:
    with pytest.raises(ShapeError, match="2 names, 1 texts and no confidences"):
        judge(["1", "2"], ["a"], {"1": "a"}, "ab")
    with pytest.raises(ShapeError, match="1 names, 1 texts and 2 confidences"):
        judge(["1"], ["a"], {"1": "a"}, "ab", confidences=[1, 1])
    with pytest.raises(UsageError, match="one reading a name, got 2 of '1'"):
        judge(["1", "1"], ["a", "b"], {"1": "a"}, "ab")


@pytest.mark.parametrize("confidence", [-0.1, 1.1, math.nan, math.inf])
def test_confidences_out_of_range_are_refused(confidence: float) -> None:
    with pytest.raises(UsageError, match="confidences in"):
        judge(["1"], ["a"], {"1": "a"}, "ab", confidences=[confidence])


def test_labels_outside_the_alphabet_are_refused() -> None:
    with pytest.raises(SchemeError, match="lacks 'Z' of the label 'aZ'"):
        judge(["1"], ["ab"], {"1": "aZ"}, "ab")
    with pytest.raises(SchemeError, match="got an empty one"):
        judge(["1"], ["ab"], {"1": ""}, "ab")


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_properties(counts: tuple[int, int]) -> None:
    successes, trials = counts
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert low < high
    mirror_low, mirror_high = wilson_interval(trials - successes, trials)
    assert mirror_low == pytest.approx(1 - high, abs=1e-12)
    assert mirror_high == pytest.approx(1 - low, abs=1e-12)


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(2, 50))
def test_wilson_interval_narrows_with_evidence(right: int, wrong: int, times: int) -> None:
    low, high = wilson_interval(right, right + wrong)
    more_low, more_high = wilson_interval(times * right, times * (right + wrong))
    assert more_high - more_low < high - low


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # R: prop.test(k, n, correct = FALSE)$conf.int; Newcombe 1998, tables I and II.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval_known_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_refuses_impossible_counts() -> None:
    for successes, trials in [(-1, 3), (4, 3), (0, -1)]:
        with pytest.raises(UsageError, match="0 <= successes <= trials"):
            wilson_interval(successes, trials)


def test_puzzle_truth_is_the_rule_of_the_data_readme() -> None:
    alphabet = ascii_lowercase + digits
    name = "0f" * 16
    digest = md5(f"rickyhan{name}".encode()).hexdigest()
    expected = "".join(alphabet[int(digest[4 * i : 4 * i + 4], 16) % 36] for i in range(4))
    assert puzzle_truth("rickyhan")(name) == expected
    assert judge([name], [expected], puzzle_truth("rickyhan"), alphabet).captcha_accuracy == 1
    assert judge([name], [expected], puzzle_truth("another"), alphabet).captcha_accuracy == 0


def test_characters_that_count_as_one_are_judged_so() -> None:
    fold = {"0": "o"}
    found = judge(
        ["a", "b"],
        ["co", "c1"],
        {"a": "c0", "b": "co"},
        "co1",
        fold=lambda text: "".join(fold.get(c, c) for c in text),
    )
    assert found.captcha_accuracy == 0.5
    assert found.confusion_matrix["o"] == {"o": 1, "1": 1}
