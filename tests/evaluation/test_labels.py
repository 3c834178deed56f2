import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha.errors import RunError, UsageError
from simgan_captcha.evaluation.labels import (
    MAX_LABELS_BYTES,
    labels_in_names,
    match_labels,
    read_labels_csv,
    taught_names,
)
from simgan_captcha.pipeline.lesson import TAUGHT_NAMES


def _csv(folder: Path, content: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "name,label\na,xy\nb,z\n",
        "\ufeffname,label\r\na,xy\r\n\r\nb,z\r\n",
        'name,label\n"a","xy"\nb,z\nb,z',
    ],
)
def test_labels_are_read(tmp_path: Path, content: str) -> None:
    assert read_labels_csv(_csv(tmp_path, content)) == {"a": "xy", "b": "z"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the header name,label, got nothing"),
        ("a,xy\n", "expected the header name,label, got 'a,xy'"),
        ("name:label\na:xy\n", "expected the header name,label, got 'name:label'"),
        ("name,label\n", "at least one label"),
        ("name,label\na,xy\na,xz\n", "line 3: 'a' already has the label 'xy', got 'xz'"),
        ("name,label\na\n", "line 2: expected a name and a label, got 'a'"),
        ("name,label\na,\n", "line 2: expected a name and a label, got 'a,'"),
        ("name,label\na,b,c\n", "line 2: expected a name and a label, got 'a,b,c'"),
        ('name,label\n"a"b,c\n', "line 2: expected comma-separated values"),
        (b"name,label\n\xff\xfe,ab\n", "expected UTF-8, got another byte at 11"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_labels_csv(_csv(tmp_path, content))


def test_missing_and_oversized_label_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_labels_csv(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="directory"):
        read_labels_csv(tmp_path)
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(MAX_LABELS_BYTES + 1)
    with pytest.raises(UsageError, match="expected at most 64000000 bytes"):
        read_labels_csv(large)


@given(st.binary(max_size=200))
def test_hostile_label_files_give_labels_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = _csv(tmp_path_factory.mktemp("labels"), b"name,label\n" + content)
    try:
        labels = read_labels_csv(path)
    except UsageError:
        return
    assert labels
    assert all(name and label for name, label in labels.items())


@pytest.mark.parametrize(
    "text",
    [
        "name,label\na,xy\nb,z\n",
        "name;label\r\na;xy\r\nb;z\r\n",
        "Name\tLABEL\na\txy\nb\tz",
        '"Name","Label"\na,xy\nb,"z"\n',
        "name,label\ra,xy\rb,z\r",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_what_spreadsheet_programs_write_is_read(tmp_path: Path, text: str, encoding: str) -> None:
    path = _csv(tmp_path, text.encode(encoding))
    assert read_labels_csv(path) == {"a": "xy", "b": "z"}


def test_a_separator_inside_a_label_is_part_of_it(tmp_path: Path) -> None:
    assert read_labels_csv(_csv(tmp_path, "name;label\na;x,y\n")) == {"a": "x,y"}


def test_names_without_an_extension_are_matched_where_one_fits() -> None:
    names = ["a.jpg", "b.PNG", "c.jpg", "c.png", "d", "e.jpg", "v1.2"]
    given = {"a": "1", "in/b.bmp": "2", "c": "3", "d.jpg": "4", "e.jpg": "5", "f": "6", "v1": "7"}
    found = match_labels(given, names)
    assert found.labels == {
        "a.jpg": "1",
        "b.PNG": "2",
        "c": "3",  # of c.jpg or of c.png
        "d": "4",
        "e.jpg": "5",
        "f": "6",
        "v1": "7",  # what follows a point need not be an extension
    }
    assert found.ambiguous == 1


def test_two_labels_that_fit_one_reading_fit_none() -> None:
    found = match_labels({"a": "1", "a.png": "2"}, ["a.jpg"])
    assert found.labels == {"a": "1", "a.png": "2"}
    assert found.ambiguous == 2
    exact = match_labels({"a": "1", "a.jpg": "2"}, ["a.jpg"])
    assert exact.labels == {"a.jpg": "2", "a": "1"}


@given(
    st.dictionaries(st.text("ab./jpg", min_size=1), st.text(min_size=1), max_size=8),
    st.lists(st.text("ab./jpg", min_size=1), unique=True, max_size=8),
)
def test_every_label_is_kept_under_one_name(labels: dict[str, str], names: list[str]) -> None:
    found = match_labels(labels, names)
    assert sorted(found.labels.values()) == sorted(labels.values())
    assert all(found.labels[name] == labels[name] for name in names if name in labels)


@pytest.mark.parametrize(
    ("pattern", "name", "label"),
    [
        ("{label}_*.png", "a1z9_03_x.png", "a1z9"),
        ("*-{label}.jpg", "17-ab.jpg", "ab"),
        ("{label}.png", "a+b.png", "a+b"),
        ("[{label}].png", "[ab].png", "ab"),
    ],
)
def test_labels_in_names(pattern: str, name: str, label: str) -> None:
    assert labels_in_names([name, "another"], pattern) == {name: label}


def test_patterns_that_name_no_label_or_fit_nothing_are_refused() -> None:
    for pattern in ("*.png", "{label}{label}.png", ""):
        with pytest.raises(UsageError, match=r"expected a pattern with one \{label\}"):
            labels_in_names(["a.png"], pattern)
    with pytest.raises(UsageError, match=r"got 4 others \(a, b, c, …\)"):
        labels_in_names(["a", "b", "c", "d"], "{label}_*.png")


def test_names_of_taught_images(tmp_path: Path) -> None:
    assert taught_names(tmp_path) == frozenset()
    (tmp_path / TAUGHT_NAMES).parent.mkdir()
    (tmp_path / TAUGHT_NAMES).write_text(json.dumps(["a", "b"]))
    assert taught_names(tmp_path) == {"a", "b"}
    for damaged in ("[", "{}", "[1]", "[" * 100_000):
        (tmp_path / TAUGHT_NAMES).write_text(damaged)
        with pytest.raises(RunError, match="it is damaged"):
            taught_names(tmp_path)
