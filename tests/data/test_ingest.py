"""Each batch is stored exactly once, also after kills and for damaged batches."""

import base64
import dataclasses
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simgan_captcha import HACKMIT_2017, SimganCaptchaError
from simgan_captcha.data import fetch as data_fetch
from simgan_captcha.data import folder as data_folder
from simgan_captcha.data.ingest import MAX_REASONS, ingest
from simgan_captcha.data.settings import DownloadSettings
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import DownloadError, StoreError, UsageError
from tests.data.downloading import (
    BAD_IMAGES,
    QUICK,
    assert_adds_up,
    batch,
    body,
    entry,
    fetch,
    ingest_folder,
    jpeg,
)
from tests.data.misbehaving_server import (
    MisbehavingServer,
    answer,
    endless_body,
    late,
    reset_in_body,
)

# Folders


def test_folder_in_natural_order_others_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    folder.mkdir()
    for n in (0, 1, 2, 10):
        (folder / f"challenge-{n}").write_bytes(body(batch(n)))
    (folder / "more.json").write_bytes(body(batch(11)))
    for name in ("README.md", "challenge-3.png", ".challenge-4", "notes"):
        (folder / name).write_bytes(body(batch(99)))
    (folder / "challenge-5").mkdir()

    first = ingest_folder(folder, tmp_path / "store", batches=3)
    assert first.files_ignored == 5
    assert sorted(CaptchaStore(tmp_path / "store").in_content_order().names) == [
        f"{n}-{i}" for n in (0, 1, 2) for i in range(3)
    ]
    rest = ingest_folder(folder, tmp_path / "store")
    assert (rest.batches_skipped, rest.batches_stored, rest.images_stored) == (3, 2, 15)


def test_folder_without_batches_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        ingest_folder(tmp_path / "nowhere", tmp_path / "store")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match="is another kind of file"):
        ingest_folder(tmp_path / "notes.txt", tmp_path / "store")
    with pytest.raises(UsageError, match=r"expected images .* challenge-\* .* none of 1 entries"):
        ingest_folder(tmp_path, tmp_path / "store")
    with pytest.raises(UsageError, match="at least 1 batch"):
        ingest_folder(tmp_path, tmp_path / "store", batches=0)
    assert not (tmp_path / "store").exists()


def test_an_invalid_file_goes_to_the_quarantine_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_folder, "MAX_BATCH_BYTES", 1_000_000)
    folder, store = tmp_path / "batches", tmp_path / "store"
    folder.mkdir()
    whole = body(batch(1))
    (folder / "challenge-0").write_bytes(body(batch(0)))
    (folder / "challenge-1").write_bytes(whole[: len(whole) // 2])
    (folder / "challenge-2").write_bytes(b" " * 1_000_001)
    report = ingest_folder(folder, store)
    assert (report.batches_stored, report.batches_failed, report.images_stored) == (1, 2, 3)
    assert "challenge-1: expected the JSON of a batch" in report.failures[0]
    assert "challenge-2: expected at most 1000000 bytes" in report.failures[1]
    (folder / "challenge-1").write_bytes(whole)
    mended = ingest_folder(folder, store)
    assert (mended.batches_skipped, mended.batches_stored, mended.images_stored) == (1, 1, 6)


def test_real_batches(tmp_path: Path, real_batches: Path) -> None:
    store = tmp_path / "store"
    patient = DownloadSettings()
    report = ingest(real_batches, store, scheme=HACKMIT_2017, user="", batches=2, settings=patient)
    assert_adds_up(report)
    assert (report.images_expected, report.images_stored, report.quarantined) == (2000, 2000, 0)
    first = json.loads((real_batches / "challenge-0").read_bytes())["images"][0]
    assert CaptchaStore(store).image(first["name"]) == base64.b64decode(first["jpg_base64"])


def test_a_disk_error_is_fatal_and_reported_once(server: MisbehavingServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of the store")
    for n in range(4):
        server.script(f"/challenge-{n}", answer(body(batch(n))))
    with pytest.raises(StoreError, match="the disk refused"):
        fetch(server, tmp_path / "file" / "store", batches=4)


def test_bad_images_are_counted_and_not_fatal(server: MisbehavingServer, tmp_path: Path) -> None:
    bad = [image for image, _ in BAD_IMAGES]
    server.script("/challenge-0", answer(body([*bad, *batch(0)])))
    report = fetch(server, tmp_path)
    assert (report.images_stored, report.quarantined) == (3, len(bad))
    assert sum(report.reasons.values()) == len(bad)
    assert sum(CaptchaStore(tmp_path).reasons().values()) == len(bad)
    assert fetch(server, tmp_path).quarantined == len(bad)


def test_hostile_names_are_labels_and_duplicates_are_resolved(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    names = ["../../x", "/etc/passwd", "nul \0", "🦄", "a" * 256, "CON", "\u202e"]
    entries = [entry(name, jpeg(i)) for i, name in enumerate(names)]
    server.script("/challenge-0", answer(body([*entries, entries[0]])))
    server.script("/challenge-1", answer(body([*entries, entry("🦄", jpeg(99)), *batch(1)])))
    one_by_one = QUICK.model_copy(update={"concurrency": 1})
    store = tmp_path / "deep" / "store"
    report = fetch(server, store, batches=2, settings=one_by_one)
    assert report.images_expected == 8 + 11
    assert (report.images_stored, report.duplicates, report.quarantined) == (10, 8, 1)
    assert CaptchaStore(store).image("🦄") == jpeg(3)
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"]
    assert {path.suffix for path in store.iterdir()} == {".parquet"}
    again = fetch(server, store, batches=2, settings=one_by_one)
    assert dataclasses.replace(again, batches_skipped=0, batches_stored=2) == report


def test_a_wrong_scheme_is_an_error_and_can_be_corrected(tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    folder.mkdir()
    (folder / "challenge-0").write_bytes(body(batch(0)))
    wide = HACKMIT_2017.model_copy(update={"width": 200})
    with pytest.raises(DownloadError, match=r"none of its 3 images .* 200x50 pixels, got 100x50"):
        ingest(folder, tmp_path / "store", scheme=wide, user="")
    assert ingest_folder(folder, tmp_path / "store").images_stored == 3
    assert sum(CaptchaStore(tmp_path / "store").reasons().values()) == 0


def quarantine(store: Path) -> list[tuple[str, str]]:
    """Names and reasons of all images that were set aside."""
    rows = [row for path in store.glob("quarantine-*") for row in pq.read_table(path).to_pylist()]
    return [(row["name"], row["reason"]) for row in rows if row["name"] is not None]


def test_every_misbehaviour_in_one_run(
    server: MisbehavingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every good captcha is stored exactly once, every bad one set aside with its reason."""
    drip = endless_body(b" ", pause=0.1)
    passing = [
        answer(b"oops", 500),
        answer(b"", 429, Retry_After="0"),
        reset_in_body(body(batch(0))),
        answer(body(batch(0))[:-20]),
        answer(b"<!DOCTYPE html><title>Welcome</title>", content_type="text/html"),
        drip,
        answer(b"", 302, Location="/moved"),
    ]
    lasting = [endless_body(b" " * 65536), answer(b"", 404), answer(b"", 302, Location="/loop")]
    server.script("/loop", answer(b"", 302, Location="/loop"))
    bad = [image for image, _ in BAD_IMAGES]
    every = len(passing)
    for n, trouble in enumerate(passing):
        # Its own captchas, a share of all bad images, and one captcha that all batches hold.
        held = body([*batch(n), *bad[n::every], entry("in all", jpeg(99))])
        server.script(f"/challenge-{n}", trouble, answer(held, content_type="text/plain"))
        if trouble is passing[-1]:
            server.script("/moved", answer(held))
    for n, trouble in enumerate(lasting, start=every):
        server.script(f"/challenge-{n}", trouble)
    monkeypatch.setattr(data_fetch, "_REQUEST_SECONDS", 5)
    batches = every + len(lasting)
    report = fetch(server, tmp_path, batches=batches)

    assert (report.batches_stored, report.batches_failed) == (every, len(lasting))
    assert (report.images_stored, report.duplicates) == (3 * every + 1, every - 1)
    assert report.quarantined == len(bad)
    stored = CaptchaStore(tmp_path).in_content_order()
    good = {f"{n}-{i}": jpeg(1000 * n + i) for n in range(every) for i in range(3)}
    assert len(stored.names) == len(good) + 1
    assert dict(zip(stored.names, stored.images, strict=True)) == {**good, "in all": jpeg(99)}
    aside = quarantine(tmp_path)
    assert len(aside) == len(bad)
    for _, reason in BAD_IMAGES:
        assert any(reason in given for _, given in aside), reason

    asked = server.requests.copy()
    for n in range(every, batches):
        server.script(f"/challenge-{n}", answer(body(batch(n))))
    mended = fetch(server, tmp_path, batches=batches)
    assert (mended.batches_skipped, mended.batches_stored) == (every, len(lasting))
    assert mended.images_stored == 3 * batches + 1
    assert server.requests - asked == {f"/challenge-{n}": 1 for n in range(every, batches)}


def test_counts_are_checked_against_the_files(tmp_path: Path) -> None:
    folder, store = tmp_path / "batches", tmp_path / "store"
    folder.mkdir()
    for n in range(2):
        (folder / f"challenge-{n}").write_bytes(body(batch(n)))

    def lose(done: int, *_: int) -> None:
        if done == 2:
            next(store.glob("part-*")).unlink()

    with pytest.raises(
        StoreError, match=r"expected BatchCounts\(stored=3, .* found None; no other"
    ):
        ingest(folder, store, scheme=HACKMIT_2017, user="", on_progress=lose)
    assert ingest_folder(folder, store).images_stored == 6


def test_the_number_of_reasons_is_limited(tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    folder.mkdir()
    bad = [entry("x" * (300 + i), jpeg(0)) for i in range(60)]
    bad += [entry(f"size {i}", jpeg(0, 5 * i, 50)) for i in range(2, 19)]
    bad += [entry(f"size {i}", jpeg(0, 100, 5 * i)) for i in range(2, 9)]
    (folder / "challenge-0").write_bytes(body(bad + batch(0)))
    report = ingest_folder(folder, tmp_path / "store")
    assert sum(report.reasons.values()) == report.quarantined == 84
    assert len(report.reasons) == MAX_REASONS + 1
    assert report.reasons["expected an image of 100x50 pixels, got 24 other sizes"] == 24


# Whatever arrives

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(["a", "b", "c", ""]) | st.text(max_size=5) | anything
pictures = (
    st.sampled_from([base64.b64encode(jpeg(i)).decode() for i in range(3)])
    | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
    | anything
)
entries = st.fixed_dictionaries({}, optional={"name": names, "jpg_base64": pictures}) | anything
batches = (
    st.binary(max_size=60)
    | anything.map(lambda value: json.dumps(value).encode())
    | st.lists(entries, max_size=8).map(body)
)


@given(files=st.lists(batches, min_size=1, max_size=3))
@settings(max_examples=150)
@example(files=[body([entry("a", jpeg(0)), entry("a", jpeg(1))]), body([entry("a", jpeg(1))])])
@example(files=[b'{"images": ' + b"[" * 5000])
@example(files=[b'{"images": [1' + b"0" * 5000 + b"]}"])
def test_any_bytes_give_package_errors_or_counts_that_add_up(files: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, store = Path(place) / "batches", Path(place) / "store"
        folder.mkdir()
        for n, data in enumerate(files):
            (folder / f"challenge-{n}").write_bytes(data)
        try:
            report = ingest_folder(folder, store)
        except SimganCaptchaError:
            assert len(CaptchaStore(store)) == 0
        else:
            assert len(CaptchaStore(store)) == report.images_stored
            assert sum(CaptchaStore(store).reasons().values()) == report.quarantined
            again = ingest_folder(folder, store)
            assert again.images_stored == report.images_stored
            assert again.images_expected == report.images_expected


# Interrupted runs

RUN = """
import sys
from pathlib import Path
from simgan_captcha import HACKMIT_2017
from simgan_captcha.data.ingest import ingest
from simgan_captcha.data.settings import DownloadSettings
ingest(sys.argv[1], Path(sys.argv[2]), scheme=HACKMIT_2017, user="", batches=8,
       settings=DownloadSettings(concurrency=2, requests_per_second=1000))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_ingestion_continues_without_losses_or_duplicates(
    server: MisbehavingServer, tmp_path: Path, how: signal.Signals
) -> None:
    for n in range(8):
        good = answer(body(batch(n)))
        server.script(f"/challenge-{n}", *([late(120, good)] if n in (5, 6) else []), good)
    arguments = [sys.executable, "-c", RUN, server.url + "/challenge-{n}", str(tmp_path)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
        while not (server.requests["/challenge-5"] and server.requests["/challenge-6"]):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.send_signal(how)
        process.communicate(timeout=60)
    assert process.returncode != 0
    done = len(list(tmp_path.glob("part-*")))
    assert done == 5
    before = sum(server.requests.values())

    report = fetch(server, tmp_path, batches=8)
    assert (report.batches_skipped, report.batches_stored) == (done, 8 - done)
    assert sum(server.requests.values()) == before + 8 - done
    in_order = CaptchaStore(tmp_path).in_content_order()
    assert sorted(in_order.names) == sorted(f"{n}-{i}" for n in range(8) for i in range(3))
    assert all(
        image == jpeg(int(n) * 1000 + int(i))
        for image, (n, i) in zip(
            in_order.images, (name.split("-") for name in in_order.names), strict=True
        )
    )


def test_killed_at_any_moment_while_fetching(server: MisbehavingServer, tmp_path: Path) -> None:
    """Each kill costs the two batches in flight at most; what is stored is not asked for again."""
    count, in_flight = 40, 2
    for n in range(count):
        server.script(f"/challenge-{n}", late(0.02, answer(body(batch(n)))))
    generator = random.Random(7)
    arguments = [sys.executable, "-c", RUN, server.url + "/challenge-{n}", str(tmp_path)]
    arguments[2] = RUN.replace("batches=8", f"batches={count}")
    kills = 0
    while len(list(tmp_path.glob("part-*"))) < count // 2:
        parts = len(list(tmp_path.glob("part-*")))
        with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
            while len(list(tmp_path.glob("part-*"))) <= parts:
                assert process.poll() is None, process.communicate()
                time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.1))
            process.kill()
            process.communicate(timeout=60)
        kills += 1
        here = CaptchaStore(tmp_path)
        asked = {n: server.requests[f"/challenge-{n}"] for n in range(count)}
        stored = [n for n in asked if here.has(f"{server.url}/challenge-{n}")]
        assert len(here) == 3 * len(stored)
        assert sum(asked.values()) <= len(stored) + kills * in_flight
    report = fetch(server, tmp_path, batches=count)
    assert (report.images_stored, report.quarantined, report.batches_failed) == (3 * count, 0, 0)
    assert all(server.requests[f"/challenge-{n}"] == asked[n] for n in stored)
    assert sorted(CaptchaStore(tmp_path).in_content_order().names) == sorted(
        f"{n}-{i}" for n in range(count) for i in range(3)
    )


def test_killed_at_any_moment_while_reading_files(tmp_path: Path) -> None:
    folder, store = tmp_path / "batches", tmp_path / "store"
    folder.mkdir()
    for n in range(8):
        spoilt = [{**one, "jpg_base64": "%"} for one in batch(n + 100)]
        (folder / f"challenge-{n}").write_bytes(body(batch(n) + batch(n)[:1] + spoilt))
    generator = random.Random(5)
    arguments = [sys.executable, "-c", RUN, str(folder), str(store)]
    for _ in range(3):
        with subprocess.Popen(arguments, stderr=subprocess.PIPE) as process:
            parts = len(list(store.glob("part-*")))
            while process.poll() is None and len(list(store.glob("part-*"))) <= parts:
                time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.01))
            process.kill()
            process.communicate(timeout=60)
    report = ingest_folder(folder, store)
    assert report.batches_skipped >= 3
    assert (report.images_stored, report.duplicates, report.quarantined) == (24, 8, 24)
    assert len(CaptchaStore(store)) == 24
    assert sum(CaptchaStore(store).reasons().values()) == 24
    assert not list(store.glob(".*"))
