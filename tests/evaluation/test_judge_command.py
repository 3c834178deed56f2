"""The command `judge`: forms of labels, taught images, and folders that are not writable."""

import json
from pathlib import Path

import pytest

from simgan_captcha.evaluation.judge import Truth, judge_run
from simgan_captcha.inference.readings import Reading, save_readings
from simgan_captcha.pipeline.lesson import TAUGHT_NAMES
from simgan_captcha.pipeline.run_folder import JUDGEMENT, READINGS
from simgan_captcha.scheme import Scheme
from tests.commands import command, recorded

TEXTS = {f"i{number}.png": f"ab{number:02d}" for number in range(20)}
WRONG = "i3.png"


def readings() -> list[Reading]:
    return [
        Reading(name, "zzzz" if name == WRONG else text, 0.9, (0.9, 1.0, 1.0, 1.0))
        for name, text in TEXTS.items()
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    recorded(tmp_path / "run", "a folder")
    save_readings(tmp_path / "run" / READINGS, readings())
    return tmp_path / "run"


def write_labels(run: Path, rows: dict[str, str]) -> Path:
    path = run.parent / "labels.csv"
    path.write_text("\n".join(["Name;Label", *(f"{name};{text}" for name, text in rows.items())]))
    return path


def test_what_found_no_partner_is_counted_and_named(run: Path) -> None:
    rows = {name.removesuffix(".png"): text for name, text in list(TEXTS.items())[:10]}
    labels = write_labels(run, {**rows, "u1": "abcd", "u2": "abcd", "u3": "abcd", "u4": "abcd"})
    done = command("judge", run, "--labels", labels)
    assert done.code == 0, done.err
    assert "10 images: 90.00% of captchas right" in done.out
    assert "labels without a reading: 4 (u1, u2, u3, …)\n" in done.out
    assert "readings without a label: 10 (i10.png, i11.png, i12.png, …)\n" in done.out
    kept = json.loads((run / JUDGEMENT).read_text())
    assert (kept["unread_examples"], kept["unlabelled"]) == (["u1", "u2", "u3"], 10)
    whole = command("judge", run, "--labels", write_labels(run, TEXTS))
    assert "labels without a reading: none\nreadings without a label: none\n" in whole.out


def test_names_of_either_side_are_shown_where_none_fits(run: Path) -> None:
    done = command("judge", run, "--labels", write_labels(run, {"u\x1b1": "abcd"}))
    done.error(2, r"labels: u\\x1b1; readings: i0.png, i1.png, i2.png, …")


def test_by_the_names_of_the_images(run: Path) -> None:
    named = [Reading(f"{text}_{n}.png", text, 0.9, (1.0,) * 4) for n, text in enumerate(("abcd",))]
    save_readings(run / READINGS, [*named, *readings()])
    done = command("judge", run, "--labels-in-names", "{label}_*.png", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["images"], found["captcha_accuracy"], found["unlabelled"]) == (1, 1, 20)
    both = command("judge", run, "--labels-in-names", "{label}_*.png", "--user", "marty")
    both.error(2, "give one of them")


def test_case_is_ignored_if_asked(run: Path) -> None:
    labels = write_labels(run, {name: text.upper() for name, text in TEXTS.items()})
    command("judge", run, "--labels", labels).error(2, "lacks 'AB' .* --ignore-case")
    done = command("judge", run, "--labels", labels, "--ignore-case")
    assert done.code == 0, done.err
    assert "20 images: 95.00% of captchas right" in done.out
    assert "ignoring case" in done.out


def test_cases_that_both_stand_in_the_alphabet_count_as_one(tmp_path: Path) -> None:
    scheme = Scheme(alphabet="Aab0", equivalents=("0O",), length=2, width=40, height=20)
    read = [Reading("1", "Ab", 1.0, (1.0, 1.0)), Reading("2", "a0", 1.0, (1.0, 1.0))]
    truth = tmp_path / "l.csv"
    truth.write_text("name,label\n1,aB\n2,Ao\n")
    found = judge_run(tmp_path, read, scheme, Truth(labels=truth), ignore_case=True)
    assert found.captcha_accuracy == 1
    assert list(found.per_character) == ["A", "b", "0"]


def test_taught_images_are_left_out_in_words(run: Path) -> None:
    (run / TAUGHT_NAMES).parent.mkdir()
    (run / TAUGHT_NAMES).write_text(json.dumps([WRONG, "i4.png", "i19.png"]))
    rows = {name: text for name, text in TEXTS.items() if name != "i19.png"}
    done = command("judge", run, "--labels", write_labels(run, rows))
    assert "17 images: 100.00% of captchas right" in done.out
    assert "taught images left out: 2, as the run has learned from their labels" in done.out
    assert "labels without a reading: none" in done.out
    (run / TAUGHT_NAMES).write_text(json.dumps(list(TEXTS)))
    done = command("judge", run, "--labels", write_labels(run, rows))
    done.error(2, "all 20 were; nothing is left to judge by")


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_the_result_is_printed_where_it_cannot_be_kept(run: Path, as_json: list[str]) -> None:
    (run / "judge").write_text("no folder can be made here")
    done = command("judge", run, "--labels", write_labels(run, TEXTS), *as_json)
    done.error(1, "expected to keep the result in .*what is printed above is whole")
    if as_json:
        assert json.loads(done.out)["captcha_accuracy"] == 0.95
    else:
        assert "20 images: 95.00% of captchas right" in done.out
