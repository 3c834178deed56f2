"""Images wherever they lie, and every file that is not taken counted and said."""

import base64
import csv
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simgan_captcha.data.folder import find_images, read_found
from simgan_captcha.data.ingest import ingest, ingest_warnings
from simgan_captcha.data.inspect import doubts, look_at
from simgan_captcha.data.kinds import left_out_in_words
from simgan_captcha.data.pictures import NEARLY_BLACK, open_picture
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import DownloadError, ImageError, UsageError
from tests.data.downloading import batch, body
from tests.small_run import SCHEME, draw_captchas

CAPTCHAS = [data for data, _ in draw_captchas(12)]
KINDS = {"gif": "GIF", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF", "PNG": "PNG", "": "PNG"}


def images(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(CAPTCHAS[:count]):
        (folder / f"{number}.jpg").write_bytes(data)
    return folder


def others(folder: Path) -> None:
    """What lies in people's folders, and is no image."""
    (folder / "notes.txt").write_text("about them")
    (folder / "labels.csv").write_text("name,label\n0.jpg,ab\n")
    (folder / "labels.json").write_text('[{"image": "0.jpg", "label": "ab"}]')
    (folder / "paper.pdf").write_bytes(b"%PDF-1.7 and so on")
    (folder / ".hidden.jpg").write_bytes(CAPTCHAS[0])
    (folder / "more").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "nowhere").symlink_to(folder / "gone")
    (folder / "empty").touch()


def test_ignored_files_are_counted_by_kind(tmp_path: Path) -> None:
    folder = images(tmp_path / "images")
    others(folder)
    left_out = {
        "text": 2,
        "no regular file": 2,
        "JSON": 1,
        "PDF": 1,
        "hidden": 1,
        "folder (not looked into without --recursive)": 1,
        "empty": 1,
    }
    found = find_images(folder)
    assert found.left_out == left_out
    assert [file.name for file in found.files] == [f"{n}.jpg" for n in range(6)]
    report = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert report.left_out == left_out
    assert (report.images_stored, report.files_ignored) == (6, 9)
    (line,) = ingest_warnings(report)
    assert line.startswith("9 files left out: 2 no regular file, 2 text, 1 JSON, 1 PDF")
    again = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert ingest_warnings(again) == [line]
    assert line in doubts(look_at(folder))
    assert left_out_in_words({}) == ""


def test_images_of_all_formats_are_used_under_any_name(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 3)
    for number, (suffix, kind) in enumerate(KINDS.items()):
        name = f"other-{number}" + (f".{suffix}" if suffix else "")
        Image.fromarray(open_picture(CAPTCHAS[4]).rgb).save(folder / name, kind)
    (folder / "named.txt").write_bytes(CAPTCHAS[5])
    report = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert (report.images_stored, report.quarantined, report.left_out) == (10, 0, {})


def test_damaged_files_go_to_the_quarantine_with_their_kind(tmp_path: Path) -> None:
    folder = images(tmp_path / "images")
    for number, kind in enumerate(["GIF", "WEBP", "BMP", "TIFF", "PNG"]):
        path = folder / f"x{number}.jpg"
        Image.fromarray(open_picture(CAPTCHAS[4]).rgb).save(path, kind)
        path.write_bytes(path.read_bytes()[: 60 + 40 * number])
    for number in range(3):
        (folder / f"page{number}.png").write_text(f"<html>{number}</html>")
    report = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert report.quarantined == 8
    said = "; ".join(ingest_warnings(report))
    assert "3 x expected an image (JPEG, PNG, GIF, BMP, WebP, TIFF), got a web page" in said
    for kind in ("GIF", "WebP", "BMP", "TIFF", "PNG"):
        assert f"1 x expected a whole image, got a damaged {kind}" in said
    assert "b'" not in said
    assert any(line.startswith("8 of 14 images cannot be read") for line in doubts(look_at(folder)))


@pytest.mark.parametrize(
    ("challenges", "pictures"), [(("1.json", "2.json"), 2), (("challenge-1",), 6)]
)
def test_a_mix_of_batches_and_images_is_refused(
    tmp_path: Path, challenges: tuple[str, ...], pictures: int
) -> None:
    folder = images(tmp_path / "images", pictures)
    for name in challenges:
        (folder / name).write_bytes(body(batch(1)))
    says = f"got both: {len(challenges)} batches and {pictures} images"
    with pytest.raises(UsageError, match=says):
        ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    with pytest.raises(UsageError, match=says):
        look_at(folder)
    assert not (tmp_path / "store").exists()


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_zip_files_are_read_and_their_names_are_labels(tmp_path: Path) -> None:
    members = {f"a/{n}.jpg": data for n, data in enumerate(CAPTCHAS[:3])}
    hostile = {"../../up.jpg": CAPTCHAS[3], "/etc/passwd": CAPTCHAS[4]}
    rest = {"notes.txt": b"about", "__MACOSX/._0.jpg": b"x", "broken.png": b"no image"}
    archive = zipped(tmp_path / "some.zip", {**members, **hostile, **rest})
    report = ingest(archive, tmp_path / "store", scheme=SCHEME, user="")
    assert (report.images_stored, report.quarantined) == (5, 1)
    assert report.left_out == {"text in a zip file": 1, "hidden": 1}
    stored = CaptchaStore(tmp_path / "store").in_content_order()
    assert set(stored.names) == {*members, *hostile}
    assert not (tmp_path.parent / "up.jpg").exists()
    again = ingest(archive, tmp_path / "store", scheme=SCHEME, user="")
    assert again.batches_skipped == 1
    folder = images(tmp_path / "images", 2)
    archive.rename(folder / "some.zip")
    found = find_images(folder)
    assert "some.zip/a/0.jpg" in [file.name for file in found.files]
    assert look_at(folder).looked_at == 8


def test_hostile_zip_files_cost_little(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 2)
    data = zipped(tmp_path / "x.zip", {"0.jpg": CAPTCHAS[0], "1.jpg": CAPTCHAS[1]}).read_bytes()
    (folder / "cut.zip").write_bytes(data[:-30])
    (folder / "spoilt.zip").write_bytes(data[:60] + b"\xff" * 200 + data[260:])
    zipped(folder / "bomb.zip", {"bomb.png": b"\x89PNG\r\n\x1a\n" + bytes(50_000_000)})
    report = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert report.left_out == {"damaged zip": 1}
    assert any("at most 8000000 bytes" in reason for reason in report.reasons)
    assert any("damaged" in reason for reason in report.reasons)
    assert report.images_stored >= 2


def test_subfolders_are_searched_on_request(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 2)
    images(folder / "deep" / "deeper", 3)
    (folder / "deep" / "circle").symlink_to(folder)
    assert len(find_images(folder).files) == 2
    found = find_images(folder, recursive=True)
    assert [file.name for file in found.files] == [
        "0.jpg", "1.jpg", *(f"deep/deeper/{n}.jpg" for n in range(3)),
    ]  # fmt: skip
    assert found.left_out == {"no regular file": 1}
    assert look_at(folder, recursive=True).files == 5


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_json_and_csv_of_base64_and_data_uris(tmp_path: Path) -> None:
    folder = tmp_path / "batches"
    folder.mkdir()
    uris = [f"data:image/jpeg;base64,{encoded(data)}" for data in CAPTCHAS[:4]]
    entries = [{"name": f"j{n}", "image": uri} for n, uri in enumerate(uris)]
    (folder / "uris.json").write_text(json.dumps({"images": [*entries, {"name": "x", "data": 7}]}))
    with (folder / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["File", "label", "picture"])
        rows.writerows([f"c{n}", "ab", encoded(data)] for n, data in enumerate(CAPTCHAS[4:8]))
        rows.writerow(["bad", "ab", "%%%"])
    (folder / "labels.csv").write_text("name,label\nj0,ab\n")
    report = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert (report.images_stored, report.quarantined) == (8, 2)
    assert report.left_out == {"text": 1}
    stored = CaptchaStore(tmp_path / "store").in_content_order()
    assert sorted(stored.names) == [*(f"c{n}" for n in range(4)), *(f"j{n}" for n in range(4))]
    assert set(stored.images) == set(CAPTCHAS[:8])
    assert look_at(folder).looked_at == 10
    alone = ingest(folder / "table.csv", tmp_path / "alone", scheme=SCHEME, user="")
    assert alone.images_stored == 4


def test_nearly_black_images_are_reported_at_every_start(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, data in enumerate(CAPTCHAS):
        grey = open_picture(data).rgb[..., 0].astype(np.uint16) << 4  # 12 of 16 bits
        Image.fromarray(grey).save(folder / f"{number}.png")
    for _ in range(2):
        report = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
        assert report.notes == {NEARLY_BLACK: 12}
        assert ingest_warnings(report) == [f"12 images are {NEARLY_BLACK}"]
    assert f"12 images are {NEARLY_BLACK}" in doubts(look_at(folder))


def test_an_unreadable_file_or_batch_gives_an_error(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", 2)
    (folder / "1.jpg").chmod(0)
    (folder / "2.jpg").symlink_to(folder / "0.jpg")
    taken = dict(read_found(find_images(folder)))
    assert {*taken} >= {"0.jpg", "2.jpg"}
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "challenge-0").write_text("no batch")
    ((name, error),) = read_found(find_images(broken))
    assert name == "challenge-0"
    assert isinstance(error, ImageError)
    with pytest.raises(DownloadError, match="got text"):
        ingest(broken, tmp_path / "store", scheme=SCHEME, user="")
