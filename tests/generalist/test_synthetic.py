"""The wide simulator: any image can be drawn again, and characters stand where it says."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgan_captcha.errors import ConfigError
from simgan_captcha.generalist.characters import BLANK, CHARACTERS, encode
from simgan_captcha.generalist.features import HEIGHT, STRIDE, features, input_width
from simgan_captcha.generalist.pretraining.examples import (
    IGNORED,
    batches,
    draw_pool,
    make_examples,
)
from simgan_captcha.simulator.wide.catalogue import FontEntry, read_catalogue
from simgan_captcha.simulator.wide.drawing import render
from simgan_captcha.simulator.wide.fonts import CATALOGUE, FontShelf, shadowed, thinned
from simgan_captcha.simulator.wide.plans import LUMA, colour, draw_plan
from simgan_captcha.simulator.wide.styles import draw_style
from tests.drawing import write_catalogue


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> FontShelf:
    file = tmp_path_factory.mktemp("fonts") / "fonts.tsv"
    write_catalogue(file)
    return FontShelf(file, "train")


@given(seed=st.integers(0, 10**6), difficulty=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_every_plan_is_drawn_and_drawn_again(
    shelf: FontShelf, seed: int, difficulty: float
) -> None:
    generator = np.random.default_rng(seed)
    plan = draw_plan(draw_style(shelf, generator, difficulty), shelf, generator)
    first, second = render(plan, shelf), render(plan, shelf)
    np.testing.assert_array_equal(first.image, second.image)
    assert first.image.shape == (plan.height, plan.width, 3)
    assert len(first.text) == len(first.places)
    assert set(first.text) <= set(CHARACTERS)
    assert np.isfinite(first.places).all()


def test_characters_stand_where_the_plan_says(shelf: FontShelf) -> None:
    generator = np.random.default_rng(3)
    for _ in range(20):
        plan = draw_plan(draw_style(shelf, generator, 0.0), shelf, generator)
        drawn = render(plan, shelf)
        ink = np.abs(drawn.image.astype(int) - plan.background).max(2) > 60
        rows = np.flatnonzero(ink.any(1))
        assert rows[0] - 3 <= drawn.places[:, 1].min()
        assert drawn.places[:, 1].max() <= rows[-1] + 3
        for x, _, height, _ in drawn.places:
            near = ink[:, max(0, int(x - height / 2)) : int(x + height / 2) + 1]
            assert near.any()


def test_pale_and_dark_letters_stand_in_one_image(shelf: FontShelf) -> None:
    style = draw_style(shelf, np.random.default_rng(1), 1.0)
    colours = dataclasses.replace(
        style.colours, ink_scope="letter", contrast=(30.0, 200.0), contrast_scope="letter"
    )
    style = dataclasses.replace(style, colours=colours)
    generator = np.random.default_rng(2)
    differences = []
    for _ in range(20):
        inks = [letter.ink for letter in draw_plan(style, shelf, generator).letters]
        lightness = np.array(inks) @ LUMA
        differences.append(lightness.max() - lightness.min())
    assert max(differences) > 80  # within a quarter of one contrast, it was at most 50


def test_patches_are_all_on_one_side_of_the_ink(shelf: FontShelf) -> None:
    style = draw_style(shelf, np.random.default_rng(1), 0.0)
    colours = dataclasses.replace(
        style.colours, dark_ink=True, contrast=(90.0, 200.0), backdrop="patches", grey=False
    )
    style = dataclasses.replace(style, colours=colours)
    generator = np.random.default_rng(2)
    for _ in range(20):
        plan = draw_plan(style, shelf, generator)
        backdrop = render(dataclasses.replace(plan, letters=plan.letters[:1]), shelf).image
        ink = np.dot(plan.letters[0].ink, LUMA)
        lightness = backdrop[0] @ LUMA  # no letter reaches the first row
        assert lightness.min() > ink + 10
        assert len(np.unique(backdrop[0], axis=0)) > 1


def test_a_raised_letter_is_the_shadow_beside_it() -> None:
    letter = np.zeros((20, 20), np.uint8)
    letter[5:15, 5:10] = 255
    shadow = shadowed(letter, 2)
    assert shadow.shape == (22, 22)  # the origin stays, the shadow reaches further
    assert not shadow[5:15, 5:10].any()
    assert shadow[7:17, 10:12].all()
    assert shadow[15:17, 7:12].all()


def test_pools_are_functions_of_seed_and_number(shelf: FontShelf) -> None:
    def pool(seed: int, number: int) -> list[np.ndarray]:
        return [
            d.image for d in draw_pool(shelf, seed, number, families=2, images=3, difficulty=1.0)
        ]

    for first, second in zip(pool(1, 5), pool(1, 5), strict=True):
        np.testing.assert_array_equal(first, second)
    assert any(
        a.shape != b.shape or (a != b).any() for a, b in zip(pool(1, 5), pool(1, 6), strict=True)
    )


def test_columns_hold_the_characters_in_their_order(shelf: FontShelf) -> None:
    pool = draw_pool(shelf, 4, 0, families=8, images=4, difficulty=0.5)
    for examples in batches(pool, 8, np.random.default_rng(0)):
        B, _, H, W = examples.images.shape
        assert (H, W % STRIDE) == (HEIGHT, 0)
        for index in range(B):
            held = examples.columns[index]
            text = examples.texts[index, : examples.lengths[index]]
            assert held[held > BLANK].tolist() == text.tolist()
            assert set(held[held <= BLANK]) <= {BLANK, IGNORED}


def test_a_short_image_with_a_long_text_keeps_all_columns() -> None:
    from simgan_captcha.simulator.wide.drawing import DrawnImage

    places = np.array([[10.0, 10, 8, 0]] * 3, np.float32)  # all at one place
    examples = make_examples([DrawnImage(np.zeros((20, 40, 3), np.uint8), "abc", places)])
    held = examples.columns[0]
    assert held[held > BLANK].tolist() == encode("abc")


@given(st.integers(0, 255), st.floats(0, 1), st.integers(0, 1000))
def test_a_colour_has_its_lightness(level: int, saturation: float, seed: int) -> None:
    rgb = colour(level, saturation, np.random.default_rng(seed))
    assert all(0 <= value <= 255 for value in rgb)
    assert np.dot(rgb, [0.299, 0.587, 0.114]) == pytest.approx(level, abs=1.5)


def test_features_do_not_depend_on_which_colour_the_background_has() -> None:
    generator = np.random.default_rng(1)
    image = np.full((50, 120, 3), (200, 180, 160), np.uint8)
    cv2.putText(image, "AB", (20, 40), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (120, 90, 80), 3)
    darker = (image - np.array([100, 60, 50], np.uint8)).astype(np.uint8)
    np.testing.assert_allclose(features(image), features(darker), atol=0.05)
    noise = generator.integers(0, 255, (33, 77, 3)).astype(np.uint8)
    assert features(noise).shape == (4, HEIGHT, input_width(33, 77))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4000), (4000, 1), (60, 160)])
def test_an_image_of_any_shape_fits_the_network(height: int, width: int) -> None:
    made = features(np.zeros((height, width, 3), np.uint8))
    assert made.shape[:2] == (4, HEIGHT)
    assert made.shape[2] % STRIDE == 0
    assert np.isfinite(made).all()


def test_thin_strokes_are_one_pixel_wide_and_in_one_piece() -> None:
    bar = np.zeros((30, 30), np.uint8)
    cv2.line(bar, (4, 4), (25, 25), 255, 5)
    thin = thinned(bar)
    assert 10 < (thin > 0).sum() < 40
    count, _ = cv2.connectedComponents(thin, connectivity=8)
    assert count == 2  # the background and one stroke


def test_missing_fonts_are_named_with_what_to_do(tmp_path: Path) -> None:
    entry = read_catalogue(CATALOGUE)[0]
    file = tmp_path / "fonts.tsv"
    names = [f.name for f in dataclasses.fields(FontEntry)]
    row = dataclasses.asdict(dataclasses.replace(entry, path="/nowhere/a.ttf", split="train"))
    file.write_text("\t".join(names) + "\n" + "\t".join(str(row[n]) for n in names) + "\n")
    with pytest.raises(ConfigError, match="make pretrain-fonts"):
        FontShelf(file, "train")


def test_fonts_of_benchmarks_are_never_learned_from() -> None:
    entries = read_catalogue(CATALOGUE)
    learned = {e.family for e in entries if e.split == "train"}
    for family in ("DejaVu", "Liberation", "Droid Sans Mono", "Archivo", "Comicbook"):
        assert not [f for f in learned if f.startswith(family)]
    packages = {e.package for e in entries if e.split == "held-out"}
    assert len(packages) > 5
    assert not {e.family for e in entries if e.split == "held-out"} & learned
    assert all(e.licence not in ("", "unknown") for e in entries)
