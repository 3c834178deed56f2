"""Reads one captcha in every image format and through every interface.

    python benchmarks/picture_formats.py RUN

RUN is a finished run. The script takes the captcha that the run reads with the highest confidence,
and writes it in each format and mode. It gives each file to the generalist, the run, an exported
file, `label`, the page of `serve`, and a run's folder of images. The result holds the text or the
refusal. Labels are not needed, because all interfaces must give the same text. Writes
benchmarks/results/picture_formats.{json,md}.
"""

import argparse
import base64
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from record import RESULTS, made_by_line, provenance, write_table

import simgan_captcha as sc
from simgan_captcha.atomic import write_json
from simgan_captcha.data.pictures import open_picture
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import ImageError
from simgan_captcha.pipeline.run_folder import STORE
from simgan_captcha.serving.listening import listen, url_of
from simgan_captcha.web.guard import LOOPBACK_HOSTS
from simgan_captcha.web.server import build_server

Door = Callable[[Path], str]
"""A function that reads a file and returns its text, or the reason of a refusal."""


def main(arguments: Sequence[str] | None = None) -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    run = sc.Run(options.run)
    surest = max(run.readings(), key=lambda reading: reading.confidence)
    stored = CaptchaStore(options.run / STORE).in_content_order()
    image = dict(zip(stored.names, stored.images, strict=True))[surest.name]
    picture = Image.fromarray(open_picture(image).rgb)
    table: dict[str, dict[str, str]] = {}
    with TemporaryDirectory() as folder, doors(run, Path(folder)) as ways:
        for name, data in in_formats(picture).items():
            path = Path(folder) / name
            path.write_bytes(data)
            table[name] = {way: door(path) for way, door in ways.items()}
    write_json(
        options.out / "picture_formats.json",
        {"made_by": began, "expected": surest.text, "texts": table},
    )
    write(options.out, surest.text, table, began)


def in_formats(picture: Image.Image) -> dict[str, bytes]:
    """Encode an image in all formats, by file name. The last files are not readable images."""
    alpha = picture.convert("RGBA")
    alpha.putalpha(255)
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: display rotated by 90 degrees clockwise
    sixteen = Image.fromarray(257 * np.asarray(picture.convert("L")).astype(np.uint16))
    png = saved(picture, "PNG")
    return {
        "colour.jpg": saved(picture, "JPEG", quality=95),
        "grey.jpg": saved(picture.convert("L"), "JPEG", quality=95),
        "cmyk.jpg": saved(picture.convert("CMYK"), "JPEG", quality=95),
        "turned.jpg": saved(turned, "JPEG", quality=95, exif=exif),
        "colour.png": png,
        "UPPER.PNG": png,
        "no-suffix": png,
        "wrong-suffix.gif": png,
        "grey.png": saved(picture.convert("L"), "PNG"),
        "transparent.png": saved(alpha, "PNG"),
        "palette.png": saved(picture.quantize(64), "PNG"),
        "16-bit.png": saved(sixteen, "PNG"),
        "still.gif": saved(picture.quantize(64), "GIF"),
        "animated.gif": saved(
            picture.quantize(64), "GIF", save_all=True, append_images=[picture.quantize(64)]
        ),
        "colour.bmp": saved(picture, "BMP"),
        "lossless.webp": saved(picture, "WEBP", lossless=True),
        "colour.tiff": saved(picture, "TIFF"),
        "cut.png": png[: len(png) // 3],
        "words.txt": b"no picture\n",
        "empty.png": b"",
    }


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@contextmanager
def doors(run: sc.Run, folder: Path) -> Iterator[dict[str, Door]]:
    """Yield every way to read a file with a run, an exported reader or the generalist."""
    exported = folder / "reader.onnx"
    run.export(exported)
    reader = sc.Reader(exported)
    scheme = run.scheme
    lengths = (scheme.min_length, scheme.max_length)

    def in_python(read: Callable[[Path], str]) -> Door:
        def door(path: Path) -> str:
            try:
                return read(path)
            except ImageError as error:
                return f"refused: {error}"

        return door

    with served(run.folder) as client:

        def page(path: Path) -> str:
            reply = client.post("/api/read", files={"files": path.read_bytes()}).json()
            # A request whose images are all refused is answered with a problem.
            (answer,) = reply.get("readings") or reply["errors"]
            return str(answer.get("text") or f"refused: {answer['error']}")

        yield {
            "`sc.read`": in_python(
                lambda path: sc.read(path, alphabet=scheme.alphabet, length=lengths).text
            ),
            "`Run.read`": in_python(lambda path: run.read(path).text),
            "`Reader`": in_python(lambda path: reader.read(path).text),
            "`Reader`, bytes": in_python(lambda path: reader.read(path.read_bytes()).text),
            "`Reader`, data: URI": in_python(
                lambda path: (
                    reader.read("data:;base64," + base64.b64encode(path.read_bytes()).decode()).text
                )
            ),
            "`read` command": lambda path: command(exported, path),
            "`read` command, stdin": lambda path: command(exported, "-", path.read_bytes()),
            "`label`": lambda path: labelled(exported, path),
            "page": page,
        }


def command(reader: Path, source: Path | str, stdin: bytes | None = None) -> str:
    """Read an image with the command line, and return the text from its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "simgan_captcha", "read", reader, source, "--json"],
        input=stdin,
        capture_output=True,
    )
    if b"error: " in done.stderr:
        return f"refused: {done.stderr.decode().strip().splitlines()[-1]}"
    (row,) = json.loads(done.stdout)["readings"]
    return str(row.get("text") or f"refused: {row['error']}")


def labelled(reader: Path, path: Path) -> str:
    """Read an image with bulk labelling, and return the text that it writes."""
    with TemporaryDirectory() as folder:
        table, out = Path(folder) / "in.parquet", Path(folder) / "out"
        pq.write_table(pa.table({"name": [path.name], "image": [path.read_bytes()]}), table)
        subprocess.run(
            [sys.executable, "-m", "simgan_captcha", "label", reader, table, out, "--quiet"],
            check=True,
            capture_output=True,
        )
        (row,) = pq.read_table(next(out.glob("*.parquet"))).to_pylist()
        return str(row["text"] or f"refused: {row['error']}")


@contextmanager
def served(run: Path) -> Iterator[httpx.Client]:
    """Serve the page of a run on loopback, and yield a client for it."""
    with listen("127.0.0.1", 0) as listener:
        server = build_server(run, LOOPBACK_HOSTS)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=url_of(listener), timeout=60, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def write(
    out: Path, expected: str, table: Mapping[str, Mapping[str, str]], began: Mapping[str, Any]
) -> None:
    ways = list(next(iter(table.values())))
    rows, reasons = [], dict[str, None]()
    for name, texts in table.items():
        cells = []
        for way in ways:
            if texts[way].startswith("refused: "):
                reasons[f"- `{name}`, {way}: {texts[way].removeprefix('refused: ')}"] = None
            cells.append("refused" if texts[way].startswith("refused: ") else texts[way])
        rows.append((f"`{name}`", *cells))
    write_table(
        out / "picture_formats.md",
        f"One captcha, {expected!r}, in every picture format, read in every way",
        ("file", *ways),
        rows,
        (made_by_line(began), ""),
    )
    with (out / "picture_formats.md").open("a") as file:
        file.write("\n".join(["", "What is refused, in words:", "", *reasons, ""]))


if __name__ == "__main__":
    main()
