"""Bulk labelling writes one row for each input row, also after kills and for damaged rows."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simgan_captcha import Reader
from simgan_captcha.errors import RunError, StoreError, UsageError
from simgan_captcha.generalist.reader import GeneralistReader, shipped_reader
from simgan_captcha.inference import partitions as partitions_module
from simgan_captcha.inference.label import LABELS, label_here, label_partition
from simgan_captcha.inference.partitions import (
    MANIFEST,
    READER,
    Partition,
    find_partitions,
    open_output,
    place,
)
from simgan_captcha.inference.reader import Unreadable
from tests.commands import COMMAND, command
from tests.inference.test_reader import FILES

Rows = list[dict[str, object]]
BAD = [b"", b"no image", FILES[0][:200], None]


def write_input(
    path: Path, images: Sequence[bytes | None], *, row_group: int = 1000, named: bool = True
) -> Path:
    columns: dict[str, object] = {"image": pa.array(images, pa.binary())}
    if named:
        columns["name"] = [f"{path.stem}-{n}" for n in range(len(images))]
    pq.write_table(pa.table(columns), path, row_group_size=row_group)
    return path


def label(model: Path, out: Path, *inputs: Path | str) -> int:
    """Label what is not done; gives how many parts that were."""
    found = find_partitions([str(one) for one in inputs])
    pending = open_output(str(out), model.read_bytes(), found)
    assert len(list(label_here(pending, str(out)))) == len(pending)
    return len(pending)


def labels(out: Path) -> Rows:
    """All rows of all parts, ordered by where they come from."""
    rows = [row for part in out.glob("part-*.parquet") for row in pq.read_table(part).to_pylist()]
    return sorted(rows, key=lambda row: (row["source"], row["row"]))


def assert_labelled(
    out: Path, reader: Reader, inputs: dict[Path, Sequence[bytes | None]], *, named: bool = True
) -> None:
    """Exactly one row for each, as the reader reads it."""
    expected = []
    for path, images in sorted(inputs.items()):
        for row, read in enumerate(reader.read([image or b"" for image in images])):
            name = f"{path.stem}-{row}" if named else str(row)
            text = None if isinstance(read, Unreadable) else read.text
            expected.append((str(path), row, name, text, text is None))
    assert [
        (row["source"], row["row"], row["name"], row["text"], row["error"] is not None)
        for row in labels(out)
    ] == expected
    assert not list(out.glob(".*"))  # what was begun and not finished


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_row_out_for_each_row_in(
    data: st.DataObject,
    model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path_factory.mktemp("labelled")
    monkeypatch.setattr(partitions_module, "_ROWS", data.draw(st.integers(1, 20)))
    named = data.draw(st.booleans())
    each = st.lists(st.sampled_from([*FILES[:5], *BAD]), max_size=25)
    inputs: dict[Path, Sequence[bytes | None]] = {}
    for n in range(data.draw(st.integers(1, 3))):
        images = data.draw(each)
        group = data.draw(st.integers(1, 10))
        inputs[write_input(folder / f"{n}.parquet", images, row_group=group, named=named)] = images
    label(model, folder / "out", *inputs)
    assert_labelled(folder / "out", Reader(model), inputs, named=named)


def test_finished_parts_are_not_repeated(model: Path, tmp_path: Path) -> None:
    several: list[Sequence[bytes | None]] = [FILES[:7], [*FILES[7:9], None], FILES[9:20]]
    inputs = {
        write_input(tmp_path / f"{n}.parquet", images): images for n, images in enumerate(several)
    }
    out = tmp_path / "out"
    first, *others = inputs
    assert label(model, out, first) == 1
    assert label(model, out, first, *others) == 2
    parts = sorted(out.glob("part-*"))
    before = [part.stat().st_mtime_ns for part in parts]
    parts[1].unlink()
    assert label(model, out, *inputs) == 1
    after = [part.stat().st_mtime_ns for part in parts]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True]
    assert_labelled(out, Reader(model), inputs)


def test_a_store_and_a_uri_are_read(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "a store"
    store.mkdir()
    write_input(store / "part-1.parquet", FILES[:3])
    write_input(store / "part-2.parquet", FILES[3:5])
    pq.write_table(pa.table({"data": [b"x"]}), store / "quarantine-1.parquet")
    out, uri = tmp_path / "out", tmp_path.as_uri()
    found = find_partitions([store.as_uri()])
    pending = open_output(f"{uri}/out", model.read_bytes(), found)
    list(label_here(pending, f"{uri}/out"))
    assert [row["name"] for row in labels(out)] == [f"part-1-{n}" for n in range(3)] + [
        f"part-2-{n}" for n in range(2)
    ]
    assert pq.read_schema(next(out.glob("part-*"))).equals(LABELS)


def test_an_error_leaves_no_part(model: Path, tmp_path: Path) -> None:
    """A disk that fills, or a file that is damaged in its middle."""
    path = write_input(tmp_path / "a.parquet", FILES[:30], row_group=10)
    [partition] = find_partitions([str(path)])
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 2000] = bytes(2000)
    path.write_bytes(damaged)
    out = tmp_path / "out"
    open_output(str(out), model.read_bytes(), [partition])
    with pytest.raises(StoreError, match=r"expected the rows of .*a\.parquet"):
        label_partition(Reader(model), partition, str(out))
    assert sorted(file.name for file in out.iterdir()) == [MANIFEST, READER]


IMAGES = [*FILES[:5], None]
NAMES = pa.array([f"n{number}" for number in range(6)])
STRUCTS = pa.array(
    [None if data is None else {"bytes": data, "path": "a.jpg"} for data in IMAGES],
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
)


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (STRUCTS, NAMES),
        (pa.array(IMAGES).dictionary_encode(), NAMES.dictionary_encode()),
        (pa.array(IMAGES, pa.large_binary()), NAMES.cast(pa.large_string())),
        (pa.array(IMAGES).cast(pa.binary_view()), NAMES.cast(pa.string_view())),
    ],
)
def test_columns_of_other_programs_are_read(
    model: Path, tmp_path: Path, images: pa.Array, names: pa.Array
) -> None:
    """Structs are what Hugging Face's ``datasets`` writes."""
    path, out = tmp_path / "a.parquet", tmp_path / "out"
    pq.write_table(pa.table({"image": images, "name": names}), path)
    label(model, out, path)
    expected = [
        None if isinstance(read, Unreadable) else read.text
        for read in Reader(model).read([data or b"" for data in IMAGES])
    ]
    found = labels(out)
    assert [row["text"] for row in found] == expected
    assert [row["name"] for row in found] == NAMES.to_pylist()


def test_one_changed_bit_of_a_page_is_detected(model: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "a.parquet", tmp_path / "out"
    table = pa.table({"image": FILES[:9]})
    pq.write_table(table, path, write_page_checksum=True, use_dictionary=False, compression="none")
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(FILES[4]) + 30] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"could not read them .*CRC"):
        label(model, out, path)


def twice(path: Path) -> None:
    images = pa.array([b"x"])
    pq.write_table(pa.Table.from_arrays([images, images], names=["image", "image"]), path)


def struct_of_paths(path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([{"path": "a.jpg"}])}), path)


def struct_in_struct(path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([{"bytes": {"bytes": b"x"}}])}), path)


def other_columns(path: Path) -> None:
    pq.write_table(pa.table({"picture": [b"x"]}), path)


def text_images(path: Path) -> None:
    pq.write_table(pa.table({"image": ["x"]}), path)


def numbered(path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"], "name": [3]}), path)


def no_parquet(path: Path) -> None:
    path.write_bytes(b"no parquet")


@pytest.mark.parametrize(
    ("write", "error", "says"),
    [
        (other_columns, UsageError, r"column 'image' of encoded images .* picture \(binary\)"),
        (text_images, UsageError, r"column 'image' .* image \(string\)"),
        (twice, UsageError, "expected one column 'image' in .*, got 2; rename the others"),
        (struct_of_paths, UsageError, r"column 'image' .* image \(struct<path: string>\)"),
        (struct_in_struct, UsageError, r"column 'image' .* image \(struct<bytes: struct<"),
        (numbered, UsageError, "text in the column 'name' .* int64"),
        (no_parquet, StoreError, "expected a Parquet file at"),
        (Path.mkdir, UsageError, "expected Parquet files in .*, found none"),
        (lambda path: None, UsageError, "or a folder of them at .*, found none; correct the path"),
    ],
)
def test_other_inputs_are_refused(
    tmp_path: Path, write: Callable[[Path], None], error: type[Exception], says: str
) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    with pytest.raises(error, match=says):
        find_partitions([str(path)])


def test_a_file_given_twice_and_an_unknown_uri_are_refused(tmp_path: Path) -> None:
    path = write_input(tmp_path / "a.parquet", FILES[:2])
    with pytest.raises(UsageError, match="every input file once"):
        find_partitions([str(path), str(tmp_path)])
    with pytest.raises(UsageError, match="expected a path or a URI"):
        find_partitions(["nowhere://x/y"])


def test_another_reader_or_a_changed_file_is_refused(model: Path, tmp_path: Path) -> None:
    path, out = write_input(tmp_path / "a.parquet", FILES[:5]), tmp_path / "out"
    label(model, out, path)
    with pytest.raises(UsageError, match="the reader that labelled"):
        open_output(str(out), model.read_bytes() + b" ", find_partitions([str(path)]))
    write_input(path, FILES[:6])
    with pytest.raises(UsageError, match=r"a\.parquet has changed since"):
        label(model, out, path)
    assert len(labels(out)) == 5


def test_other_images_in_as_many_rows_are_another_file(model: Path, tmp_path: Path) -> None:
    path, out = write_input(tmp_path / "a.parquet", FILES[:5]), tmp_path / "out"
    label(model, out, path)
    write_input(path, FILES[5:10])
    with pytest.raises(UsageError, match=r"a\.parquet has changed since"):
        label(model, out, path)


def test_a_file_is_the_same_however_it_is_given(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write_input(tmp_path / "a.parquet", FILES[:3]), tmp_path / "out"
    assert label(model, out, path) == 1
    monkeypatch.chdir(tmp_path)
    assert label(model, out, "a.parquet") == 0
    assert label(model, out, path.as_uri()) == 0
    with pytest.raises(UsageError, match="every input file once"):
        find_partitions([str(path), path.as_uri()])
    assert {row["source"] for row in labels(out)} == {str(path)}


def test_odd_names_in_a_folder_given_as_uri(model: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    names = ["c d", "ä", "[1]", "e%20f", "a#b", "q?x=1"]
    inputs = {write_input(folder / f"{name}.parquet", FILES[:2]): FILES[:2] for name in names}
    assert label(model, out, folder.as_uri()) == len(names)
    assert_labelled(out, Reader(model), dict(inputs))


def test_passwords_in_a_uri_are_not_written() -> None:
    """Other parts of an address than bucket and path are not shown either."""
    at = place("s3://KEY:SECRET@bucket/in?region=eu-west-1")
    assert at.name == "s3://bucket/in"
    partition = Partition(at.name, at.path, "", 0, 1, 0, 1, "s3://KEY:SECRET@bucket/in")
    assert "SECRET" not in f"{partition} {partition.recorded} {partition.part}"


def test_names_that_are_no_unicode_are_made_readable(model: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "a.parquet", tmp_path / "out"
    names = pa.Array.from_buffers(
        pa.string(), 2, pa.array([b"caf\xe9", b"b"], pa.binary()).buffers()
    )
    pq.write_table(pa.table({"image": FILES[:2], "name": names}), path)
    label(model, out, path)
    assert [row["name"] for row in labels(out)] == ["caf\\xe9", "b"]


def test_a_folder_of_other_files_is_not_written_into(model: Path, tmp_path: Path) -> None:
    write_input(tmp_path / "part-1.parquet", FILES[:2])
    with pytest.raises(UsageError, match="an empty folder for the labels"):
        label(model, tmp_path, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["part-1.parquet"]


@pytest.mark.parametrize("text", ["", "[1, 2]", "3", "{"])
def test_a_damaged_list_is_an_error(model: Path, tmp_path: Path, text: str) -> None:
    path, out = write_input(tmp_path / "a.parquet", FILES[:2]), tmp_path / "out"
    label(model, out, path)
    (out / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match="expected a list of partitions"):
        label(model, out, path)


def many_inputs(folder: Path, count: int) -> dict[Path, Sequence[bytes | None]]:
    folder.mkdir()
    images: Sequence[bytes | None] = [*FILES[:30], *BAD] * 8
    return {write_input(folder / f"{n:02}.parquet", images): images for n in range(count)}


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while len(list(out.glob("part-*"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_command_continues(model: Path, tmp_path: Path) -> None:
    inputs, out = many_inputs(tmp_path / "in", 8), tmp_path / "out"
    command = [*COMMAND, "label", str(model), *map(str, inputs), str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for_parts(out, 2, process)
        process.kill()
    done = {part: part.stat().st_mtime_ns for part in out.glob("part-*")}
    assert 2 <= len(done) < 8
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{len(done)} parts were there before" in again.stdout
    assert f"{8 - len(done)} parts, {(8 - len(done)) * 8 * len(BAD)} of them unreadable" in (
        again.stdout
    )
    assert all(part.stat().st_mtime_ns == when for part, when in done.items())
    assert_labelled(out, Reader(model), inputs)
    assert len(json.loads((out / MANIFEST).read_text())) == 8 + 1  # and the constraints
    assert process.returncode == -signal.SIGKILL


def test_the_generalist_labels_within_an_alphabet_and_a_length(tmp_path: Path) -> None:
    path, out = write_input(tmp_path / "in.parquet", FILES[:6]), tmp_path / "out"
    known = ("--alphabet", "abc1", "--length", "2")
    assert command("label", path, out, *known, "--quiet").code == 0
    read = GeneralistReader("abc1", 2).read(list(FILES[:6]))
    assert [row["text"] for row in labels(out)] == [one.text for one in read]  # type: ignore[union-attr]
    again = json.loads(command("label", path, out, *known, "--json").out)  # it continues
    nothing = {"parts": 0, "images": 0, "unreadable": 0, "reasons": {}}
    assert again == {"out": str(out), "earlier_parts": 1} | nothing
    command("label", path, out, "--alphabet", "abc1").error(2, "alphabet, length and pattern")
    damaged = write_input(tmp_path / "damaged.parquet", [*FILES[:2], b"no image"])
    found = json.loads(command("label", damaged, tmp_path / "third", "--json").out)
    assert (found["parts"], found["images"], found["unreadable"]) == (1, 3, 1)
    ((reason, count),) = found["reasons"].items()
    assert reason.startswith("expected an image")
    assert count == 1
    (other := tmp_path / "other").mkdir()
    command("label", path, other, "--alphabet", "é").error(2, "é")
    assert not list(other.iterdir())  # it may be started again with another alphabet


def test_a_reader_needs_inputs_and_a_generalist_is_the_one_that_began(
    model: Path, tmp_path: Path
) -> None:
    command("label", model, tmp_path / "out").error(2, "expected images to read")
    command("label", "none.onnx", "in", tmp_path / "out").error(1, "none.onnx, found none")
    with pytest.raises(RunError, match="the generalist that the labels began with"):
        shipped_reader(model.read_bytes())
