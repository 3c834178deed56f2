import json
import math
import shutil
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric

from simgan_captcha.inference.readings import Reading, load_readings
from simgan_captcha.pipeline.estimate import (
    FEWEST_OF_PAIR,
    Estimate,
    character_shares,
    diagnose,
    estimate_accuracy,
    estimate_from_confidence,
    first_is_better,
    known_confusions,
    logit,
)
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import READINGS, read_diagnosis
from simgan_captcha.pipeline.stages.final_readings import read_captchas
from tests.small_run import SEED, draw_captchas, pipeline, small_config, write_challenges

ALPHABET = ascii_lowercase + digits
SHARES = st.floats(0, 1)
KNOWN = st.lists(st.tuples(st.booleans(), SHARES), min_size=1, max_size=30)
REAL = st.lists(SHARES, min_size=1, max_size=30)


def reading(text: str, confidence: float = 0.9) -> Reading:
    return Reading("", text, confidence, (confidence,) * len(text))


def estimated(known: list[tuple[bool, float]], real: list[float]) -> Estimate:
    """From whether each known image is read right, and how sure of it the reader is."""
    return estimate_accuracy(
        [reading("ab" if right else "ba", confidence) for right, confidence in known],
        ["ab"] * len(known),
        [reading("ab", confidence) for confidence in real],
    )


def warnings(
    real: list[str], alphabet: str = ALPHABET, known: tuple[tuple[str, str], ...] = ()
) -> list[str]:
    """Of one reader's texts of real images, and of known ones: (truth, read)."""
    estimate = Estimate(0.9, 0.8, 1.0, 0.9)
    diagnosis = diagnose(
        [reading(text) for text in real],
        [reading(text) for _, text in known],
        [truth for truth, _ in known],
        {"read": estimate},
        "read",
        alphabet,
    )
    assert json.loads(json.dumps(diagnosis, allow_nan=False)) == diagnosis
    return list(diagnosis["warnings"])


def random_texts(count: int, seed: int, weights: dict[str, float] | None = None) -> list[str]:
    """Four characters each, alike likely but for those of other weights than 1."""
    each = np.array([(weights or {}).get(character, 1.0) for character in ALPHABET])
    drawn = np.random.default_rng(seed).choice(len(ALPHABET), (count, 4), p=each / each.sum())
    return ["".join(ALPHABET[number] for number in row) for row in drawn]


# The estimate.


@given(KNOWN, REAL)
def test_the_estimate_is_in_its_interval_and_all_are_shares(
    known: list[tuple[bool, float]], real: list[float]
) -> None:
    found = estimated(known, real)
    assert 0 <= found.low <= found.accuracy <= found.high <= 1
    assert found.known_accuracy is not None
    assert found.low <= found.known_accuracy <= found.high
    assert found.low <= sum(real) / len(real)
    assert found.known_accuracy == pytest.approx(sum(right for right, _ in known) / len(known))


@given(KNOWN)
def test_equal_confidence_gives_equal_accuracy(known: list[tuple[bool, float]]) -> None:
    found = estimated(known, [confidence for _, confidence in known])
    assert found.accuracy == pytest.approx(found.known_accuracy)


@given(KNOWN, REAL, st.floats(0, 0.5))
def test_lower_confidence_on_real_images_gives_lower_accuracy(
    known: list[tuple[bool, float]], real: list[float], less: float
) -> None:
    found = estimated(known, [max(0.0, confidence - less) for confidence in real])
    assert found.accuracy <= estimated(known, real).accuracy + 1e-12


def test_a_perfect_recognizer() -> None:
    found = estimated([(True, 1.0)] * 3000, [1.0] * 5000)
    assert found.accuracy == found.known_accuracy == found.high == 1
    assert 0.998 < found.low < 1  # three thousand successes do not show that there is no failure


def test_few_images_give_a_wide_interval() -> None:
    few, many = (estimated([(True, 1.0)] * n, [1.0] * n) for n in (5, 500))
    assert few.low < 0.6 < 0.99 < many.low


def test_overconfidence_on_known_images_is_subtracted() -> None:
    # Half of the known images are right, and confidences are equal on known and real images.
    found = estimated([(True, 0.99), (False, 0.99)] * 500, [0.99] * 1000)
    assert found.accuracy == pytest.approx(0.5)
    assert found.high < 0.55


def simulated(
    generator: np.random.Generator, sureness: tuple[float, float], too_sure: float, count: int
) -> list[tuple[bool, float]]:
    """Readings whose accuracy is the confidence minus ``too_sure``."""
    sure = generator.beta(*sureness, count)
    right = generator.random(count) < np.clip(sure - too_sure, 0, 1)
    return list(zip(right.tolist(), sure.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("of_known", "of_real", "too_sure"),
    [
        ((20, 0.6), (20, 0.6), 0.0),  # 97 % on both: no gap
        ((20, 0.6), (20, 1.2), 0.0),  # to 94 %
        ((20, 0.6), (10, 1.2), 0.0),  # to 89 %
        ((20, 0.6), (20, 1.2), 0.03),  # 94 % to 91 %, and too sure of itself on both
    ],
)
def test_on_a_simulated_gap_the_estimate_is_near_the_truth(
    of_known: tuple[float, float], of_real: tuple[float, float], too_sure: float, seed: int
) -> None:
    generator = np.random.default_rng([seed, 5])
    known = simulated(generator, of_known, too_sure, 3000)
    real = simulated(generator, of_real, too_sure, 5000)
    truth = sum(right for right, _ in real) / len(real)
    found = estimated(known, [confidence for _, confidence in real])
    assert abs(found.accuracy - truth) < 0.015


def test_the_interval_nearly_always_contains_the_truth() -> None:
    held = 0
    for seed in range(60):
        generator = np.random.default_rng([seed, 6])
        known, real = (simulated(generator, (20, 0.8), 0.0, count) for count in (300, 500))
        found = estimated(known, [confidence for _, confidence in real])
        held += found.low <= sum(right for right, _ in real) / len(real) <= found.high
    assert held >= 54


def test_an_invalid_interval_is_refused() -> None:
    for values in ((0.5, 0.6, 0.7, 0.5), (0.5, 0.4, math.nan, 0.5), (1.2, 0.4, 1.3, 0.5)):
        with pytest.raises(ValueError, match="low <= accuracy <= high"):
            Estimate(*values)


# Shares of characters.


@given(st.lists(st.text("abcd", max_size=6), max_size=30))
def test_shares_of_characters_are_relative_to_all_characters(texts: list[str]) -> None:
    shares = character_shares([reading(text) for text in texts], "abcd")
    assert list(shares) == list("abcd")
    together = "".join(texts)
    assert sum(shares.values()) == pytest.approx(1 if together else 0)
    for character, share in shares.items():
        assert share * len(together) == pytest.approx(together.count(character))


def test_rare_and_frequent_characters_give_warnings() -> None:
    found = warnings(random_texts(20_000, 1, {"g": 0.04, "q": 1.9}))
    assert len(found) == 2
    starved, swollen = found
    assert starved.startswith("'g' is read 0.1")
    assert "% of the time, 2.78% expected: less than chance allows" in starved
    assert "calibrate/glyphs.png" in starved
    assert swollen.startswith("'q' is read 5.")
    assert "2.78% expected: more than chance allows" in swollen


def test_a_character_that_is_never_read_gives_a_warning() -> None:
    (sentence,) = warnings(random_texts(2_000, 2, {"g": 0.0}))
    assert sentence.startswith("'g' is read 0.00% of the time")


def test_a_warning_names_likely_confusions() -> None:
    texts = random_texts(20_000, 3, {"l": 0.5, "i": 1.5})
    known = (("llll", "lill"), ("l1ab", "i1ab"), ("lcab", "icab"), ("iiab", "liab"))
    by_character = {sentence[1]: sentence for sentence in warnings(texts, known=known)}
    assert by_character.keys() == {"i", "l"}
    assert by_character["l"].endswith("it is easily confused with 'i'")
    assert by_character["i"].endswith("it is easily confused with 'l'")


@pytest.mark.parametrize("count", [1, 2, 3, 10, 30, 100, 1_000, 20_000])
def test_balanced_characters_give_no_warning(count: int) -> None:
    for seed in range(1 if count == 20_000 else 20):
        assert warnings(random_texts(count, seed)) == []


def test_a_small_difference_gives_no_warning() -> None:
    # A share of 51 % in 100,000 characters is significant, but too small for a warning.
    assert warnings(["ab"] * 49_000 + ["aa"] * 1_000, "ab") == []
    assert len(warnings(["ab"] * 45_000 + ["aa"] * 5_000, "ab")) == 2


def test_no_readings_give_no_warnings() -> None:
    assert warnings([]) == []
    assert warnings([""]) == []


def test_a_repeated_text_gives_warnings() -> None:
    assert {sentence[1] for sentence in warnings(["abca"] * 10)} >= set("abc")


# Confusions.


def test_confusions_by_hand() -> None:
    known = [("ab", "ab")] * 6 + [("ab", "cb")] * 3 + [("ba", "da")] * 2 + [("ad", "ca")]
    found = known_confusions([reading(text) for _, text in known], [truth for truth, _ in known])
    # 'b' was taken for 'd' twice only; 'a' for 'c' four times of twelve.
    assert found == [{"truth": "a", "read": "c", "share": pytest.approx(4 / 12)}]


@given(st.lists(st.tuples(st.text("abc", max_size=4), st.text("abc", max_size=4)), max_size=80))
def test_confusions_agree_with_counting(pairs: list[tuple[str, str]]) -> None:
    found = known_confusions([reading(text) for _, text in pairs], [truth for truth, _ in pairs])
    aligned = [
        couple
        for truth, text in pairs
        if len(truth) == len(text)
        for couple in zip(truth, text, strict=True)
    ]
    named = {(c["truth"], c["read"]): c["share"] for c in found}
    for true in "abc":
        for read in "abc":
            count = aligned.count((true, read))
            if true == read or count < FEWEST_OF_PAIR:
                assert (true, read) not in named
            else:
                of_all = sum(couple[0] == true for couple in aligned)
                assert named[true, read] == pytest.approx(count / of_all)


def test_readings_with_a_wrong_length_are_wrong_and_give_no_confusions() -> None:
    known = [reading("abc"), reading(""), reading("ab"), reading("ab")]
    assert known_confusions(known, ["ab", "ab", "ab", "abcd"]) == []
    assert estimate_accuracy(known, ["ab", "ab", "ab", "abcd"], known).known_accuracy == 0.25


# Which reader is kept.


@pytest.mark.parametrize("read", [0.91, 0.88])
def test_later_training_without_improvement_gives_a_warning(read: float) -> None:
    estimates = {"read": Estimate(read, 0.8, 1.0, 0.9), "adapt": Estimate(0.88, 0.8, 1.0, 0.9)}
    (sentence,) = diagnose([], [], [], estimates, "read", ALPHABET)["warnings"]
    assert "the reader of adapt is estimated to read 88.0% right" in sentence
    assert f"that of read {read:.1%}" in sentence
    assert "did not improve it and is not used" in sentence


def test_a_warning_explains_why_the_higher_estimate_does_not_decide() -> None:
    estimates = {"distill": Estimate(0.52, 0.2, 0.8), "adapt": Estimate(0.68, 0.6, 0.8, 0.7)}
    (sentence,) = diagnose([], [], [], estimates, "distill", ALPHABET)["warnings"]
    assert "is estimated to read 68.0% right, that of distill 52.0%" in sentence
    assert "judged by each other's readings, it is the worse one and is not used" in sentence


def test_an_improvement_gives_no_warning() -> None:
    estimates = {"read": Estimate(0.88, 0.8, 1.0, 0.9), "adapt": Estimate(0.91, 0.8, 1.0, 0.9)}
    diagnosis = diagnose([], [], [], estimates, "adapt", ALPHABET)
    assert diagnosis["warnings"] == []
    assert diagnosis["kept"] == "adapt"
    assert diagnosis["estimates"]["adapt"]["accuracy"] == 0.91


def test_a_run_keeps_the_better_recognizer(tmp_path: Path) -> None:
    """Whichever recognizer comes first, the better one is kept, with the same readings."""
    write_challenges(tmp_path / "challenges", draw_captchas())
    run = tmp_path / "run"
    pipeline(run, tmp_path / "challenges")
    first, readings = read_diagnosis(run), load_readings(run / READINGS)
    accuracies = {stage: of["accuracy"] for stage, of in first["estimates"].items()}
    assert len(set(accuracies.values())) == 2, "nothing to choose between"
    assert first["kept"] == max(accuracies, key=lambda stage: accuracies[stage])

    shutil.move(run / "read", run / "was-read")
    shutil.move(run / "adapt", run / "read")
    shutil.move(run / "was-read", run / "adapt")
    told: list[str] = []
    data = RunData(run, small_config(), SEED, Fabric(accelerator="cpu", devices=1), told.append)
    read_captchas(data, run / "readings", lambda *_: None)
    second = read_diagnosis(run)
    other: dict[str, Any] = {"read": "adapt", "adapt": "read"}
    assert second["kept"] == other[first["kept"]]
    for stage, estimate in first["estimates"].items():
        assert second["estimates"][other[stage]] == pytest.approx(estimate)
    for now, before in zip(load_readings(run / READINGS), readings, strict=True):
        assert (now.name, now.text) == (before.name, before.text)
    said = {
        diagnosis["kept"]: any("is not used" in text for text in diagnosis["warnings"])
        for diagnosis in (first, second)
    }
    assert said == {"read": True, "adapt": False}
    assert told == second["warnings"]


# Of distilled readers.


def test_the_estimate_of_a_distilled_reader_has_the_constants_that_were_measured() -> None:
    file = Path(__file__).parents[2] / "benchmarks" / "results" / "estimate_calibration.json"
    fit, rows = (json.loads(file.read_text())[key] for key in ("fit", "rows"))
    for row in rows:
        middle = fit["shift"] + fit["slope"] * logit(row["taught"])
        expected = [
            1 / (1 + math.exp(-(middle + side))) for side in (0, -fit["below"], fit["above"])
        ]
        if row["taught"] >= 0.995:
            expected[2] = 1
        found = estimate_from_confidence(row["taught"])
        assert [found.accuracy, found.low, found.high] == pytest.approx(expected)


def test_a_distilled_reader_of_a_less_confident_teacher_is_estimated_lower() -> None:
    accuracies = [estimate_from_confidence(share).accuracy for share in (0.1, 0.3, 0.6, 0.9, 1.0)]
    assert accuracies == sorted(set(accuracies))
    certain = estimate_from_confidence(1.0)
    assert certain.accuracy < 1  # a teacher may be sure of a mistake
    assert certain.high == 1  # nothing shows that there is one
    assert estimate_from_confidence(0.9).high < 1


def test_the_better_of_two_recognizers_is_found_if_their_confidences_are_right() -> None:
    """The first reads a half right, and does not know which; the second three quarters."""
    truths = ["ab", "cd", "ef", "gh"] * 50
    first = [("xx" if number % 2 else text, 0.5) for number, text in enumerate(truths)]
    second = [("yy", 0.1) if number % 4 == 3 else (text, 0.9) for number, text in enumerate(truths)]
    assert first_is_better(second, first)
    assert not first_is_better(first, second)
    assert first_is_better(first, [("", 0.0)] * len(first)) is None
