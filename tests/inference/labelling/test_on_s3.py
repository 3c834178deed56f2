"""Bulk labelling from and to a server that speaks S3's protocol, on loopback."""

import logging
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pyarrow.fs as fs
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from simgan_captcha import Reader
from simgan_captcha.inference.partitions import MANIFEST, READER
from simgan_captcha.inference.reader import Unreadable
from tests.commands import COMMAND, real_command
from tests.inference.labelling.test_labelling import BAD, write_input
from tests.inference.test_reader import FILES

IMAGES = [*FILES[:30], *BAD] * 8
COUNT = 8


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address; buckets vanish with it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anyone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"{host}:{port}"
    moto.stop()


def uri(server: str, path: str) -> str:
    return (
        f"s3://{path}?scheme=http&endpoint_override={quote(server, safe='')}"
        "&region=eu-west-1&allow_bucket_creation=true"
    )


@pytest.fixture
def bucket(server: str, tmp_path: Path) -> fs.FileSystem:
    """A file system with eight files of images under bucket/in."""
    filesystem, _ = fs.FileSystem.from_uri(uri(server, "bucket"))
    filesystem.create_dir("bucket")
    for n in range(COUNT):
        local = write_input(tmp_path / f"{n:02}.parquet", IMAGES)
        fs.copy_files(str(local), f"bucket/in/{local.name}", destination_filesystem=filesystem)
    return filesystem


def parts(filesystem: fs.FileSystem) -> dict[str, int]:
    """Parts that are there, and when they were written."""
    found = filesystem.get_file_info(fs.FileSelector("bucket/out", allow_not_found=True))
    return {i.base_name: i.mtime_ns for i in found if i.base_name.startswith("part-")}


def test_a_killed_command_continues(model: Path, server: str, bucket: fs.FileSystem) -> None:
    arguments = ["label", str(model), uri(server, "bucket/in"), uri(server, "bucket/out")]
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 200
        while len(parts(bucket)) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
    done = parts(bucket)
    assert 2 <= len(done) < COUNT

    again = real_command(*arguments)
    assert again.code == 0, again.err
    assert f"{len(done)} parts were there before" in again.out
    assert {name: parts(bucket)[name] for name in done} == done
    names = {i.base_name for i in bucket.get_file_info(fs.FileSelector("bucket/out"))}
    assert names == {*parts(bucket), READER, MANIFEST}
    assert len(parts(bucket)) == COUNT

    rows = [
        row
        for part in sorted(parts(bucket))
        for row in pq.read_table(f"bucket/out/{part}", filesystem=bucket).to_pylist()
    ]
    read = Reader(model).read([image or b"" for image in IMAGES])
    texts = [None if isinstance(one, Unreadable) else one.text for one in read]
    rows.sort(key=lambda row: (row["source"], row["row"]))
    assert [(row["source"], row["row"], row["text"]) for row in rows] == [
        (f"s3://bucket/in/{n:02}.parquet", row, text)
        for n in range(COUNT)
        for row, text in enumerate(texts)
    ]
    assert sum(row["error"] is not None for row in rows) == COUNT * 8 * len(BAD)


def test_a_missing_bucket_is_an_error(model: Path, server: str) -> None:
    nowhere = uri(server, "nowhere/in")
    outcome = real_command("label", model, nowhere, uri(server, "bucket/out"))
    outcome.error(outcome.code or 0, "expected a Parquet file or a folder of them", "nowhere/in")
    assert outcome.code
