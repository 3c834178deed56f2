"""The captcha store: nothing lost, nothing twice, damage named."""

import hashlib
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgan_captcha.data.batch import MAX_QUARANTINED_BYTES, Captcha, RejectedCaptcha
from simgan_captcha.data.store import BatchCounts, CaptchaStore
from simgan_captcha.errors import StoreError

A, B, C = (Captcha(name, f"bytes of {name}".encode()) for name in "abc")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_added_images_are_there_after_reopening(tmp_path: Path) -> None:
    store = CaptchaStore(tmp_path / "store")
    counts = store.add("one", [A, B], [RejectedCaptcha("bad", "why", b"x")])
    assert counts == BatchCounts(stored=2, duplicates=0, quarantined=1)
    assert counts.expected == 3
    for opened in (store, CaptchaStore(tmp_path / "store")):
        assert len(opened) == 2
        assert opened.has("one")
        assert not opened.has("two")
        assert opened.counts("one") == counts
        assert opened.image("a") == A.image
        assert sum(opened.reasons().values()) == 1
        assert opened.reasons() == {"why": 1}
        in_order = opened.in_content_order()
        assert dict(zip(in_order.names, in_order.images, strict=True)) == {
            "a": A.image,
            "b": B.image,
        }


def test_adding_a_source_again_changes_nothing(tmp_path: Path) -> None:
    store = CaptchaStore(tmp_path)
    first = store.add("one", [A, B])
    assert store.add("one", [C]) == first
    store.set_aside("one", "late complaint", b"")
    assert CaptchaStore(tmp_path).in_content_order() == store.in_content_order()
    assert len(store) == 2
    assert sum(store.reasons().values()) == 0


def test_same_name_same_bytes_is_kept_once(tmp_path: Path) -> None:
    assert CaptchaStore(tmp_path).add("one", [A, A, B]) == BatchCounts(2, 1, 0)
    reopened = CaptchaStore(tmp_path)
    assert reopened.add("two", [A, C]) == BatchCounts(1, 1, 0)
    assert reopened.add("three", [A, B, C]) == BatchCounts(0, 3, 0)
    assert len(CaptchaStore(tmp_path)) == 3
    assert CaptchaStore(tmp_path).has("three")


def test_same_name_other_bytes_keeps_the_first(tmp_path: Path) -> None:
    impostor = Captcha("a", b"something else")
    assert CaptchaStore(tmp_path).add("one", [A, impostor]) == BatchCounts(1, 0, 1)
    reopened = CaptchaStore(tmp_path)
    assert reopened.add("two", [impostor, B]) == BatchCounts(1, 0, 1)
    assert reopened.image("a") == A.image
    assert sum(reopened.reasons().values()) == 2
    assert "name of another image" in next(iter(reopened.reasons()))


def test_a_batch_without_valid_images_is_not_stored(tmp_path: Path) -> None:
    store = CaptchaStore(tmp_path)
    assert store.add("one", [], [RejectedCaptcha("a", "broken", b"")]) == BatchCounts(0, 0, 1)
    assert not store.has("one")
    assert sum(store.reasons().values()) == 1
    assert store.add("one", [A]) == BatchCounts(1, 0, 0)
    assert sum(store.reasons().values()) == 0


def test_a_quarantined_batch_is_not_stored(tmp_path: Path) -> None:
    store = CaptchaStore(tmp_path)
    store.set_aside("one", "truncated", b"{" * 1_000_000)
    assert not store.has("one")
    assert sum(store.reasons().values()) == 0
    (file,) = tmp_path.glob("quarantine-*.parquet")
    assert file.stat().st_size < 2 * MAX_QUARANTINED_BYTES
    store.add("one", [A])
    assert not file.exists()


@given(order=st.permutations(range(12)), names=st.permutations(range(12)))
@settings(max_examples=15)
def test_names_and_order_do_not_change_the_content_order(
    order: list[int], names: list[int]
) -> None:
    images = [bytes([i]) * 10 for i in range(12)]
    with tempfile.TemporaryDirectory() as folder:
        plain = CaptchaStore(Path(folder) / "plain")
        plain.add("one", [Captcha(str(i), image) for i, image in enumerate(images)])
        shuffled = CaptchaStore(Path(folder) / "shuffled")
        moved = [Captcha(f"renamed {names[i]}", images[i]) for i in order]
        shuffled.add("two", moved[:5])
        shuffled.add("three", moved[5:])
        assert shuffled.in_content_order().images == plain.in_content_order().images
        assert shuffled.content_hash() == plain.content_hash()


def test_content_order_is_by_sha256_then_name(tmp_path: Path) -> None:
    store = CaptchaStore(tmp_path)
    twins = [Captcha("z", b"same"), Captcha("y", b"same")]
    store.add("one", [*twins, A, B, C])
    in_order = store.in_content_order()
    keys = [
        (sha256(image), name) for name, image in zip(in_order.names, in_order.images, strict=True)
    ]
    assert keys == sorted(keys)


def test_other_content_has_another_hash(tmp_path: Path) -> None:
    one, two, three = (CaptchaStore(tmp_path / name) for name in ("one", "two", "three"))
    one.add("s", [A, B])
    two.add("s", [A, C])
    three.add("s", [A, B, Captcha("twin of b", B.image)])
    assert len({store.content_hash() for store in (one, two, three)}) == 3


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "nul \0 in it", "🦄", "x" * 256, " "])
def test_hostile_names_are_labels_only(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "deep" / "store"
    CaptchaStore(folder).add("one", [Captcha(name, b"bytes")])
    assert CaptchaStore(folder).image(name) == b"bytes"
    assert [path.name[:5] for path in folder.iterdir()] == ["part-"]
    assert list(tmp_path.rglob("*")) == [tmp_path / "deep", folder, *folder.iterdir()]


def test_empty_and_missing_stores_are_errors(tmp_path: Path) -> None:
    missing = CaptchaStore(tmp_path / "nowhere")
    assert len(missing) == 0
    with pytest.raises(StoreError, match="got none; run the download first"):
        missing.in_content_order()
    with pytest.raises(StoreError, match="holds no batch"):
        missing.counts("one")
    with pytest.raises(StoreError, match="'a'"):
        missing.image("a")
    assert not (tmp_path / "nowhere").exists()


def test_leftovers_of_killed_processes_are_harmless(tmp_path: Path) -> None:
    CaptchaStore(tmp_path).add("one", [A])
    leftover = tmp_path / ".part-0123456789abcdef.parquet.77.part"
    leftover.write_bytes(b"PAR1 half")
    store = CaptchaStore(tmp_path)
    assert store.in_content_order().names == ["a"]
    assert leftover.exists(), "a reader must not remove what a writer may be making"
    store.discard_partial_files()
    assert not leftover.exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_damage_is_found_or_harmless(tmp_path: Path) -> None:
    store = CaptchaStore(tmp_path)
    generator = random.Random(3)
    store.add("one", [Captcha(f"name {i}", generator.randbytes(50)) for i in range(5)])
    (part,) = tmp_path.glob("part-*.parquet")
    whole, before = part.read_bytes(), store.in_content_order()
    messages = []
    for _ in range(150):
        damaged = bytearray(whole)
        position = generator.randrange(len(whole))
        damaged[position] ^= 1 << generator.randrange(8)
        part.write_bytes(damaged)
        try:
            assert CaptchaStore(tmp_path).in_content_order() == before
        except StoreError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(str(part) in one and "delete that file and run again" in one for one in messages)


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_truncated_part_is_named(tmp_path: Path, kept: int) -> None:
    CaptchaStore(tmp_path).add("one", [A])
    (part,) = tmp_path.glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:kept])
    with pytest.raises(StoreError, match=f"{part.name} is damaged .*; delete that file"):
        CaptchaStore(tmp_path)
    part.unlink()
    assert CaptchaStore(tmp_path).add("one", [A]) == BatchCounts(1, 0, 0)


def test_a_name_in_two_parts_is_damage(tmp_path: Path) -> None:
    CaptchaStore(tmp_path).add("one", [A])
    (part,) = tmp_path.glob("part-*.parquet")
    (tmp_path / "part-ffffffffffffffff.parquet").write_bytes(part.read_bytes())
    with pytest.raises(StoreError, match="repeats the name 'a'"):
        CaptchaStore(tmp_path)


def test_damaged_quarantine_is_named(tmp_path: Path) -> None:
    store = CaptchaStore(tmp_path)
    store.set_aside("one", "why", b"")
    (file,) = tmp_path.glob("quarantine-*.parquet")
    file.write_bytes(b"not parquet")
    with pytest.raises(StoreError, match=file.name):
        store.reasons()


FULL_DISK = """
import random, resource, sys
from pathlib import Path
from simgan_captcha.errors import StoreError
from simgan_captcha.data.batch import Captcha
from simgan_captcha.data.store import CaptchaStore
store = CaptchaStore(Path(sys.argv[1]))
store.add("fits", [Captcha("small", b"small")])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    store.add("does not", [Captcha("large", random.Random(0).randbytes(100_000))])
except StoreError as error:
    print(error)
"""


def test_a_full_disk_is_reported_and_nothing_is_lost(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "free space" in done.stdout
    assert CaptchaStore(tmp_path).in_content_order().names == ["small"]
    assert len(list(tmp_path.iterdir())) == 1


def test_forged_digest_is_damage(tmp_path: Path) -> None:
    CaptchaStore(tmp_path).add("one", [A])
    (part,) = tmp_path.glob("part-*.parquet")
    table = pq.read_table(part)
    forged = pa.array([sha256(b"other bytes")])
    pq.write_table(table.set_column(3, "sha256", forged), part)
    with pytest.raises(StoreError, match=f"{part.name} is damaged .*does not match its sha256"):
        CaptchaStore(tmp_path).in_content_order()
