import base64
import colorsys
import importlib.resources
import io
import json
import math
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from simgan_captcha.errors import UsageError
from simgan_captcha.puzzle.answers import answer
from simgan_captcha.puzzle.artwork import Artist, background_plan, letter_plan

# The real captchas of the puzzle have the tables of libjpeg at quality 50, and 2x2 chroma.
LUMA_TABLE_START = [16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55]
CHROMA_TABLE_START = [17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99]


@cache
def lato() -> Artist:
    return Artist()


def pixels(image: Image.Image) -> npt.NDArray[np.int64]:
    return np.asarray(image, np.int64)


def median_captcha(user: str) -> npt.NDArray[np.int64]:
    """An estimate of the background: the median over captchas of the user."""
    drawn = [pixels(lato().draw(user, str(i))) for i in range(60)]
    background: npt.NDArray[np.int64] = np.median(drawn, axis=0).astype(np.int64)
    return background


def test_the_same_user_and_name_give_the_same_bytes_from_any_artist() -> None:
    assert Artist().jpeg("marty", "a") == lato().jpeg("marty", "a")


def test_users_and_names_differ() -> None:
    drawn = {lato().jpeg(user, name) for user in ("marty", "doc") for name in ("a", "b")}
    assert len(drawn) == 4
    assert background_plan("marty") != background_plan("doc")


def test_a_captcha_is_a_jpeg_like_the_original() -> None:
    with Image.open(io.BytesIO(lato().jpeg("marty", "a"))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (100, 50))
        tables = image.quantization  # type: ignore[attr-defined]
        sampling = [layer[1:3] for layer in image.layer]  # type: ignore[attr-defined]
    assert tables[0][:16] == LUMA_TABLE_START
    assert tables[1][:16] == CHROMA_TABLE_START
    assert sampling == [(2, 2), (1, 1), (1, 1)]


def test_four_stripes_of_25_pixels_in_saturated_hues() -> None:
    for user in ("marty", "doc", "biff", "rickyhan"):
        background = median_captcha(user)
        for stripe in range(4):
            columns = background[:, 25 * stripe : 25 * (stripe + 1)].reshape(-1, 3)
            coloured = columns[(columns != 255).any(axis=1)]
            (red, green, blue), count = Counter(map(tuple, coloured.tolist())).most_common(1)[0]
            # One colour from the first to the last column, lines and crowded letters aside.
            assert count > 0.7 * len(columns)
            edges = background[:, [25 * stripe, 25 * stripe + 24]]
            assert ((edges == (red, green, blue)).all(axis=2).mean(axis=0) > 0.5).all()
            _, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
            assert saturation == pytest.approx(1)
            assert value == pytest.approx(0.7, abs=0.01)


def test_hues_cover_the_circle() -> None:
    hues = [
        colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)[0]
        for i in range(100)
        for red, green, blue in background_plan(f"user{i}").colours
    ]
    assert (np.histogram(hues, bins=8, range=(0, 1))[0] > 25).all()


def test_four_lines_from_the_left_quarter_to_the_right_quarter() -> None:
    lines = [line for i in range(300) for line in background_plan(f"user{i}").lines]
    assert len(lines) == 4 * 300
    assert {line.start[0] for line in lines} == set(range(25))
    assert {line.end[0] for line in lines} == set(range(75, 100))
    assert {line.start[1] for line in lines} == {line.end[1] for line in lines} == set(range(50))


def test_lines_are_white_and_up_to_two_pixels_wide() -> None:
    widths = []
    for user in ("marty", "doc", "biff"):
        background = median_captcha(user)
        for line in background_plan(user).lines:
            (start_x, start_y), (end_x, end_y) = line.start, line.end
            for x in range(start_x + 5, end_x - 5):
                y = round(start_y + (x - start_x) / (end_x - start_x) * (end_y - start_y))
                near = background[max(0, y - 2) : y + 3, x]
                widths.append((near >= 250).all(axis=1).sum())
    assert min(widths) >= 1
    assert np.median(widths) in (1, 2)
    assert 1.2 < np.mean(widths) < 2.5


def test_letters_spell_the_answer_and_keep_to_the_ranges() -> None:
    plans = [letter_plan("marty", str(i)) for i in range(3000)]
    assert ["".join(letter.character for letter in plan) for plan in plans] == [
        answer("marty", str(i)) for i in range(3000)
    ]
    for slot in range(4):
        letters = [plan[slot] for plan in plans]
        assert {letter.angle for letter in letters} == set(range(-30, 30))
        assert {letter.x - 25 * slot for letter in letters} == set(range(15 if slot < 3 else 5))
        assert {letter.y for letter in letters} == set(range(20))


def test_a_letter_is_drawn_at_its_planned_pose_and_near_white() -> None:
    for name in map(str, range(200)):
        plan = letter_plan("marty", name)
        image = pixels(lato().draw("marty", name))
        base = np.asarray(lato()._background("marty"), np.int64)
        touched = np.argwhere((image != base).any(axis=2))
        assert touched[:, 0].min() >= min(letter.y for letter in plan)
        assert touched[:, 1].min() >= plan[0].x
        ink = image[(image != base).any(axis=2)]
        assert Counter(map(tuple, ink.tolist())).most_common(1)[0][0] == (250, 250, 250)


def test_a_rotated_letter_is_the_upright_one_rotated() -> None:
    """An "l" rotated by +25 degrees, counter-clockwise, leans to the left."""
    for angle, lean in ((25, -1), (-25, 1)):
        _, mask = lato()._glyphs["l", angle]
        rows, columns = np.nonzero(np.asarray(mask) > 128)
        slope = np.polyfit(-rows.astype(float), columns.astype(float), 1)[0]
        assert slope * lean == pytest.approx(math.tan(math.radians(25)), abs=0.12)


def test_letters_overlap_and_are_cut_at_the_edge() -> None:
    overlaps = cut = 0
    for i in range(300):
        masks = []
        for letter in letter_plan("marty", str(i)):
            _, mask = lato()._glyphs[letter.character, letter.angle]
            whole = np.zeros((150, 200), bool)
            drawn = np.asarray(mask) > 128
            whole[letter.y : letter.y + drawn.shape[0], letter.x : letter.x + drawn.shape[1]] = (
                drawn
            )
            cut += bool(whole[50:].any() or whole[:, 100:].any())
            masks.append(whole[:50, :100])
        overlaps += bool((np.sum(masks, axis=0) > 1).any())
    # About one captcha in five, and one in nine.
    assert overlaps > 30
    assert cut > 15


def test_a_file_that_is_no_font_is_a_usage_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font at all")
    with pytest.raises(UsageError, match="expected a font file"):
        Artist(broken)
    with pytest.raises(UsageError, match="give another --font"):
        Artist(tmp_path / "missing.ttf")
    with pytest.raises(UsageError, match="expected a font file"):
        Artist(tmp_path)


def test_a_font_without_our_characters_is_a_usage_error() -> None:
    symbols = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXSizFiveSymReg.ttf"
    with pytest.raises(UsageError, match="lacks 'abc"):
        Artist(symbols)


def test_another_font_draws_other_shapes_with_the_same_texts() -> None:
    dejavu = Artist(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf")
    assert dejavu.jpeg("marty", "a") != lato().jpeg("marty", "a")


def test_a_webfont_draws(tmp_path: Path) -> None:
    """The original font is available as WOFF2; TensorBoard contains such files."""
    # Latin letters and digits of Roboto.
    webfont = "font-roboto/Hgo13k-tfSpn0qi1SFdUfZBw1xU1rKptJj_0jans920.woff2"
    font = tmp_path / "font.woff2"
    pages = importlib.resources.files("tensorboard") / "webfiles.zip"
    with pages.open("rb") as file, zipfile.ZipFile(file) as archive:
        font.write_bytes(archive.read(webfont))
    assert font.read_bytes().startswith(b"wOF2")
    assert Artist(font).jpeg("marty", "a") != lato().jpeg("marty", "a")


USERS = ("marty", "doc", "biff", "lorraine")


@pytest.fixture(scope="module")
def real(real_batches: Path) -> list[bytes]:
    images = json.loads((real_batches / "challenge-0").read_bytes())["images"]
    return [base64.b64decode(image["jpg_base64"]) for image in images[:400]]


@cache
def drawn(user: str) -> list[bytes]:
    return [lato().jpeg(user, str(i)) for i in range(400)]


def decoded(jpegs: list[bytes], mode: str) -> npt.NDArray[np.float64]:
    images = []
    for jpeg in jpegs:
        with Image.open(io.BytesIO(jpeg)) as image:
            images.append(np.asarray(image.convert(mode), np.float64))
    return np.stack(images)


def ink(jpegs: list[bytes]) -> npt.NDArray[np.float64]:
    """Ink of each pixel, 0 none to 1 full, (N, H, W); NaN where a line leaves no room for any."""
    grey = decoded(jpegs, "L")
    background = np.median(grey, axis=0)
    dark = background < 170
    return np.where(dark, (grey - background) / np.maximum(250 - background, 1), np.nan)


def shares(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    parts: npt.NDArray[np.float64] = values / values.sum()
    return parts


def total_variation(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Total variation distance of two distributions, 0 (equal) to 1 (disjoint)."""
    return float(np.abs(one - other).sum() / 2)


def test_drawn_captchas_have_the_ink_of_the_real_ones(real: list[bytes]) -> None:
    def levels(jpegs: list[bytes]) -> npt.NDArray[np.float64]:
        bins = [-9, -0.15, -0.05, 0.05, 0.25, 0.5, 0.75, 0.95, 9]
        found = ink(jpegs)
        return shares(np.histogram(found[~np.isnan(found)], bins=bins)[0].astype(np.float64))

    def mean(jpegs: list[bytes]) -> float:
        return float(np.nanmean(np.clip(ink(jpegs), 0, 1)))

    assert np.mean([mean(drawn(user)) for user in USERS]) == pytest.approx(mean(real), rel=0.25)
    ours = np.mean([levels(drawn(user)) for user in USERS], axis=0)
    assert total_variation(ours, levels(real)) < 0.06


@pytest.mark.parametrize("axis", [1, 2], ids=["columns", "rows"])
def test_drawn_letters_are_at_the_positions_of_real_ones(real: list[bytes], axis: int) -> None:
    """The share of all ink in every strip of five pixels."""

    def strips(jpegs: list[bytes]) -> npt.NDArray[np.float64]:
        each = np.nanmean(np.clip(ink(jpegs), 0, 1), axis=(0, axis))
        return shares(each.reshape(-1, 5).mean(axis=1))

    ours = np.mean([strips(drawn(user)) for user in USERS], axis=0)
    theirs = strips(real)
    assert total_variation(ours, theirs) < 0.07
    # The distance if all letters were one strip further right.
    assert total_variation(np.roll(ours, 1), theirs) > 0.14


def test_drawn_edges_and_files_are_like_the_real_ones(real: list[bytes]) -> None:
    """The steepness of edges, and the bytes of a JPEG, which depend on all details."""
    for axis in (1, 2):
        steepness = [
            np.nanmean(np.abs(np.diff(np.clip(ink(jpegs), 0, 1), axis=axis)))
            for jpegs in (real, *map(drawn, USERS))
        ]
        assert np.mean(steepness[1:]) == pytest.approx(steepness[0], rel=0.25)
    sizes = [np.mean([len(jpeg) for jpeg in jpegs]) for jpegs in (real, *map(drawn, USERS))]
    assert np.mean(sizes[1:]) == pytest.approx(sizes[0], rel=0.15)


def test_real_captchas_confirm_the_drawn_background(real: list[bytes]) -> None:
    """Facts about stripes and lines of the real background, which the tests above require."""
    for jpegs in (real, *map(drawn, USERS)):
        background = np.median(decoded(jpegs, "RGB"), axis=0)
        for stripe in range(4):
            inside = background[:, 25 * stripe + 3 : 25 * stripe + 22].reshape(-1, 3)
            _, saturation, value = colorsys.rgb_to_hsv(*(np.median(inside, axis=0) / 255))
            assert saturation > 0.85
            assert value == pytest.approx(0.7, abs=0.03)
        # JPEG blurs colours over 16 pixels, so lines are detected as bright grey levels.
        bright = np.median(decoded(jpegs, "L"), axis=0) > 200
        assert 0.04 < bright.mean() < 0.12
        outside = bright[:, :1].mean() + bright[:, -1:].mean()
        assert outside == 0
    with Image.open(io.BytesIO(real[0])) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (100, 50))
        assert image.quantization[0][:16] == LUMA_TABLE_START  # type: ignore[attr-defined]
        assert image.quantization[1][:16] == CHROMA_TABLE_START  # type: ignore[attr-defined]
