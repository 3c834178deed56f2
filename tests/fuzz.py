"""Reads damaged and hostile files, and sends such requests to the real server.

Each case takes a valid input and changes it at random. A case fails if it ends in an exception that
no message describes, takes over ten seconds of CPU time, or needs too much memory. Cases depend
only on the seed, their kind and their number.

    python -m tests.fuzz --cases 10000 --seed 1
"""

import argparse
import contextlib
import faulthandler
import io
import json
import logging
import resource
import select
import shutil
import socket
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from simgan_captcha.api.learning import Run
from simgan_captcha.data.background import Background
from simgan_captcha.data.folder import find_images, read_found
from simgan_captcha.data.pictures import open_picture
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import SimganCaptchaError
from simgan_captcha.evaluation.labels import read_labels_csv
from simgan_captcha.inference.exported import load_exported
from simgan_captcha.inference.label import label_partition
from simgan_captcha.inference.partitions import find_partitions
from simgan_captcha.inference.reader import ImageReader, Reader
from simgan_captcha.inference.readings import load_readings, save_readings
from simgan_captcha.pipeline.run import load_run_reader
from simgan_captcha.pipeline.run_folder import READINGS, read_run
from simgan_captcha.recognizer.decode import load_recognizer, recognizer
from simgan_captcha.report.report import write_report
from simgan_captcha.scheme import load_scheme
from simgan_captcha.training.checkpoint import load_weights, save_weights
from simgan_captcha.web.gallery import captcha_key
from simgan_captcha.web.run_status import run_status
from tests.small_run import draw_captchas, pipeline, write_challenges
from tests.web.serving import serving

SECONDS = 10.0
"""Longest CPU time of a case."""
PATIENCE = 120.0
"""Longest time of a case on a busy machine, in seconds."""
MEMORY = 6 << 30
"""Most bytes of address space in addition to what the process has at its start."""
SHORT = ("recognizer.images=raw", "adaptation.steps=0", "recognizer.steps=12")

Mutate = Callable[[np.random.Generator, bytes], bytes]
Attempt = Callable[[bytes, str], None]
"""``attempt(data, name)``: use one input. The name is that of the seed."""

TOKENS = (
    b"null", b"-1", b"0", b"1e999", b"NaN", b"true", b"[]", b"{}", b'""', b"18446744073709551616",
    b"[" * 3000, b'{"a":' * 3000, b"\\ud800", b"\xff\xfe", b"\0", b"../", b"A" * 5000, b"\r\n\r\n",
    b",", b'"', b"=1+1", b"\xe2\x80\xae", b"%00", b"\x1b[31m", b"99999999",
)  # fmt: skip
"""Parts that are inserted."""


# Changes


def changed_bytes(random: np.random.Generator, data: bytes) -> bytes:
    """The data after one to four changes of bits, bytes and ranges."""
    for _ in range(random.integers(1, 5)):
        # Often near the start, where headers are.
        at = int(random.random() ** random.choice([1, 3]) * len(data))
        end = at + int(random.choice([1, 4, 40, 400]))
        kind = random.integers(7)
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ (1 << random.integers(8))]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + random.bytes(end - at) + data[end:]
        elif kind == 2:
            data = data[:at] + data[end:]
        elif kind == 3:
            data = data[:end] + data[at:]
        elif kind == 4:
            data = data[:at] if random.random() < 0.3 else data
        elif kind == 5:
            word = [b"\0", b"\xff", b"\x7f", b"\x80"][random.integers(4)] * int(
                random.integers(1, 9)
            )
            data = data[:at] + word + data[at + len(word) :]
        else:
            data = data[:at] + TOKENS[random.integers(len(TOKENS))] + data[at:]
    return data


def changed_json(random: np.random.Generator, data: bytes) -> bytes:
    """JSON with other values at random places, or with changed bytes."""
    if random.random() < 0.3:
        return changed_bytes(random, data)
    value = json.loads(data)
    for _ in range(random.integers(1, 4)):
        value = _with_change(random, value)
    return json.dumps(value).encode()


def _with_change(random: np.random.Generator, value: Any) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = list(value)[random.integers(len(value))]
        rest = {k: v for k, v in value.items() if k != key}
        if random.random() < 0.1:
            return rest
        return {**rest, key: _with_change(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        at = int(random.integers(len(value)))
        return [*value[:at], _with_change(random, value[at]), *value[at + 1 :]]
    others: list[Any] = [
        None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "../../x", "a\0b", [],
        {}, [1], [[]], {"": None}, "\ud800", "x" * 5000, 0.5, 3, 4096, [value], {"a": value},
    ]  # fmt: skip
    return others[random.integers(len(others))]


def changed_request(random: np.random.Generator, data: bytes) -> bytes:
    """A request with changed bytes, in most cases with the length of its new body."""
    head, _, body = data.partition(b"\r\n\r\n")
    if random.random() < 0.6:
        body = changed_bytes(random, body)
    else:
        head = changed_bytes(random, head)
    if random.random() < 0.9:
        head += b"\r\nContent-Length: %d" % len(body)
    return head + b"\r\n\r\n" + body


# Inputs


@cache
def _captcha() -> bytes:
    return draw_captchas(1)[0][0]


def pictures() -> dict[str, bytes]:
    """Pictures of all formats and of several modes."""
    grey = Image.open(io.BytesIO(_captcha())).convert("L")
    first, second = grey.convert("RGB"), Image.new("RGB", grey.size, (200, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    made: dict[str, bytes] = {}

    def keep(name: str, image: Image.Image, kind: str, **options: Any) -> None:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        made[name] = buffer.getvalue()

    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
        keep(kind, first, kind)
        keep(f"{kind} grey", grey, kind)
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        keep(f"{kind} frames", first, kind, save_all=True, append_images=[second, first])
        keep(f"{kind} alpha", first.convert("RGBA"), kind)
    keep("JPEG turned", first, "JPEG", exif=exif, progressive=True)
    keep("JPEG inks", first.convert("CMYK"), "JPEG")
    keep("PNG palette", first.convert("P"), "PNG")
    keep("PNG deep", Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG")
    keep("TIFF packed", first, "TIFF", compression="tiff_lzw")
    return made


def requests(key: bytes) -> dict[str, bytes]:
    """Requests to the server of a run that has a captcha of this key."""
    jpeg = _captcha()
    form = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        + jpeg
        + b"\r\n--x--\r\n"
    )
    asked = {
        b"POST /api/read": (b"multipart/form-data; boundary=x", form),
        b"POST /api/read?explain=true": (b"multipart/form-data; boundary=x", form),
        b"PUT /api/corrections/" + key: (b"application/json", b'{"text": "ab"}'),
        b"GET /review?page=1&order=least": (b"", b""),
        b"GET /api/captchas/" + key: (b"", b""),
        b"GET /api/run": (b"", b""),
        b"GET /": (b"", b""),
        b"DELETE /api/corrections/" + key: (b"", b""),
    }
    return {
        ask.decode(): ask
        + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close"
        + (b"\r\nContent-Type: " + kind if kind else b"")
        + b"\r\n\r\n"
        + body
        for ask, (kind, body) in asked.items()
    }


def packed(folder: Path) -> dict[str, bytes]:
    """Files that hold several images: a zip file, a batch and a table."""
    captchas = draw_captchas(3)
    write_challenges(folder, captchas, batches=1)
    batch = (folder / "challenge-0").read_bytes()
    entries = json.loads(batch)["images"]
    table = "name,image\n" + "".join(f"{e['name']},{e['jpg_base64']}\n" for e in entries)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (data, _) in enumerate(captchas):
            archive.writestr(f"a/{number}.jpg", data)
    return {"a.zip": buffer.getvalue(), "a.json": batch, "a.csv": table.encode()}


@dataclass(frozen=True)
class Kind:
    """One kind of input: valid examples, how they are changed, and what uses them."""

    seeds: Mapping[str, bytes]
    mutate: Mutate
    attempt: Attempt
    share: int = 1
    """Its share of all cases, relative to other kinds."""


SCHEME_FILE = (
    b'# a family\nalphabet = "abc1"\nequivalents = ["1l"]\nlength = [2, 4]\nwidth = 60\n'
    b'height = 30\nbackground = "plain"\nclutter = ["lines", "dots"]\nwavy_baseline = true\n'
)
LABELS = b'name,label\r\na.jpg,ab1\r\n"b,c.jpg","c""1"\r\n\'=d.jpg,\'=a\r\n'


class _Inputs:
    """A finished run and a folder in which each case writes its files."""

    def __init__(self, run: Path, folder: Path, address: str) -> None:
        self.run, self.folder = run, folder
        self.port = int(httpx.URL(address).port or 0)
        Run(run).export(folder / "reader.onnx")
        self.reader = Reader(folder / "reader.onnx")
        self.copy = shutil.copytree(run, folder / "run")

    def kinds(self) -> dict[str, Kind]:
        """All kinds by name."""
        run, of_run = self.run, self.of_run
        documents = {
            str(path.relative_to(run)): path.read_bytes()
            for path in sorted(run.rglob("*.json"))
            if path.name != "elapsed.json"
        }
        weights = {
            "read/recognizer.safetensors": (run / "read/recognizer.safetensors").read_bytes()
        }
        exported = {"reader.onnx": (self.folder / "reader.onnx").read_bytes()}
        stored = next((run / "store").glob("part-*.parquet"))
        return {
            "pictures": Kind(pictures(), changed_bytes, self.picture, 4),
            "zip, JSON and CSV of images": Kind(
                packed(self.folder / "made"), changed_bytes, self.images
            ),
            "schemes": Kind({"s.toml": SCHEME_FILE}, changed_bytes, self.scheme),
            "labels": Kind({"l.csv": LABELS}, changed_bytes, self.labels),
            "JSON of runs": Kind(documents, changed_json, of_run, 2),
            "weights": Kind(weights, changed_bytes, of_run),
            "weights with a checksum": Kind(weights, lambda r, _: r.bytes(8), self.weights),
            "backgrounds": Kind(
                {"b.npz": (run / "background/background.npz").read_bytes()},
                changed_bytes,
                self.background,
            ),
            "ONNX": Kind(exported, changed_bytes, self.onnx, 2),
            "readings": Kind({"r": (run / READINGS).read_bytes()}, changed_bytes, self.readings),
            "stores": Kind({stored.name: stored.read_bytes()}, changed_bytes, self.store),
            "Parquet to label": Kind(self.tables(), changed_bytes, self.label),
            "requests": Kind(self.requests(), changed_request, self.request, 4),
        }

    def written(self, name: str, data: bytes) -> Path:
        """A new folder for one case, with one file."""
        shutil.rmtree(self.folder / "case", ignore_errors=True)
        path = self.folder / "case" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        return path

    def picture(self, data: bytes, name: str) -> None:
        """Any picture is read, or is given back as unreadable."""
        self.reader.read([data])
        open_picture(data)

    def images(self, data: bytes, name: str) -> None:
        """A folder with one such file."""
        for _, image in read_found(find_images(self.written(name, data).parent)):
            if isinstance(image, bytes):
                self.reader.read([image])

    def scheme(self, data: bytes, name: str) -> None:
        """A scheme file."""
        load_scheme(self.written(name, data))

    def labels(self, data: bytes, name: str) -> None:
        """A file of labels."""
        read_labels_csv(self.written(name, data))

    def of_run(self, data: bytes, name: str) -> None:
        """A run of which one file is another."""
        path, before = self.copy / name, (self.run / name).read_bytes()
        path.write_bytes(data)
        try:
            # The page and the report show what they can of a damaged run.
            with contextlib.suppress(SimganCaptchaError):
                run_status(self.copy)
            if len(data) % 8 == 0:  # because a report takes long
                write_report(self.copy)
            with contextlib.suppress(SimganCaptchaError):
                read_run(self.copy)
            reader, background, config = load_run_reader(self.copy)
            recognize = recognizer(reader, background)
            ImageReader(config.scheme, recognize, threads=1).read([_captcha()])
        finally:
            path.write_bytes(before)

    def weights(self, data: bytes, name: str) -> None:
        """Weights of other shapes, types and descriptions under a correct checksum."""
        random = np.random.default_rng(list(data))
        tensors, about = load_weights(self.run / name)
        changed = _with_change(random, about)
        one = sorted(tensors)[random.integers(len(tensors))]
        tensors[one] = [
            tensors[one], tensors[one] * float("nan"), tensors[one].reshape(-1)[:1].clone(),
            tensors[one].double(), tensors[one].long(),
        ][random.integers(5)]  # fmt: skip
        path = self.written("r.safetensors", b"")
        with contextlib.suppress(UnicodeEncodeError):  # after the weights, in a file for people
            save_weights(path, tensors, changed if isinstance(changed, dict) else {"a": changed})
        load_recognizer(path)

    def background(self, data: bytes, name: str) -> None:
        """The background of a run."""
        Background.load(self.written(name, data))

    def onnx(self, data: bytes, name: str) -> None:
        """An exported reader, and one image read with it."""
        found = load_exported(data, threads=1)
        ImageReader(found.scheme, found.recognize, threads=1).read([_captcha()])

    def readings(self, data: bytes, name: str) -> None:
        """The readings of a run."""
        save_readings(self.folder / "again.parquet", load_readings(self.written(name, data)))

    def store(self, data: bytes, name: str) -> None:
        """A store of one part."""
        CaptchaStore(self.written(name, data).parent).in_content_order()

    def tables(self) -> dict[str, bytes]:
        """Parquet files with images and names."""
        images = pa.array([data for data, _ in draw_captchas(4)])
        names = pa.array(["a", "b", None, "d"])
        structs = pa.StructArray.from_arrays([images, names], ["bytes", "path"])
        made = {}
        for name, column in (("binary", images), ("struct", structs)):
            for checked in (True, False):
                buffer = io.BytesIO()
                table = pa.table({"image": column, "name": names})
                pq.write_table(table, buffer, write_page_checksum=checked)
                made[f"{name}-{checked}.parquet"] = buffer.getvalue()
        return made

    def label(self, data: bytes, name: str) -> None:
        """A file to label."""
        path = self.written(name, data)
        for partition in find_partitions([str(path)]):
            label_partition(self.reader, partition, str(path.parent))

    def requests(self) -> dict[str, bytes]:
        """Requests that the server answers as it should."""
        name = load_readings(self.run / READINGS)[0].name
        found = requests(captcha_key(name).encode())
        for of, data in found.items():
            head, _, body = data.partition(b"\r\n\r\n")
            data = head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            assert (status := self.status(data))[:1] in (b"2", b"3"), (of, status)
        return found

    def request(self, data: bytes, name: str) -> None:
        """One request on a connection of its own. A server error is no answer."""
        self.status(data)

    def status(self, data: bytes) -> bytes:
        """The status of the answer to a request; empty if there is no answer."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            answer = b""
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
                # A request that is cut off is answered only when no more can come.
                if not select.select([connection], [], [], 0.5)[0]:
                    connection.shutdown(socket.SHUT_WR)
                while len(answer) < 1 << 20 and (part := connection.recv(65536)):
                    answer += part
        status = answer[9:12]
        assert not answer or (status.isdigit() and status not in (b"500", b"502")), answer[:300]
        assert b"Traceback" not in answer
        return status


# Cases


class _Logged(logging.Handler):
    """Keeps the tracebacks that the server logs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a traceback."""
        if record.exc_info:
            self.found.append("".join(traceback.format_exception(*record.exc_info)))


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Limit the memory of this process within the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def fuzz(run: Path, folder: Path, cases: int, seed: int = 1) -> tuple[dict[str, int], list[str]]:
    """Try this many cases of all kinds.

    Args:
        run: A finished run, which is not changed.
        folder: An empty folder for files. The input of each failed case is kept in it.
        cases: Number of cases; each kind has at least one.
        seed: Random seed.

    Returns:
        Number of cases by kind, and a description of each failure.
    """
    logged = _Logged()
    logging.getLogger("uvicorn.error").addHandler(logged)
    counts, failures = dict[str, int](), list[str]()
    try:
        with serving(shutil.copytree(run, folder / "served")) as address, _limited():
            kinds = _Inputs(run, folder, address).kinds()
            shares = sum(kind.share for kind in kinds.values())
            for kind in kinds.values():
                if kind.mutate in (changed_bytes, changed_json):  # others make inputs of their own
                    for of, data in kind.seeds.items():
                        kind.attempt(data, of)  # an unchanged input is accepted
            for number, (name, kind) in enumerate(kinds.items()):
                counts[name] = -(-cases * kind.share // shares)
                for case in range(counts[name]):
                    random = np.random.default_rng([seed, number, case])
                    of = sorted(kind.seeds)[random.integers(len(kind.seeds))]
                    data = kind.mutate(random, kind.seeds[of])
                    if why := _failure(kind.attempt, data, of, logged):
                        kept = folder / f"failed-{number}-{case}"
                        kept.write_bytes(data)
                        failures.append(f"{name}, {of}, kept as {kept}: {why}")
                print(f"{counts[name]:6} {name}", flush=True)
    finally:
        logging.getLogger("uvicorn.error").removeHandler(logged)
    return counts, failures


def _failure(attempt: Attempt, data: bytes, of: str, logged: _Logged) -> str | None:
    """Why a case fails; None if it does not."""
    faulthandler.dump_traceback_later(2 * PATIENCE, exit=True)
    started = time.process_time()
    try:
        attempt(data, of)
    except SimganCaptchaError:
        pass
    except Exception:
        return traceback.format_exc(limit=-4)
    finally:
        faulthandler.cancel_dump_traceback_later()
    if (seconds := time.process_time() - started) > SECONDS:
        return f"took {seconds:.0f} s"
    return logged.found.pop() if logged.found else None


def main() -> int:
    """Make a run, fuzz, and print the numbers of cases and all failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    write_challenges(folder / "challenges", draw_captchas())
    pipeline(folder / "run", folder / "challenges", *SHORT)
    (folder / "files").mkdir()
    counts, failures = fuzz(folder / "run", folder / "files", given.cases, given.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{sum(counts.values()):6} cases, {len(failures)} failed, at most {peak} MB of memory")
    for failure in failures:
        print(failure, file=sys.stderr)
    if not failures:
        shutil.rmtree(folder)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
