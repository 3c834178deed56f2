"""A folder of loose images, from the first look to a run on them."""

import functools
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from simgan_captcha.cli.scheme_file import scheme_text
from simgan_captcha.config.of_scheme import OF_THE_SCHEME, scheme_settings
from simgan_captcha.config.settings import resolve_config
from simgan_captcha.data.ingest import ingest
from simgan_captcha.data.inspect import FirstLook, doubts, look_at, scheme_of
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import ConfigError, DownloadError, ImageError, UsageError
from simgan_captcha.inference.reader import Reader
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.run_folder import READINGS, read_run
from simgan_captcha.scheme import Scheme, load_scheme
from simgan_captcha.simulator.glyphs import WIDE_FONTS, open_font
from simgan_captcha.simulator.settings import LayoutSettings
from tests.commands import command
from tests.small_run import ASSIGNMENTS, SCHEME, draw_captchas

CAPTCHAS = draw_captchas(80)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """80 images, and what else lies in people's folders."""
    folder = tmp_path / "my captchas"
    folder.mkdir()
    for number, (data, _) in enumerate(CAPTCHAS):
        (folder / f"{number}.jpg").write_bytes(data)
    (folder / "notes.txt").write_text("about them")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "more").mkdir()
    return folder


def test_images_are_stored_under_their_names(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    Image.new("L", (20, 20)).save(folder / "small.png")
    report = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert (report.images_stored, report.quarantined, report.files_ignored) == (80, 2, 3)
    stored = CaptchaStore(tmp_path / "store").in_content_order()
    assert dict(zip(stored.names, stored.images, strict=True)) == {
        f"{number}.jpg": data for number, (data, _) in enumerate(CAPTCHAS)
    }
    assert any("20x20" in reason for reason in report.reasons)


def test_new_images_are_added(folder: Path, tmp_path: Path) -> None:
    late = [folder / f"{number}.jpg" for number in range(70, 80)]
    kept = {path: path.read_bytes() for path in late}
    for path in late:
        path.unlink()
    first = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    again = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert (first.images_stored, again.batches_skipped) == (70, 1)
    for path, data in kept.items():
        path.write_bytes(data)
    more = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert (more.images_stored, more.duplicates) == (10, 70)
    assert len(CaptchaStore(tmp_path / "store")) == 80


def test_a_file_of_labels_is_not_a_batch(folder: Path, tmp_path: Path) -> None:
    (folder / "labels.json").write_text('{"images": []}')
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(CAPTCHAS[0][0])
    report = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert (report.images_stored, report.quarantined, report.files_ignored) == (80, 1, 4)
    assert any("surrogate" in reason for reason in report.reasons)
    (folder / "late.jpg").write_bytes(CAPTCHAS[1][0])
    more = ingest(folder, tmp_path / "store", scheme=SCHEME, user="")
    assert sum(more.reasons.values()) == more.quarantined == 1


def test_images_of_another_size_are_an_error(folder: Path, tmp_path: Path) -> None:
    other = Scheme(alphabet="ab", length=2, width=100, height=50)
    with pytest.raises(DownloadError, match=r"none of its 80 images can be used.*48x24"):
        ingest(folder, tmp_path / "store", scheme=other, user="")


def test_the_inspection_describes_the_images(folder: Path) -> None:
    look = look_at(folder)
    assert (look.files, look.looked_at, look.unreadable, look.size) == (80, 80, 0, (48, 24))
    assert look.kind == "shared"  # grey from left to right, and a line
    assert look.clutter == ()
    assert 8 < look.text_height < 20
    assert 20 < look.text_width < 48
    assert look.reading_size == look.size
    assert look.background.bright_ink
    assert not look.coloured_ink
    assert 0 < look.rows[0] < look.rows[1] < 24
    (doubt,) = doubts(look)
    assert doubt.startswith("3 files left out: 1 folder ")


def test_the_inspection_warns_of_ignored_files(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    Image.new("L", (20, 20)).save(folder / "small.png")
    assert [line.split(",")[0] for line in doubts(look_at(folder))] == [
        "1 of 82 images cannot be read",
        "3 files left out: 1 folder (not looked into without --recursive)",
        "1 image is nearly black",
        "the images have 2 sizes",
    ]


def coloured(seed: int, size: tuple[int, int] = (200, 80)) -> Image.Image:
    """Four digits and five dots of one colour on another, light on dark or dark on light."""
    random = np.random.default_rng(seed)
    colours = random.integers(0, 100, 3), random.integers(155, 256, 3)
    ground, ink = (tuple(map(int, colour)) for colour in random.permutation(colours))
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    font = open_font("dejavu-sans-bold", size[1] // 2, "0123456789")
    for slot in range(4):
        place = (slot + 0.3) * size[0] / 4, size[1] / 4
        draw.text(place, str(random.integers(10)), ink, font)
    for x, y in random.random((12, 2)) * size:
        draw.rectangle((x, y, x + 2, y + 2), ink)
    return image


def test_the_inspection_detects_colours_that_differ_per_image(tmp_path: Path) -> None:
    for number in range(60):
        coloured(number).save(tmp_path / f"{number}.png")
    coloured(60, (100, 40)).save(tmp_path / "half.png")
    look = look_at(tmp_path)
    assert look.kind == "plain"
    assert look.clutter == ("lines", "dots")
    assert look.coloured_ink
    width, height = look.reading_size
    assert width * height <= 5_100
    assert width / height == pytest.approx(200 / 80, rel=0.02)
    assert 0.3 * height < look.text_height < 0.7 * height
    assert doubts(look) == []


def test_the_inspection_detects_varying_backgrounds(tmp_path: Path) -> None:
    ramp = np.linspace(0, 120, 200)[None, :, None].repeat(80, 0)
    for number in range(40):
        seen = np.asarray(coloured(number).convert("L"), float)
        dark = (abs(seen - np.median(seen)) > 50)[..., None] * 130.0
        light = np.random.default_rng(number).integers(215, 256, 3)
        shade = light - ramp[:, :: 1 - number % 2 * 2]
        picture = np.clip(shade - dark, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    look = look_at(tmp_path)
    assert look.kind == "varying"
    assert look.reading_size[0] < 200
    assert 0.3 * look.reading_size[1] < look.text_height < 0.7 * look.reading_size[1]
    scheme = scheme_of(look, "0123456789", (4, 4))
    assert 'background = "varying"' in scheme_text(look, scheme, tmp_path, "my.toml")


@pytest.mark.parametrize("light", [False, True])
def test_letters_in_fixed_places_are_not_background(tmp_path: Path, light: bool) -> None:
    """Their mean is darker than the rest of the image, or lighter."""
    random, font = np.random.default_rng(3), open_font("dejavu-sans-bold", 22, "0123456789")
    for number in range(60):
        image = Image.new("RGB", (90, 24), "white")
        draw = ImageDraw.Draw(image)
        for slot in range(4):
            pale = tuple(random.integers(0, 200, 3).tolist())
            at = (6 + 21 * slot + int(random.integers(2)), int(random.integers(-2, 1)))
            draw.text(at, str(random.integers(10)), pale, font)
        pixels = np.asarray(image)
        Image.fromarray(255 - pixels if light else pixels).save(tmp_path / f"{number}.png")
    look = look_at(tmp_path)
    assert look.kind == "plain"
    assert "lines" in look.clutter
    assert look.reading_size == (135, 36)  # 24 rows are too few for the recognizer


def test_the_inspection_accepts_images_of_any_sizes(tmp_path: Path) -> None:
    for number in range(30):
        coloured(number, (180 + number, 80)).save(tmp_path / f"{number}.png")
    look = look_at(tmp_path)
    assert look.kind == "plain"
    width, height = look.reading_size
    assert width / height == pytest.approx(195 / 80, rel=0.03)
    assert doubts(look) == []


@functools.cache  # no fixture, as hypothesis would print all of it
def a_look() -> FirstLook:
    with tempfile.TemporaryDirectory() as folder:
        for number, (data, _) in enumerate(CAPTCHAS):
            (Path(folder) / f"{number}.jpg").write_bytes(data)
        return look_at(Path(folder))


# Others are refused, see tests/test_scheme.py.
CHARACTERS = st.characters(exclude_categories=["M", "Cc", "Cf", "Cs", "Zl", "Zp"]).filter(
    lambda character: unicodedata.bidirectional(character) not in ("R", "AL")
)
ALPHABETS = st.lists(CHARACTERS, min_size=2, max_size=40, unique=True).map("".join)


@given(alphabet=ALPHABETS, folder=st.text(st.characters(exclude_categories=["Cs"])))
def test_the_scheme_file_of_init_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, alphabet: str, folder: str
) -> None:
    path = tmp_path_factory.mktemp("scheme") / "my.toml"
    text = scheme_text(a_look(), scheme_of(a_look(), alphabet, (2, 3)), Path(folder), path.name)
    path.write_text(text, encoding="utf-8", newline="")
    assert load_scheme(path) == Scheme(
        alphabet=alphabet,
        length=(2, 3),
        width=48,
        height=24,
        text_height=a_look().text_height,
        text_width=a_look().text_width,
    )


GUESSES = {
    "alphabet": "# A guess: remove characters that never occur",
    "length": "# A guess: letters that touch count as one.",
}


@pytest.mark.parametrize("given", [[], ["alphabet"], ["length"], ["alphabet", "length"]])
@pytest.mark.parametrize("found", [[], ["alphabet"], ["length"]])
def test_unknown_settings_are_marked_as_guesses(given: list[str], found: list[str]) -> None:
    remarks = {key: f"Seen: the {key}." for key in found}
    scheme = scheme_of(a_look(), None, None)
    text = scheme_text(a_look(), scheme, Path("images"), "my.toml", given, remarks)
    for key, guess in GUESSES.items():
        assert (guess in text) == (key not in [*given, *found])
    assert all(f"# {remark}\n{key} = " in text for key, remark in remarks.items())
    assert ("# Separate stretches of ink" in text) == ("length" not in found)


def test_init_without_the_generalist_marks_the_length_as_a_guess(
    folder: Path, tmp_path: Path
) -> None:
    scheme = tmp_path / "my.toml"
    assert command("init", folder, scheme, "--alphabet", "あいう").code == 0
    text = scheme.read_text("utf-8")
    assert GUESSES["length"] in text
    assert GUESSES["alphabet"] not in text


def nothing(folder: Path) -> None:
    for path in folder.glob("*.jpg"):
        path.unlink()


def broken(folder: Path) -> None:
    for path in folder.glob("*.jpg"):
        path.write_bytes(b"no image")


def alike(folder: Path) -> None:
    for path in folder.glob("*.jpg"):
        Image.new("L", (48, 24), 100).save(path)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (nothing, UsageError, "expected images .*, got none of 3 entries .*: 1 folder"),
        (broken, ImageError, "none of 80 inspected ones can be read; the first is 0.jpg"),
        (alike, ImageError, "got identical images"),
    ],
)
def test_folders_that_cannot_be_inspected_are_errors(
    folder: Path, change: Callable[[Path], None], error: type[Exception], says: str
) -> None:
    change(folder)
    with pytest.raises(error, match=says):
        look_at(folder)


def test_a_missing_folder_cannot_be_inspected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder or a zip file of images"):
        look_at(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alphabets = 'ab'\nlength = 2\nwidth = 48\nheight = 24", "did you mean alphabet"),
        ("alphabet = 'ab'\nlength = 2\nwidth = 48", "height: Field required"),
        ("alphabet = 'aba'\nlength = 2\nwidth = 48\nheight = 24", "repeats 'a'"),
        (
            "alphabet = 'ab'\nlength = 0\nwidth = 48\nheight = 24",
            "length: expected a number from 1 to 64",
        ),
        ("alphabet = [", "expected TOML"),
        ("alphabet = '\x00'", "expected TOML"),
    ],
)
def test_other_scheme_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_scheme(path)
    with pytest.raises(ConfigError, match="simgan-captcha init FOLDER"):
        load_scheme(tmp_path / "none.toml")


def test_a_scheme_sets_the_initial_simulator(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    lines = ['alphabet = "abc1"', "length = 3", "width = 100", "height = 40"]
    drawn = {}
    for name, more in {
        "said": ["text_width = 60", "text_height = 20"],
        "silent": [],
        "plain": ['background = "plain"', "text_width = 5000"],
    }.items():
        path.write_text("\n".join([*lines, *more]))
        if name == "plain":
            with pytest.raises(ConfigError, match="text_width"):
                load_scheme(path)
            path.write_text("\n".join([*lines, more[0], "text_width = 300"]))
        settings = scheme_settings(load_scheme(path))
        assert all(setting.startswith(OF_THE_SCHEME) for setting in settings)
        drawn[name] = resolve_config("quick", settings).simulator
    layouts = {name: of.layout for name, of in drawn.items()}
    assert layouts["said"] == LayoutSettings(extent=(0.48, 0.72))
    assert layouts["silent"] == LayoutSettings()
    assert layouts["plain"] == LayoutSettings(extent=(0.8, 1.2))  # no wider than the image
    assert drawn["said"].size == (15, 28)
    assert drawn["silent"].size == (18, 34)  # six tenths of the image
    assert set(drawn["said"].fonts) == set(WIDE_FONTS)
    assert drawn["plain"].ink[0] < drawn["said"].ink[0]


def test_from_a_folder_to_readings(folder: Path, tmp_path: Path) -> None:
    """What a user types, with a small training."""
    scheme, run, labels = (tmp_path / name for name in ("my.toml", "run", "labels.csv"))
    said = command("init", folder, scheme, "--alphabet", "abc1", "--length", "2")
    assert said.code == 0
    assert f"simgan-captcha run RUN --scheme {scheme} --images '{folder}'" in said.out
    with Image.open(scheme.with_suffix(".png")) as sheet:
        assert sheet.width > 5 * 48
    for file, says in (
        (folder / "my.toml", "expected the scheme outside of"),
        (tmp_path / "my.png", "named like my.toml"),
        (Path(), "named like my.toml"),
    ):
        command("init", folder, file).error(2, says)
    piped = command("init", folder, tmp_path / "piped.toml", "--length", "2", "--json")
    found = json.loads(piped.out)
    assert (found["file"], found["scheme"]["length"]) == (str(tmp_path / "piped.toml"), 2)
    other = tmp_path / "other.toml"
    command("init", folder, other, "--alphabet", "aab").error(2, "repeats 'a'")
    command("init", folder, other, "--alphabet", "").error(2, "alphabet: ")
    assert not other.exists()
    before = scheme.read_text()
    command("init", folder, scheme).error(2, "expected a new file")
    assert scheme.read_text() == before

    settings = [f"--set={a}" for a in ASSIGNMENTS if not a.startswith("scheme.")]
    arguments = ["--preset", "quick", "--seed", "3", "--quiet", *settings]
    done = command("run", run, "--scheme", scheme, "--images", folder, *arguments)
    assert done.code == 0, done.err
    readings = {reading.name: reading.text for reading in load_readings(run / READINGS)}
    assert readings.keys() == {f"{number}.jpg" for number in range(80)}
    assert all(re.fullmatch("[abc1]{2}", text) for text in readings.values())
    again = command("run", run, *arguments)  # goes on with its own scheme and folder
    assert again.code == 0, again.err
    other_preset = ["--preset", "cpu", "--seed", "3", "--quiet", *settings]
    kept = command("run", run, *other_preset)  # another preset, the same captchas
    assert kept.code == 0, kept.err
    assert read_run(run)["scheme"]["alphabet"] == "abc1"

    rows = [f"{number}.jpg,{text}" for number, (_, text) in enumerate(CAPTCHAS)]
    labels.write_text("\n".join(["name,label", *rows]))
    judged = command("judge", run, "--labels", labels)
    assert judged.code == 0, judged.err
    assert "80" in judged.out
    command("run", run, "--images", folder, "--challenges", folder).error(2, "got both")


def test_a_run_on_captchas_of_several_lengths_sizes_and_colours(tmp_path: Path) -> None:
    """From init's own words to readings; nothing here has time to be learned well."""
    images, labels = tmp_path / "images", ["name,label"]
    images.mkdir()
    font = open_font("dejavu-sans-bold", 28, "abc1")
    for number in range(400):
        random = np.random.default_rng(number)
        text = "".join(random.choice(list("abc1"), random.integers(2, 4)))
        colours = random.integers(0, 100, 3), random.integers(155, 256, 3)
        ground, ink = (tuple(map(int, colour)) for colour in random.permutation(colours))
        size = (120, 48) if number % 3 else (150, 60)
        image = Image.new("RGB", size, ground)
        draw = ImageDraw.Draw(image)
        for slot, character in enumerate(text):
            draw.text((int(6 + 38 * slot + random.integers(-3, 4)), 8), character, ink, font)
        draw.line((0, *random.integers(0, 48, 1), 120, *random.integers(0, 48, 1)), ink)
        image.save(images / f"{number}.png")
        labels.append(f"{number}.png,{text}")
    (tmp_path / "labels.csv").write_text("\n".join(labels))
    scheme = tmp_path / "my.toml"
    begun = command("init", images, scheme, "--alphabet", "abc1", "--length", "2-3")
    assert begun.code == 0, begun.err
    written = load_scheme(scheme)
    assert (written.max_length, written.min_length, written.background) == (3, 2, "plain")
    small = [a for a in ASSIGNMENTS if not a.startswith(("scheme.", "simulator.", "calibrate="))]
    settings = [
        *small,
        "recognizer.images=raw",
        "recognizer.channels=[8, 8, 16, 16, 32]",
        "recognizer.batch_size=32",
        "recognizer.learning_rate=0.01",
        "recognizer.ema_decay=0.95",
        "recognizer.steps=400",
        "calibrate=false",
        'simulator.fonts=["dejavu-sans-bold", "roboto-black"]',
        "simulator.rotation=[-5, 5]",
    ]
    run = tmp_path / "run"
    ran = command(
        *("run", str(run), "--scheme", str(scheme), "--images", str(images)),
        *("--preset", "quick", "--quiet"),
        *[f"--set={setting}" for setting in settings],
    )
    assert ran.code == 0, ran.err
    readings = load_readings(run / READINGS)
    assert len(readings) == 400
    assert {len(reading.text) for reading in readings} <= {0, 1, 2, 3}
    judged = command("judge", run, "--labels", tmp_path / "labels.csv", "--json")
    assert judged.code == 0, judged.err
    assert json.loads(judged.out)["character_accuracy"] > 0.5  # a quarter by chance

    exported = command("export", run, tmp_path / "reader.onnx")
    assert exported.code == 0, exported.err
    read = Reader(tmp_path / "reader.onnx").read(images / "7.png")
    assert read.text == next(r.text for r in readings if r.name == "7.png")
    assert len(read.text) == len(read.character_confidence)
