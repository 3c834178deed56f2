"""Findings on folders of images alone: each weakness is found where it is, and only there."""

import base64
import io
import string
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from simgan_captcha.evaluation.audit.findings import Found, find_weaknesses
from simgan_captcha.evaluation.audit.leaks import metadata_of
from simgan_captcha.evaluation.audit.texts import best_guess, space_from_repeats, text_space
from simgan_captcha.evaluation.audit.verdict import (
    Finding,
    Severity,
    most_effective_first,
    severity_of,
)
from simgan_captcha.scheme import Scheme

ALPHABET = string.ascii_lowercase
SCHEME = Scheme(alphabet=ALPHABET, length=5, width=80, height=24)
WIDTH, HEIGHT, COUNT = 80, 24, 60
TEXTS = ["".join(row) for row in np.random.default_rng(5).choice(list(ALPHABET), (COUNT, 5))]
NAMES = [f"{number:04d}.png" for number in np.random.default_rng(6).permutation(9000)[:COUNT]]


def drawn(number: int, text: str) -> Image.Image:
    """Ink of several colours on noise of its own: nothing to find."""
    random = np.random.default_rng(number)
    noise = random.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    for slot, character in enumerate(text):
        colour = tuple(int(v) for v in random.integers(0, 256, 3))
        ImageDraw.Draw(image).text((5 + 14 * slot, 6), character, colour)
    return image


def on_white(number: int, text: str, ink: str = "#203040") -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1"
    draw.text((5, 6), text, ink)
    return image


def on_one_picture(number: int, text: str) -> Image.Image:
    picture = drawn(0, "").resize((WIDTH, HEIGHT))
    ImageDraw.Draw(picture).text((5 + number % 20, 6), text, "black")
    return picture


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def found(
    draw: Callable[[int, str], Image.Image] = drawn,
    names: list[str] = NAMES,
    texts: list[str] | None = None,
    **options: float,
) -> Found:
    texts = TEXTS if texts is None else texts
    images = [
        (name, encoded(draw(number, text)))
        for number, (name, text) in enumerate(zip(names, texts, strict=True))
    ]
    return find_weaknesses(images, dict(zip(names, texts, strict=True)), SCHEME, **options)


def only(result: Found, start: str) -> Finding:
    """The one finding there is."""
    (finding,) = result.findings
    assert finding.name.startswith(start), finding
    return finding


def test_a_sound_captcha_has_no_findings() -> None:
    result = found()
    assert result.findings == []
    assert (result.images, result.of, result.notes, result.given_away) == (COUNT, COUNT, [], 0)


def test_images_that_repeat_are_counted_and_named() -> None:
    images = [(name, encoded(drawn(n % 45, TEXTS[n % 45]))) for n, name in enumerate(NAMES)]
    finding = only(find_weaknesses(images), "Images repeat")
    assert finding.effect == 15 / COUNT
    assert finding.severity is Severity.medium
    assert f"15 of {COUNT} images" in finding.evidence
    assert f"{NAMES[0]} and {NAMES[45]}" in finding.evidence


def test_a_shared_background_is_found() -> None:
    assert "show a picture there" in only(found(on_one_picture), "All images share").evidence


def test_ink_of_one_colour_is_found_and_named() -> None:
    finding = only(found(on_white), "One colour separates the ink")
    assert "the ink is about #203040 in all of them" in finding.evidence
    assert finding.severity is Severity.medium
    colours = ["#203040", "#b00020", "#00a030", "#2040c0"]
    several = only(found(lambda n, text: on_white(n, text, colours[n % 4])), "One colour")
    assert several.severity is Severity.low
    assert "#" not in several.evidence


@pytest.mark.parametrize(
    ("write", "way"),
    [
        (lambda text: f"{text}_x", "as it is"),
        (lambda text: f"IMG-{text.upper()}", "as it is"),
        (lambda text: text[::-1], "backwards"),
        (lambda text: text.encode().hex(), "in hexadecimal"),
        (lambda text: base64.b64encode(text.encode()).decode().rstrip("="), "in Base64"),
    ],
)
def test_names_that_give_the_text_away(write: Callable[[str], str], way: str) -> None:
    names = [f"{write(text)}.png" for text in TEXTS]
    result = found(names=names)
    finding = only(result, "File names give the text away")
    assert way in finding.evidence
    assert (finding.effect, finding.severity, result.given_away) == (1.0, Severity.high, 1.0)


def test_names_that_hold_a_text_by_chance_give_nothing_away() -> None:
    digits = Scheme(alphabet="0123456789", length=1, width=WIDTH, height=HEIGHT)
    texts = {name: str(number % 10) for number, name in enumerate(NAMES)}
    images = [(name, encoded(drawn(n, texts[name]))) for n, name in enumerate(NAMES)]
    result = find_weaknesses(images, texts, digits)
    assert not any(one.name.startswith("File names") for one in result.findings)


def test_a_reader_that_says_one_text_of_all_images_gives_nothing_away() -> None:
    random = np.random.default_rng(2)
    names = [f"{random.bytes(16).hex()}.png" for _ in TEXTS]
    result = find_weaknesses(
        [(name, encoded(drawn(n, "cc"))) for n, name in enumerate(names)],
        dict.fromkeys(names, "cc"),
    )
    assert result.findings == []


def with_metadata(kind: str, image: Image.Image, text: str) -> bytes:
    if kind == "PNG text":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("Solution", f"it is {text}", zip=True)
        return encoded(image, pnginfo=chunks)
    if kind == "trailing":
        return encoded(image) + text.encode()
    buffer = io.BytesIO()
    if kind == "JPEG comment":
        image.save(buffer, "JPEG", comment=text.encode())
    else:
        exif = Image.Exif()
        exif[0x010E] = f"the text {text}"
        image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("PNG text", "Solution"),
        ("JPEG comment", "comment"),
        ("EXIF", "EXIF ImageDescription"),
        ("trailing", "bytes after the end"),
    ],
)
def test_metadata_that_give_the_text_away(kind: str, field: str) -> None:
    images = [
        (name, with_metadata(kind, drawn(n, TEXTS[n]), TEXTS[n])) for n, name in enumerate(NAMES)
    ]
    result = find_weaknesses(images, dict(zip(NAMES, TEXTS, strict=True)), SCHEME)
    finding = only(result, f"Metadata give the text away ({field})")
    assert finding.severity is Severity.high
    assert result.given_away == 1.0
    assert TEXTS[0] in finding.evidence
    # Without a text to compare with, that each image has its own is all there is to say.
    assert only(find_weaknesses(images), "Metadata differ").severity is Severity.low


def test_metadata_that_are_the_same_everywhere_are_no_finding() -> None:
    images = [(n, with_metadata("PNG text", drawn(i, ""), "GIMP")) for i, n in enumerate(NAMES)]
    assert find_weaknesses(images).findings == []


def test_damaged_metadata_are_passed_over() -> None:
    data = bytearray(with_metadata("EXIF", drawn(1, "ab"), "ab"))
    at = data.index(b"Exif\0\0")
    data[at + 6 : at + 20] = b"\xff" * 14
    assert list(metadata_of(bytes(data))) == []


def test_texts_that_repeat_and_few_texts() -> None:
    words = [TEXTS[n % 8] for n in range(COUNT)]
    result = found(texts=words)
    names = {finding.name: finding for finding in result.findings}
    assert names.keys() == {"Texts repeat more often than chance", "There are few texts"}
    assert "of about 9 texts" in names["There are few texts"].evidence
    assert names["There are few texts"].severity is Severity.high


def test_uneven_characters_are_named() -> None:
    random = np.random.default_rng(3)
    weights = np.array([6.0] + [1.0] * 25)
    texts = random.choice(list(ALPHABET), (400, 5), p=weights / weights.sum())
    result = found(names=[f"{n}.png" for n in range(400)], texts=["".join(row) for row in texts])
    finding = only(result, "Characters are unevenly frequent")
    assert finding.evidence.startswith("'a' makes up 20.6%")
    assert "'aaaaa'" in finding.evidence
    even = ["".join(row) for row in random.choice(list(ALPHABET), (400, 5))]
    assert found(names=[f"{n}.png" for n in range(400)], texts=even).findings == []


def test_texts_of_a_reader_that_reads_little_are_not_judged() -> None:
    result = found(texts=["aaaaa"] * COUNT, read_right=0.2)
    assert result.findings == []
    assert "About 20% of the texts are read right" in result.notes[0]


def test_the_size_of_the_text_space() -> None:
    several = Scheme(alphabet="01", length=(2, 3), width=40, height=20)
    assert text_space(several) == 4 + 8
    random = np.random.default_rng(1)
    about, low, high = space_from_repeats([str(n) for n in random.integers(0, 5000, 1000)]) or (
        (0, 0, 0)
    )
    assert low < 5000 < high
    assert 3500 < about < 7000
    assert space_from_repeats(TEXTS) is None
    guess, share = best_guess(["ab", "ab", "ac", "b"])
    assert guess == "ab"
    assert share == pytest.approx(0.75 * 2 / 3)


def test_images_that_are_none_are_counted() -> None:
    result = find_weaknesses([("a.png", encoded(drawn(1, "ab"))), ("b.png", b"GIF89a")])
    assert (result.images, result.of) == (1, 2)
    assert result.notes == ["1 of 2 images cannot be read: left out."]


def test_severity_and_order() -> None:
    assert [severity_of(share).value for share in (1, 0.3, 0.299, 0.1, 0.099, 0)] == [
        "high",
        "high",
        "medium",
        "medium",
        "low",
        "low",
    ]
    assert Severity.high.reaches(Severity.medium)
    assert not Severity.low.reaches(Severity.medium)
    findings = [
        Finding("c", Severity.low, "", ""),
        Finding("d", Severity.medium, "", ""),
        Finding("b", Severity.low, "", "", 0.05),
        Finding("a", Severity.medium, "", "", 0.2),
    ]
    assert [finding.name for finding in most_effective_first(findings)] == ["a", "b", "d", "c"]
