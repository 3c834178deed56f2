import csv
import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha.atomic import file_hash
from simgan_captcha.errors import RunError, SchemeError
from simgan_captcha.evaluation.judge import judge
from simgan_captcha.evaluation.labels import read_labels_csv
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.run_folder import READINGS
from simgan_captcha.web import corrections
from simgan_captcha.web.corrections import FILE, Corrections, labels_csv
from simgan_captcha.web.gallery import captcha_key
from tests.small_run import SCHEME, pipeline
from tests.web.serving import asking, serving
from tests.web.test_read_api import a_problem


def test_saved_corrections_are_loaded(tmp_path: Path) -> None:
    assert Corrections(tmp_path).texts() == {}
    assert Corrections(tmp_path).put("one", "ab", SCHEME) == 1
    assert Corrections(tmp_path).put("../two\n", "1c", SCHEME) == 2
    assert Corrections(tmp_path).put("one", "bb", SCHEME) == 2
    assert Corrections(tmp_path).texts() == {"one": "bb", "../two\n": "1c"}
    assert Corrections(tmp_path).put("one", None, SCHEME) == 1
    assert Corrections(tmp_path).put("never", None, SCHEME) == 1
    assert Corrections(tmp_path).texts() == {"../two\n": "1c"}
    assert sorted(path.name for path in (tmp_path / FILE).parent.glob("[!.]*")) == [FILE.name]


@pytest.mark.parametrize("text", ["", "a", "abc", "aZ", "a\0", "a\ud800"])
def test_a_text_outside_the_scheme_is_refused(tmp_path: Path, text: str) -> None:
    Corrections(tmp_path).put("one", "ab", SCHEME)
    with pytest.raises(SchemeError):
        Corrections(tmp_path).put("one", text, SCHEME)
    assert Corrections(tmp_path).texts() == {"one": "ab"}


@pytest.mark.parametrize(
    "damage", ["{", "[]", "{}", '{"texts": ["a"]}', '{"texts": {"a": 1}}', "\xff"]
)
def test_a_damaged_file_is_reported_and_not_overwritten(tmp_path: Path, damage: str) -> None:
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_bytes(damage.encode("latin-1"))
    for act in (
        lambda: Corrections(tmp_path).texts(),
        lambda: Corrections(tmp_path).put("one", "ab", SCHEME),
    ):
        with pytest.raises(RunError, match="repair it or move it away"):
            act()
    assert (tmp_path / FILE).read_bytes() == damage.encode("latin-1")


def test_concurrent_corrections_are_all_saved(tmp_path: Path) -> None:
    def keep(number: int) -> None:
        Corrections(tmp_path).put(str(number), "ab", SCHEME)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(keep, range(40)))
    assert Corrections(tmp_path).texts().keys() == {str(number) for number in range(40)}


def test_a_locked_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrections, "_LOCK_SECONDS", 0.1)
    (tmp_path / FILE).parent.mkdir()
    with (
        FileLock((tmp_path / FILE).with_name(".lock")),
        pytest.raises(RunError, match="another process has locked it"),
    ):
        Corrections(tmp_path).put("one", "ab", SCHEME)


def test_a_folder_without_write_access_is_reported(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.write_text("a file where the folder should be")
    with pytest.raises(RunError, match="expected to write"):
        Corrections(tmp_path).put("one", "ab", SCHEME)


# Texts that a Parquet column can hold.
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(texts=st.dictionaries(names, st.text("abc1", min_size=2, max_size=2), min_size=1))
def test_judging_reads_the_csv(
    tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    path.write_bytes(labels_csv(texts).encode())
    assert read_labels_csv(path) == texts


def test_correct_confirm_forget_and_export_over_http(run: Path) -> None:
    before = {path: file_hash(path) for path in run.rglob("*") if path.is_file()}
    readings = load_readings(run / READINGS)
    first, second, third = readings[:3]
    with serving(run) as address, asking(address) as client:

        def put(name: str, text: str) -> httpx.Response:
            return client.put(f"/api/corrections/{captcha_key(name)}", json={"text": text})

        assert put(first.name, "1a").json() == {"reading": first.text, "text": "1a", "total": 1}
        assert put(second.name, second.text).json()["total"] == 2
        assert put(third.name, "bb").json()["total"] == 3
        forgotten = client.delete(f"/api/corrections/{captcha_key(third.name)}").json()
        assert forgotten == {"reading": third.text, "text": None, "total": 2}
        export = client.get("/api/corrections.csv")
    assert export.headers["content-type"].startswith("text/csv")
    rows = list(csv.reader(io.StringIO(export.text, newline="")))
    assert rows == [["name", "label"], [first.name, "1a"], [second.name, second.text]]

    # The file is separate from the readings.
    after = {path: file_hash(path) for path in run.rglob("*") if path.is_file()}
    assert {path.relative_to(run) for path in after.keys() - before.keys()} == {
        FILE,
        FILE.with_name(".lock"),
    }
    assert all(after[path] == digest for path, digest in before.items())

    labels = run / "labels.csv"
    labels.write_bytes(export.content)
    names, texts = [r.name for r in readings], [r.text for r in readings]
    judgement = judge(names, texts, read_labels_csv(labels), SCHEME.alphabet)
    assert (judgement.images, judgement.unread) == (2, 0)


def test_an_invalid_correction_is_a_problem(run: Path) -> None:
    key = captcha_key(load_readings(run / READINGS)[0].name)
    with serving(run) as address, asking(address) as client:
        for body, part in (
            ({"text": "abc"}, "expected a text of 2 characters"),
            ({"text": "zz"}, "lacks"),
            ({"text": 12}, "body.text"),
            ({"text": None}, "body.text"),
            ({}, "body.text"),
            ({"text": "ab", "more": 1}, "body.more"),
            ([], "body"),
        ):
            a_problem(client.put(f"/api/corrections/{key}", json=body), 422, part)
        deep = b"[" * 100_000
        headers = {"Content-Type": "application/json"}
        reply = client.put(f"/api/corrections/{key}", content=deep, headers=headers)
        a_problem(reply, reply.status_code)
        assert reply.status_code in (400, 422)
        for other in ("0" * 64, "..%2Freadings", "x", "%00", "🙂" * 40):
            reply = client.put(f"/api/corrections/{other}", json={"text": "ab"})
            a_problem(reply, 404)
    assert not (run / FILE).exists()


def test_corrections_in_the_folder_do_not_change_a_run(tmp_path: Path, made: Path) -> None:
    """Corrections are labels of real images, so a new run in the same folder must not use them."""
    run = shutil.copytree(made, tmp_path / "run")
    challenges = made.parent / "challenges"
    kept = Corrections(run)
    for reading in load_readings(run / READINGS):
        kept.put(reading.name, "1b", SCHEME)
    for stage in ("adapt", "readings"):
        shutil.rmtree(run / stage)
    pipeline(run, challenges)
    for name in ("readings.parquet", "diagnosis.json"):
        assert file_hash(run / "readings" / name) == file_hash(made / "readings" / name)
    assert set(json.loads((run / FILE).read_text())["texts"].values()) == {"1b"}
