"""The command read with constraints, alternatives, marks of uncertain readings, and the alarm."""

import csv
import io
import json
import re
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from simgan_captcha import Reader
from simgan_captcha.inference.reader import ImageReader
from simgan_captcha.inference.readings import Reading
from simgan_captcha.recognizer.decode import read_probabilities, recognizer
from tests.commands import command
from tests.inference.test_reader import FILES, GREY, NETWORK, OWN, export_with_family
from tests.small_run import SCHEME, shaded

PATTERN = "[ab]1"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_with_family(tmp_path_factory.mktemp("exported") / "reader.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    for number, data in enumerate(FILES):
        (path / f"{number:02d}.jpg").write_bytes(data)
    return path


def test_every_text_satisfies_the_constraints(exported: Path, folder: Path) -> None:
    done = command("read", exported, folder, "--pattern", PATTERN, "--json")
    rows = json.loads(done.out)["readings"]
    assert (done.code, done.err, len(rows)) == (0, "", len(FILES))
    assert all(re.fullmatch(PATTERN, row["text"]) for row in rows)
    done = command("read", exported, folder, "--alphabet", "bc", "--length", "1-2", "--json")
    assert all(set(row["text"]) <= set("bc") for row in json.loads(done.out)["readings"])
    assert "alternatives" not in rows[0]
    assert "uncertain" not in rows[0]


def test_a_file_reads_the_same_under_constraints_as_torch(exported: Path) -> None:
    probabilities = partial(read_probabilities, NETWORK, shaded())
    own = ImageReader(SCHEME, recognizer(NETWORK, shaded()), probabilities)
    in_torch = own.read(list(FILES), pattern=PATTERN, top=2)
    by_file = Reader(exported).read(list(FILES), pattern=PATTERN, top=2)
    for one, other in zip(in_torch, by_file, strict=True):
        assert isinstance(one, Reading)
        assert isinstance(other, Reading)
        assert one.text == other.text
        assert one.alternatives[0].text == other.alternatives[0].text
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


def test_the_next_texts_are_in_every_format(exported: Path, folder: Path, tmp_path: Path) -> None:
    options: list[str | Path] = [exported, folder, "--top", "3"]
    rows = json.loads(command("read", *options, "--json").out)["readings"]
    assert [row["text"] for row in rows] == [reading.text for reading in OWN]
    assert all(len(row["alternatives"]) == 2 for row in rows)
    table = list(csv.DictReader(io.StringIO(command("read", *options, "--csv").out)))
    assert [row["text_3"] for row in table] == [row["alternatives"][1]["text"] for row in rows]
    line = command("read", *options).out.splitlines()[0]
    assert f"  or {rows[0]['alternatives'][0]['text']}  " in line
    path = tmp_path / "out.parquet"
    assert command("read", *options, "--parquet", path).code == 0
    assert [r["alternatives"] for r in pq.read_table(path).to_pylist()] == [
        row["alternatives"] for row in rows
    ]


def test_uncertain_readings_are_marked_and_counted(
    exported: Path, folder: Path, tmp_path: Path
) -> None:
    least = sorted(reading.confidence for reading in OWN)[10]
    (tmp_path / "x.jpg").write_bytes(b"no image")
    options: list[str | Path] = [exported, folder, tmp_path / "x.jpg"]
    options += ["--min-confidence", f"{least:.9f}"]
    done = command("read", *options, "--json")
    *rows, broken = json.loads(done.out)["readings"]
    expected = [row["confidence"] < float(f"{least:.9f}") for row in rows]
    assert [row["uncertain"] for row in rows] == expected
    assert set(broken) == {"name", "error"}
    assert done.code == 1  # because of the broken image alone
    count = sum(expected)
    assert f"warning: {count} of 40 readings are uncertain: their confidence is below" in done.err
    table = list(csv.DictReader(io.StringIO(command("read", *options, "--csv").out)))
    assert [row["uncertain"] == "true" for row in table[:-1]] == expected
    lines = command("read", *options).out.splitlines()
    assert [line.endswith("  uncertain") for line in lines] == expected
    path = tmp_path / "out.parquet"
    command("read", *options, "--parquet", path)
    assert [r["uncertain"] for r in pq.read_table(path).to_pylist()] == [*expected, None]
    assert command("read", exported, folder, "--min-confidence", "0.0").err == ""


def test_images_of_another_family_are_reported(
    exported: Path, folder: Path, tmp_path: Path
) -> None:
    for number, grey in enumerate(GREY[:12]):
        Image.fromarray(255 - grey).save(tmp_path / f"{number}.png")
    done = command("read", exported, tmp_path)
    assert done.code == 0
    (line,) = done.err.splitlines()
    assert re.match(r"warning: these images may be of another captcha family .* of 12 images", line)
    assert command("read", exported, folder).err == ""


def test_constraints_that_cannot_be_are_one_line(exported: Path, folder: Path) -> None:
    for given, options in {
        "leave this out, or learn": ["--alphabet", "abz"],
        "expected a length of 2, which the reader reads, got 3": ["--length", "3"],
        "a group is not closed": ["--pattern", "(a"],
        "a pattern that some text matches": ["--pattern", "abc"],
    }.items():
        command("read", exported, folder, *options).error(2, given)
    command("read", folder, "--pattern", "ä").error(2, "ä is none of the characters")
    assert command("read", exported, folder, "--top", "0").code == 2
    assert command("read", exported, folder, "--min-confidence", "2").code == 2


def test_the_generalist_reads_under_the_same_constraints(folder: Path) -> None:
    done = command("read", folder, "--pattern", PATTERN, "--top", "2", "--json")
    for row in json.loads(done.out)["readings"]:
        texts = [row["text"], *(other["text"] for other in row["alternatives"])]
        assert sorted(texts) == ["a1", "b1"]
    done = command("read", folder, "--length", "30")
    assert done.code == 1
    assert "expected an image wide enough" in done.err
