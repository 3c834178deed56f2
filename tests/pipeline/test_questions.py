"""Which images a person is asked about."""

from simgan_captcha.inference.readings import Reading
from simgan_captcha.pipeline.questions import most_useful


def reading(name: str, text: str, *probabilities: float) -> Reading:
    confidence = 1.0
    for probability in probabilities:
        confidence *= probability
    return Reading(name, text, confidence, probabilities)


def test_frequent_confusions_come_first_and_are_not_asked_again_and_again() -> None:
    """'0' and 'o' are confused in five images, '1' and 'l' in two; one character is doubtful."""
    readings = [reading(f"o{n}", "0a", 0.99, 0.99) for n in range(5)]
    readings += [reading(f"l{n}", "1a", 0.99, 0.99) for n in range(2)]
    readings += [reading("single", "xa", 0.4, 0.99)]
    readings += [reading(f"sure{n}", "aa", 1.0, 1.0) for n in range(9)]
    second = {f"o{n}": "oa" for n in range(5)} | {f"l{n}": "la" for n in range(2)}
    chosen = most_useful(readings, second, set(), 8)
    assert [name[0] for name in chosen[:3]] == ["o", "o", "l"]
    assert {name[0] for name in chosen} == {"o", "l", "s"}
    assert chosen[:8].count("single") == 1
    assert not any(name.startswith("sure") for name in chosen)


def test_an_image_is_never_asked_about_twice() -> None:
    readings = [reading(f"i{n}", "ab", 0.5, 0.9) for n in range(6)]
    chosen = most_useful(readings, {}, {"i0", "i3"}, 10)
    assert sorted(chosen) == ["i1", "i2", "i4", "i5"]


def test_without_doubts_the_least_probable_texts_are_asked_about() -> None:
    readings = [reading(f"i{n}", "ab", 0.95 + n / 100, 0.99) for n in range(4)]
    assert most_useful(readings, {}, set(), 2) == ["i0", "i1"]


def test_a_reading_of_another_length_is_a_doubt() -> None:
    readings = [reading("a", "ab", 0.99, 0.99), reading("b", "ab", 0.99, 0.99)]
    assert most_useful(readings, {"a": "ab", "b": "abc"}, set(), 1) == ["b"]
