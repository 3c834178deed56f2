import dataclasses
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from simgan_captcha import HACKMIT_2017
from simgan_captcha.data.images import decode_grey
from simgan_captcha.errors import ConfigError
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.compositing import lay_letters
from simgan_captcha.simulator.pose import place_glyphs
from simgan_captcha.simulator.settings import LayoutSettings, SimulatorSettings
from simgan_captcha.simulator.simulator import AS_FOUND, Shares, Simulator
from simgan_captcha.types import GreyImages
from tests.calibration.scene import skewed
from tests.drawing import encode_jpeg, plain, striped

FONT = "dejavu-sans-bold"
SMALL = SimulatorSettings(fonts=(FONT, "stix-bold"), size=(20, 24), horizontal=(-0.3, 0.38))
CLEAR = SimulatorSettings(
    fonts=(FONT,),
    size=(30, 30),
    strokes=(0.0,),
    rotation=(0, 0),
    shear=(0, 0),
    stretch=(1, 1),
    ink=(0, 0),
    blur=(0, 0),
    noise=(0, 0),
    jpeg_quality=(100, 100),
)
"""Letters without variation, and weak compression."""


def draw(character: str, *, side: int = 64, **values: float | bool) -> npt.NDArray[np.float64]:
    """Coverage, 0 to 1, of one letter in a square image, by default in its middle."""
    scheme = Scheme(alphabet=character + "~", length=1, width=side, height=side)
    simulator = Simulator(scheme, CLEAR, plain(side, side))
    parameters = simulator.draw_parameters(np.random.default_rng(0), 1)
    wanted = {"ids": 0, "x": side / 2, "y": side / 2, "nearest": False} | values
    changes = {name: np.full_like(getattr(parameters, name), v) for name, v in wanted.items()}
    (image,) = simulator.render(dataclasses.replace(parameters, **changes))
    return np.asarray((image.astype(np.float64) - 100) / 150)


def extent(coverage: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the ink in pixels from the corner of the image."""
    rows, columns = np.nonzero(coverage > 0.5)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    return Simulator(HACKMIT_2017, SMALL, striped((60, 140, 100, 150), 250))


# Reproducibility


def test_the_same_generator_gives_the_same_images(simulator: Simulator) -> None:
    images, ids = simulator.batch(np.random.default_rng(7), 50)
    again, ids_again = simulator.batch(np.random.default_rng(7), 50)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(ids, ids_again)
    others, _ = simulator.batch(np.random.default_rng(8), 50)
    assert (images != others).any(axis=(1, 2)).all()


def test_any_image_can_be_drawn_again_from_its_parameters(simulator: Simulator) -> None:
    parameters = simulator.draw_parameters(np.random.default_rng(1), 40)
    images = simulator.render(parameters)
    for n in (0, 17, 39):
        (again,) = simulator.render(parameters[n : n + 1])
        np.testing.assert_array_equal(images[n], again)
    np.testing.assert_array_equal(images[10:30], simulator.render(parameters[10:30]))


def test_a_copy_sent_to_a_worker_draws_the_same(simulator: Simulator) -> None:
    copy = pickle.loads(pickle.dumps(simulator))
    images, _ = simulator.batch(np.random.default_rng(2), 10)
    np.testing.assert_array_equal(images, copy.batch(np.random.default_rng(2), 10)[0])


@pytest.mark.parametrize("threads", [1, 3])
def test_other_processes_with_other_threads_draw_the_same(
    simulator: Simulator, threads: int
) -> None:
    code = f"""
import hashlib
import cv2, numpy as np
from tests.drawing import striped
from tests.simulator.test_simulator import SMALL
from simgan_captcha import HACKMIT_2017
from simgan_captcha.simulator.simulator import Simulator
cv2.setNumThreads({threads})
drawn = Simulator(HACKMIT_2017, SMALL, striped((60, 140, 100, 150), 250))
images, _ = drawn.batch(np.random.default_rng(3), 100)
print(hashlib.sha256(images.tobytes()).hexdigest())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    images, _ = simulator.batch(np.random.default_rng(3), 100)
    assert done.stdout.strip() == hashlib.sha256(images.tobytes()).hexdigest()


def test_characters_fonts_and_slots_are_drawn_uniformly(simulator: Simulator) -> None:
    count = 20_000
    parameters = simulator.draw_parameters(np.random.default_rng(4), count)
    for name, values, kinds in (("ids", parameters.ids, 36), ("font", parameters.font, 2)):
        for slot in range(4):
            counts = np.bincount(values[:, slot], minlength=kinds)
            chance = 1 / kinds
            deviation = np.sqrt(count * chance * (1 - chance))
            assert np.abs(counts - count * chance).max() < 5 * deviation, name
    np.testing.assert_allclose(parameters.x.mean(axis=0), [13.5, 38.5, 63.5, 88.5], atol=0.2)


# Poses of letters


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize(("x", "y"), [(32, 32), (20, 41), (40.5, 25.5)])
def test_a_letter_is_at_its_position(x: float, y: float, rotation: float, nearest: bool) -> None:
    left, top, right, bottom = extent(draw("o", x=x, y=y, rotation=rotation, nearest=nearest))
    assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((x, y), abs=1)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_letters_rotate_counter_clockwise_about_their_centre(turns: int) -> None:
    turned = draw("g", rotation=90 * turns)
    assert np.abs(turned - np.rot90(draw("g"), turns)).mean() < 0.002
    for other in {0, 1, 2, 3} - {turns}:
        assert np.abs(turned - np.rot90(draw("g"), other)).mean() > 0.02


def test_an_l_rotated_by_30_degrees_leans_left() -> None:
    rows, columns = np.nonzero(draw("l", rotation=30) > 0.5)
    slope = np.polyfit(rows, columns, 1)[0]
    assert slope == pytest.approx(np.tan(np.deg2rad(30)), abs=0.07)


def test_stretch_widens_and_shear_shifts_lower_pixels_right() -> None:
    left, top, right, bottom = extent(draw("o"))
    wide = extent(draw("o", stretch=1.5))
    assert wide[2] - wide[0] == pytest.approx(1.5 * (right - left), abs=1.5)
    assert (wide[1], wide[3]) == (top, bottom)
    rows, columns = np.nonzero(draw("l", shear=0.5) > 0.5)
    assert np.polyfit(rows, columns, 1)[0] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("x", "y"), [(0, 32), (64, 32), (32, 0), (32, 64), (-5, 70), (2.5, 61.5), (32, 32)]
)
@pytest.mark.parametrize("rotation", [0, 25])
def test_a_letter_is_cut_at_the_edge_as_if_drawn_on_a_larger_canvas(
    x: float, y: float, rotation: float
) -> None:
    # 32 pixels on each side are four blocks of the codec, so the blocks stay the same.
    larger = draw("g", side=128, x=x + 32, y=y + 32, rotation=rotation)
    cut = draw("g", x=x, y=y, rotation=rotation)
    assert np.abs(cut - larger[32:96, 32:96]).max() < 0.05


@pytest.mark.parametrize(("warp", "wave"), [(0.6, 0.0), (0.0, 0.6), (0.3, 0.3)])
def test_warped_letters_lie_within_their_boxes(warp: float, wave: float) -> None:
    scheme = Scheme(alphabet="gWl", length=3, width=160, height=64, wavy_baseline=True)
    layout = LayoutSettings(warp=(warp, warp), wave=(wave, wave))
    settings = CLEAR.model_copy(update={"layout": layout})
    simulator = Simulator(scheme, settings, plain(160, 64))
    p = simulator.draw_parameters(np.random.default_rng(0), 200)
    assert np.abs(p.taper).max() >= 0.9 * warp
    assert np.abs(p.bend).max() >= 0.9 * wave
    index, maps, boxes = place_glyphs(p, p.nearest, simulator.bank, simulator.scheme)
    everywhere = np.broadcast_to(np.array([0, 0, 160, 64]), boxes.shape).copy()
    canvases = np.zeros((2, 200, 64, 160), np.float32)
    for canvas, box in zip(canvases, (boxes, everywhere), strict=True):
        rest = (p.ink, p.nearest, np.zeros(200, np.float32))
        lay_letters(canvas, simulator._glyphs, index, maps, box, *rest)
    assert canvases[0].max() > 100
    # Far away, beyond the fold of the map, a pixel may be part of the letter again.
    cut = np.abs(canvases[0] - canvases[1]) > 0.1
    assert cut.sum() < 1e-5 * (canvases[0] > 0).sum()


@pytest.mark.parametrize(("x", "y"), [(-40, 32), (110, 32), (32, -40), (32, 110), (1e6, -1e6)])
def test_a_letter_outside_the_image_leaves_no_ink(x: float, y: float) -> None:
    assert np.abs(draw("g", x=x, y=y)).max() < 0.01


def test_later_letters_cover_earlier_ones() -> None:
    scheme = Scheme(alphabet="il", length=2, width=64, height=64)
    simulator = Simulator(scheme, CLEAR, plain(64, 64))
    parameters = simulator.draw_parameters(np.random.default_rng(0), 1)
    middle = np.full((1, 2), 32, np.float32)
    one = np.ones((1, 2), np.int64)
    ink = np.array([[250, 20]], np.float32)
    parameters = dataclasses.replace(parameters, ids=one, x=middle, y=middle, ink=ink)
    (image,) = simulator.render(parameters)
    assert image[32, 32] == pytest.approx(20, abs=2)
    assert image.max() < 140


# Rendering


def codec_change(image: GreyImages, quality: int) -> float:
    again = decode_grey(encode_jpeg(image, quality))
    return float(np.abs(again.astype(int) - image).mean())


def test_images_are_compressed() -> None:
    background = striped((60, 140, 100, 150), 250)
    images = {
        quality: Simulator(
            HACKMIT_2017,
            SMALL.model_copy(update={"jpeg_quality": (quality, quality)}),
            background,
        ).batch(np.random.default_rng(5), 20)[0]
        for quality in (10, 95)
    }
    coarse = np.mean([codec_change(image, 10) for image in images[10]])
    fine = np.mean([codec_change(image, 10) for image in images[95]])
    # A second compression at quality 10 changes nothing.
    assert coarse < 1
    assert fine > 4 * coarse


def test_noise_and_blur_have_their_strength() -> None:
    noisy = draw("o", x=-1000, noise=20.0, noise_seed=5)
    assert noisy.std() * 150 == pytest.approx(20, rel=0.1)
    sharp, blurred = draw("l"), draw("l", blur=1.0)
    assert np.abs(np.diff(blurred, axis=1)).max() < 0.8 * np.abs(np.diff(sharp, axis=1)).max()
    assert blurred.sum() == pytest.approx(sharp.sum(), rel=0.02)


def test_an_image_larger_than_the_noise_field_is_noisy_all_over() -> None:
    scheme = Scheme(alphabet="ab", length=1, width=1000, height=600)
    simulator = Simulator(scheme, CLEAR.model_copy(update={"noise": (9, 9)}), plain(1000, 600))
    images, _ = simulator.batch(np.random.default_rng(0), 1)
    assert images[0].std(axis=1).min() > 5


# Settings


def ranges(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    number = st.floats(low, high, width=32)
    return st.tuples(number, number).map(lambda pair: (min(pair), max(pair)))


def whole_ranges(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(0, 3)).map(
        lambda pair: (pair[0], min(pair[0] + pair[1], high))
    )


VALID: st.SearchStrategy[SimulatorSettings] = st.builds(
    SimulatorSettings,
    fonts=st.just((FONT,)),
    size=whole_ranges(4, 60),
    strokes=st.lists(st.floats(0, 10), min_size=1, max_size=2).map(tuple),
    rotation=ranges(-360, 360),
    shear=ranges(-2, 2),
    stretch=ranges(0.125, 10),
    horizontal=ranges(-10, 10),
    vertical=ranges(-10, 10),
    ink=ranges(-255, 255),
    nearest=st.floats(0, 1),
    blur=ranges(0, 1),
    noise=ranges(0, 255),
    jpeg_quality=whole_ranges(1, 100),
)


@settings(max_examples=60)
@given(VALID, st.integers(1, 6), st.integers(8, 130), st.integers(8, 70), st.integers(0, 255))
def test_all_valid_settings_can_be_drawn(
    wide: SimulatorSettings, length: int, width: int, height: int, grey: int
) -> None:
    width = max(width, 2 * length)
    scheme = Scheme(alphabet="agj", length=length, width=width, height=height)
    simulator = Simulator(scheme, wide, plain(width, height, grey))
    images, ids = simulator.batch(np.random.default_rng(0), 5)
    assert (images.shape, ids.shape) == ((5, height, width), (5, length))
    assert images.dtype == np.uint8
    assert set(np.unique(ids)) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotation": (10, -10)}, "rotation: expected -360 <= low <= high <= 360, got 10.0, -10.0"),
        ({"size": (2, 20)}, "size: expected 4 <= low"),
        ({"jpeg_quality": (50, 101)}, "jpeg_quality: expected 1"),
        ({"noise": (-1, 1)}, "noise: expected 0"),
        ({"stretch": (0, 1)}, "stretch: expected 0.1"),
        ({"shear": (float("nan"), 1)}, "shear: expected"),
        ({"vertical": (0, float("inf"))}, "vertical: expected"),
        ({"strokes": (-11,)}, "strokes: expected -10 to 10"),
        ({"strokes": ()}, "at least 1 item"),
        ({"fonts": ()}, "at least 1 item"),
        ({"nearest": 1.5}, "less than or equal to 1"),
        ({"colour": 1}, "Extra inputs"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SimulatorSettings(**change)


def test_a_background_of_another_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="background of 100x50 pixels, got 50x100"):
        Simulator(HACKMIT_2017, SMALL, plain(50, 100))


LAID_OUT = SMALL.model_copy(update={"layout": LayoutSettings()})


def test_some_images_are_drawn_without_calibration() -> None:
    shares = Shares(calibrated_glyphs=1.0, uncalibrated=0.3)
    calibration = skewed(HACKMIT_2017, *range(len(HACKMIT_2017.alphabet)))

    def fitted(settings: SimulatorSettings, shares: Shares) -> npt.NDArray[np.bool_]:
        simulator = Simulator(HACKMIT_2017, settings, plain(), calibration, shares=shares)
        drawn = simulator.draw_parameters(np.random.default_rng(1), 600)
        of_images = drawn.font >= simulator.bank.shape[0]
        found = calibration.found[drawn.ids]
        assert (of_images[found] == of_images.any(1, keepdims=True).repeat(4, 1)[found]).all()
        return np.asarray(of_images.any(1))

    assert fitted(LAID_OUT, shares).mean() == pytest.approx(0.7, abs=0.06)
    assert fitted(LAID_OUT, AS_FOUND).all()
    assert fitted(LAID_OUT.model_copy(update={"layout": None}), shares).all()


def test_some_images_have_another_font_of_the_calibrated_size() -> None:
    settings = LAID_OUT.model_copy(update={"strokes": (0.0, 1.0)})
    shares = dataclasses.replace(AS_FOUND, other_fonts=0.3)
    several = HACKMIT_2017.model_copy(update={"multiple_fonts": True})
    calibration = skewed(several, *range(len(several.alphabet)))
    simulator = Simulator(several, settings, plain(), calibration, shares=shares)
    drawn = simulator.draw_parameters(np.random.default_rng(1), 600)
    fonts = simulator.bank.shape[0]
    of_image = drawn.font < fonts
    assert of_image.any(1).mean() == pytest.approx(0.3, abs=0.06)
    for name in ("font", "size", "stroke"):
        others = getattr(drawn, name)[of_image.any(1)]
        assert (others == others[:, :1]).all(), name
        assert len(np.unique(others)) > 1, name
    # Calibrated glyphs are blocks. The median letter of any font has the same height.
    boxes = simulator.bank.boxes[
        simulator.bank.index(drawn.font, drawn.size, drawn.stroke, drawn.ids), 1
    ]
    high = (boxes - 2) * drawn.scale
    assert np.median(high[of_image]) == pytest.approx(10, rel=0.1)
    none = dataclasses.replace(calibration, glyphs=np.zeros_like(calibration.glyphs))
    bare = Simulator(several, settings, plain(), none, shares=shares)
    assert (bare.draw_parameters(np.random.default_rng(1), 8).scale > 0).all()
    in_slots, of_one = (
        settings.model_copy(update={"layout": None}),
        dataclasses.replace(shares, other_fonts=0),
    )
    for simulator in (
        Simulator(several, in_slots, plain(), calibration, shares=shares),
        Simulator(several, settings, plain(), calibration, shares=of_one),
        Simulator(HACKMIT_2017, settings, plain(), calibration, shares=shares),
    ):
        assert (simulator.draw_parameters(np.random.default_rng(1), 99).font == fonts).all()


# Texts of several lengths.

VARIABLE = Scheme(alphabet="abc1", length=(2, 4), width=80, height=30)


def variable(**changes: Any) -> Simulator:
    settings = {"fonts": ("roboto-black",), "size": (14, 14), "noise": (0, 0), "blur": (0, 0)}
    settings |= {"horizontal": (0, 0), "rotation": (0, 0), "vertical": (0.5, 0.5)}
    return Simulator(VARIABLE, SimulatorSettings(**settings | changes), plain(80, 30))


def test_lengths_are_uniform() -> None:
    p = variable().draw_parameters(np.random.default_rng(1), 900)
    present = p.ids != VARIABLE.blank
    lengths = present.sum(1)
    assert set(lengths.tolist()) == {2, 3, 4}
    assert np.bincount(lengths)[2:].min() > 250
    assert (present[:, :-1] >= present[:, 1:]).all()  # from the left
    inside = (p.x > 0) & (p.x < 80)
    assert np.array_equal(inside, present)


def test_empty_slots_leave_no_ink() -> None:
    simulator = variable(ink=(0, 0), jpeg_quality=(100, 100))
    p = simulator.draw_parameters(np.random.default_rng(1), 60)
    images = simulator.render(p).astype(int)
    inked = np.abs(images - images[:, :1, :1]) > 60
    for n in range(60):
        columns = np.flatnonzero(inked[n].any(0))
        present = p.ids[n] != VARIABLE.blank
        reach = p.x[n][present]
        assert columns.min() > reach.min() - 12
        assert columns.max() < reach.max() + 12
        near = np.abs(columns[:, None] - reach) < 12
        assert near.any(0).all()  # each present letter left some
