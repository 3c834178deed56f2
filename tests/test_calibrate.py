import json
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from font_lato import font_files
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from simgan_captcha.background import FloatImages
from simgan_captcha.calibrate import (
    FEWEST_EXAMPLES,
    QUANTILES,
    Calibration,
    Floats,
    Poses,
    calibrate,
    glyph_sheet,
    harvest_glyphs,
)
from simgan_captcha.errors import RunError
from simgan_captcha.glyphs import GlyphBank
from simgan_captcha.images import GreyImages, encode_jpeg
from simgan_captcha.reader.reading import load_reader
from simgan_captcha.reader.scout import PosedSimulator
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator import DrawParameters, Simulator, SimulatorSettings
from simgan_captcha.stages import MANIFEST
from simgan_captcha.store import CaptchaStore
from simgan_captcha.streams import synthetic_batches
from tests.drawing import plain, striped
from tests.small_run import SCHEME, pipeline, shaded, write_challenges

STRANGER = font_files["LatoBlack"]
"""A font that the simulator does not hold: what glyphs are to be learned of."""

LETTERS = Scheme(alphabet="agel1m", length=4, width=100, height=50)
STRIPED = striped((60, 140, 100, 150), 250)
SIDE = 40
"""Of a glyph harvested from images 50 pixels high."""


def drawing(**changes: Any) -> SimulatorSettings:
    """One font of one size, hardly any codec."""
    values = {
        "fonts": (STRANGER,),
        "size": (26, 26),
        "strokes": (0.0,),
        "rotation": (-30, 30),
        "shear": (0, 0),
        "stretch": (1, 1),
        "horizontal": (-0.3, 0.3),
        "vertical": (0.3, 0.7),
        "ink": (0, 0),
        "nearest": 0.5,
        "blur": (0, 0),
        "noise": (0, 1),
        "jpeg_quality": (50, 50),
    }
    return SimulatorSettings(**{**values, **changes})


def exact_poses(parameters: DrawParameters, scheme: Scheme) -> Poses:
    """What a perfect scout would say."""
    probabilities = np.eye(len(scheme.alphabet), dtype=np.float32)[parameters.ids]
    return Poses(probabilities, parameters.x, parameters.y, parameters.rotation)


@cache
def scene() -> tuple[FloatImages, Poses]:
    """400 normalised images of overlapping turned letters under lines, and their poses."""
    simulator = Simulator(LETTERS, drawing(), STRIPED)
    parameters = simulator.draw_parameters(np.random.default_rng(1), 400)
    return STRIPED.normalise(simulator.render(parameters)), exact_poses(parameters, LETTERS)


def disturbed(poses: Poses, pixels: float, degrees: float) -> Poses:
    generator = np.random.default_rng(2)

    def off(values: Floats, by: float) -> Floats:
        return values + generator.uniform(-by, by, values.shape).astype(np.float32)

    return replace(
        poses,
        x=off(poses.x, pixels),
        y=off(poses.y, pixels),
        rotation=off(poses.rotation, degrees),
    )


def mistaken(poses: Poses, share: float) -> Poses:
    """So many characters are surely taken for others."""
    generator = np.random.default_rng(3)
    classes = poses.probabilities.shape[-1]
    ids = poses.probabilities.argmax(-1)
    others = (ids + generator.integers(1, classes, ids.shape)) % classes
    ids = np.where(generator.random(ids.shape) < share, others, ids)
    return replace(poses, probabilities=np.eye(classes, dtype=np.float32)[ids])


@cache
def true_glyphs(alphabet: str, size: int, side: int) -> npt.NDArray[np.float64]:
    """(K, side, side) coverage of the stranger's letters, upright, about their middles."""
    scheme = Scheme(alphabet=alphabet, length=1, width=side, height=side)
    simulator = Simulator(
        scheme,
        drawing(
            size=(size, size),
            rotation=(0, 0),
            horizontal=(0, 0),
            vertical=(0.5, 0.5),
            nearest=0,
            noise=(0, 0),
            jpeg_quality=(100, 100),
        ),
        plain(side, side),
    )
    parameters = simulator.draw_parameters(np.random.default_rng(0), len(alphabet))
    ids = np.arange(len(alphabet)).reshape(-1, 1)
    return (simulator.render(replace(parameters, ids=ids)).astype(np.float64) - 100) / 150


def likeness(glyphs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(K, K): correlation of each glyph with each true one."""
    count = len(glyphs)
    both = np.concatenate([glyphs.reshape(count, -1), truth.reshape(count, -1)])
    return np.asarray(np.corrcoef(both)[:count, count:])


def own_likeness(glyphs: GreyImages) -> npt.NDArray[np.float64]:
    """(K,): of each glyph with its true one, having seen that it is more like that than any."""
    found = likeness(glyphs, true_glyphs(LETTERS.alphabet, 26, SIDE))
    np.testing.assert_array_equal(found.argmax(1), np.arange(len(found)))
    np.testing.assert_array_equal(found.argmax(0), np.arange(len(found)))
    return np.asarray(np.diagonal(found))


# Glyphs.


@pytest.mark.parametrize(
    ("pixels", "degrees", "share"),
    [(0, 0, 0), (1, 4, 0), (0, 0, 0.1), (1, 4, 0.3)],
    ids=["exact", "disturbed", "mistaken", "both"],
)
def test_glyphs_of_a_font_that_nobody_holds_are_found(
    pixels: float, degrees: float, share: float
) -> None:
    normalised, poses = scene()
    poses = mistaken(disturbed(poses, pixels, degrees), share)
    glyphs = harvest_glyphs(normalised, poses, seed=0)
    assert glyphs.shape == (len(LETTERS.alphabet), SIDE, SIDE)
    assert glyphs.dtype == np.uint8
    assert own_likeness(glyphs).min() > 0.975


def upright(normalised: FloatImages, poses: Poses, n: int, slot: int) -> tuple[Floats, Floats]:
    """Ink and visibility of one character about its place, both (SIDE, SIDE), 0 to 1."""
    x, y = float(poses.x[n, slot]) - 0.5, float(poses.y[n, slot]) - 0.5
    turn = cv2.getRotationMatrix2D((x, y), -float(poses.rotation[n, slot]), 1)
    turn[:, 2] += SIDE / 2 - 0.5 - np.array([x, y])
    ink, line = (
        cv2.warpAffine(channel, turn, (SIDE, SIDE), borderValue=outside)
        for channel, outside in zip((normalised[n] + 1) / 2, (0, 1), strict=True)
    )
    return np.asarray(ink, np.float32), np.asarray(1 - line, np.float32)


def test_alignment_sharpens() -> None:
    """The mean of characters where a scout that errs says they are is hazier."""
    normalised, exact = scene()
    poses = disturbed(exact, 2, 8)
    glyphs = harvest_glyphs(normalised, poses, seed=0)
    hazy = np.zeros(glyphs.shape)
    for k in range(len(glyphs)):
        cut = [
            upright(normalised, poses, n, s) for n, s in np.argwhere(poses.probabilities[..., k])
        ]
        ink, visible = (np.stack(channel) for channel in zip(*cut, strict=True))
        mean = (ink * visible).sum(0) / (visible.sum(0) + 1e-3)
        hazy[k] = np.clip((mean - 0.25) * 2, 0, 1)
    unaligned = likeness(hazy, true_glyphs(LETTERS.alphabet, 26, SIDE)).diagonal()
    assert (own_likeness(glyphs) > unaligned + 0.005).all()
    assert 2 * half_covered(glyphs / 255) < 1.2 * half_covered(hazy)


def half_covered(glyphs: npt.NDArray[Any]) -> float:
    return float(((glyphs > 0.2) & (glyphs < 0.8)).mean())


def harvest_under_a_line(told: bool) -> float:
    """How much of the ink in the way of the line is missing from the glyphs, 0 to 1."""
    background = plain()
    background.line_mask[24:26] = True
    background.grey[background.line_mask] = 250
    # The line crosses the middle of every letter, which lies a little higher or lower.
    settings = drawing(rotation=(0, 0), vertical=(0.45, 0.55), horizontal=(0, 0))
    simulator = Simulator(LETTERS, settings, background)
    parameters = simulator.draw_parameters(np.random.default_rng(4), 100)
    normalised = background.normalise(simulator.render(parameters))
    if not told:
        normalised[:, 1] = -1
    glyphs = harvest_glyphs(normalised, exact_poses(parameters, LETTERS), seed=0) / 255
    truth = true_glyphs(LETTERS.alphabet, 26, SIDE)
    near = slice(SIDE // 2 - 3, SIDE // 2 + 3)
    full = truth[:, near] > 0.8
    return float((1 - glyphs[:, near][full]).mean())


def test_what_a_line_hides_is_taken_from_other_characters() -> None:
    assert harvest_under_a_line(told=True) < 0.06
    assert harvest_under_a_line(told=False) > 0.15  # there is something to complete


def test_the_same_seed_finds_the_same() -> None:
    normalised, poses = scene()
    few = replace(poses, probabilities=poses.probabilities[..., :2])  # two classes are enough here
    one, again, other = (calibrate(normalised, few, seed) for seed in (1, 1, 2))
    assert same(one, again)
    assert (one.glyphs != other.glyphs).any(axis=(1, 2)).all()  # of other examples
    assert np.diagonal(likeness(one.glyphs, other.glyphs)).min() > 0.99
    np.testing.assert_array_equal(one.x, other.x)


def same(one: Calibration, other: Calibration) -> bool:
    """To the bit."""
    return all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def test_drawn_and_harvested_again_glyphs_are_the_same() -> None:
    """Simulator and harvest mean the same by a place and a turn, to a part of a pixel."""
    normalised, poses = scene()
    first = calibrate(normalised, poses, seed=0)
    settings = drawing(fonts=("stix-bold",), harvested=1.0)
    simulator = Simulator(LETTERS, settings, STRIPED, first)
    parameters = simulator.draw_parameters(np.random.default_rng(5), 400)
    images = STRIPED.normalise(simulator.render(parameters))
    second = calibrate(images, exact_poses(parameters, LETTERS), seed=0)
    assert np.diagonal(likeness(first.glyphs, second.glyphs)).min() > 0.98
    np.testing.assert_allclose(middles(second.glyphs), middles(first.glyphs), atol=0.5)
    np.testing.assert_allclose(second.x, first.x, atol=2)
    np.testing.assert_allclose(second.rotation, first.rotation, atol=4)


def middles(glyphs: GreyImages) -> npt.NDArray[np.float64]:
    """(K, 2) centres of mass."""
    places = np.indices(glyphs.shape[1:]).reshape(2, -1)
    ink = glyphs.reshape(len(glyphs), -1).astype(np.float64)
    return np.asarray(ink @ places.T / ink.sum(1, keepdims=True))


def test_a_sheet_shows_every_glyph() -> None:
    levels = np.arange(14, dtype=np.uint8) * 10 + 50
    sheet = glyph_sheet(levels.reshape(14, 1, 1).repeat(6, 1).repeat(6, 2), columns=5)
    assert sheet.shape == (2 * 3 * 6, 2 * 5 * 6)
    np.testing.assert_array_equal(sheet[6::12, 6::12].reshape(-1), [*levels, 0])


# Too few.


def unsure(poses: Poses, characters: npt.NDArray[np.bool_], probability: float = 0.45) -> Poses:
    """Another pose, or the same with these (N, L) characters read with less confidence."""
    classes = poses.probabilities.shape[-1]
    hazy = poses.probabilities * probability
    hazy += (1 - probability) / (classes - 1) * (1 - poses.probabilities)
    chosen = characters[..., None]
    return replace(poses, probabilities=np.where(chosen, hazy, poses.probabilities))


@pytest.mark.parametrize("count", [FEWEST_EXAMPLES - 1, FEWEST_EXAMPLES])
def test_a_class_of_few_sure_examples_has_no_glyph(count: int) -> None:
    normalised, poses = scene()
    ones = poses.probabilities.argmax(-1) == LETTERS.alphabet.index("1")
    kept = ones & (np.cumsum(ones).reshape(ones.shape) <= count)
    found = calibrate(normalised, unsure(poses, ones & ~kept), seed=0)
    warnings = found.summary(LETTERS.alphabet)["warnings"]
    enough = count >= FEWEST_EXAMPLES
    np.testing.assert_array_equal(found.found, [True, True, True, True, enough, True])
    assert found.glyphs[4].any() == enough
    assert len(warnings) == (not enough)
    assert all("too few '1' were read surely enough" in warning for warning in warnings)


def test_a_scout_that_knows_too_little_is_told_what_to_do() -> None:
    normalised, poses = scene()
    third = np.zeros(poses.x.shape, np.bool_)
    third[FEWEST_EXAMPLES - 1 :, 2] = True
    advice = r"at least 20 .* got \[400, 400, 19, 400\]; train the scout longer .* calibrate=false"
    with pytest.raises(RunError, match=advice):
        calibrate(normalised, unsure(poses, third, 0.8), seed=0)


# Places and turns.


def test_ranges_are_those_of_the_characters_read_surely() -> None:
    """Whatever is said of characters that could not be read does not count."""
    normalised, poses = scene()
    doubted = np.random.default_rng(6).random(poses.x.shape) < 0.3
    wild = {
        name: np.where(doubted, np.float32(999), getattr(poses, name))
        for name in ("x", "y", "rotation")
    }
    found = calibrate(normalised, unsure(replace(poses, **wild), doubted, 0.85), seed=0)
    for slot, (low, high) in enumerate([(5, 20), (30, 45), (55, 70), (80, 95)]):
        np.testing.assert_allclose(found.x[slot], low + (high - low) * QUANTILES, atol=1.5)
    np.testing.assert_allclose(found.y, 15 + 20 * QUANTILES, atol=1)
    np.testing.assert_allclose(found.rotation, -30 + 60 * QUANTILES, atol=3)
    summary = found.summary(LETTERS.alphabet)
    assert summary["x"][1] == pytest.approx([30.2, 44.8], abs=0.5)
    assert summary["rotation"] == pytest.approx([-29.4, 29.4], abs=1)
    assert json.loads(json.dumps(summary)) == summary


def block(side: int = SIDE) -> GreyImages:
    """One glyph: an upright block right above the middle."""
    glyph = np.zeros((1, side, side), np.uint8)
    glyph[0, side // 2 - 15 : side // 2 - 5, side // 2 : side // 2 + 8] = 255
    return glyph


def skewed(scheme: Scheme, *found: int) -> Calibration:
    """Places of which some are likelier than others; a block for the classes that are found."""
    slots = np.arange(scheme.length)[:, None] * 25
    glyphs = np.zeros((len(scheme.alphabet), SIDE, SIDE), np.uint8)
    glyphs[list(found)] = block()
    return Calibration(
        glyphs,
        x=(slots + 5 + 15 * QUANTILES**2).astype(np.float32),
        y=(15 + 10 * np.sqrt(QUANTILES)).astype(np.float32),
        rotation=np.where(QUANTILES < 0.5, -20, 30 * QUANTILES).astype(np.float32),
    )


def test_places_are_drawn_as_they_are_distributed() -> None:
    calibration, count = skewed(LETTERS), 20_000
    x, y, rotation = calibration.draw_places(np.random.default_rng(0), count)
    for values in (x, y, rotation):
        assert values.shape == (count, LETTERS.length)
        assert values.dtype == np.float32
    for slot in range(LETTERS.length):
        for values, quantiles in (
            (x, calibration.x[slot]),
            (y, calibration.y),
            (rotation, calibration.rotation),
        ):
            drawn = np.sort(values[:, slot])
            assert quantiles[0] <= drawn[0]
            assert drawn[-1] <= quantiles[-1]
            # Kolmogorov and Smirnov's distance; 1.95 / sqrt(n) happens once in a thousand times.
            for at in quantiles[(quantiles > -20)]:
                share = np.searchsorted(drawn, at) / count
                assert share == pytest.approx(np.interp(at, quantiles, QUANTILES), abs=0.014)
    places = np.column_stack([x, y, rotation])
    between = np.asarray(np.corrcoef(places.T)) - np.eye(places.shape[1])
    assert np.abs(between).max() < 0.04  # each on its own


def test_places_are_drawn_again_by_their_generator() -> None:
    calibration = skewed(LETTERS)
    one, again, other = (
        np.stack(calibration.draw_places(np.random.default_rng(seed), 50)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one[:2] != other[:2]).mean() > 0.9


# Files.


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "calibration.npz"
    saved = skewed(LETTERS, 1, 3)
    saved.save(path)
    loaded = Calibration.load(path)
    assert same(saved, loaded)
    np.testing.assert_array_equal(np.flatnonzero(loaded.found), [1, 3])


@pytest.mark.parametrize("keep", [0, 1, 50, 300, -1])
def test_a_truncated_file_is_a_run_error(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "calibration.npz"
    skewed(LETTERS, 0).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunError, match=r"expected a calibration at .* delete its folder and run"):
        Calibration.load(path)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.binary(min_size=1, max_size=6))
def test_a_damaged_file_is_a_run_error_or_the_same_calibration(
    tmp_path_factory: pytest.TempPathFactory, place: float, damage: bytes
) -> None:
    path = tmp_path_factory.mktemp("calibration") / "calibration.npz"
    saved = skewed(LETTERS, 0)
    saved.save(path)
    data = bytearray(path.read_bytes())
    at = int(place * (len(data) - len(damage)))
    data[at : at + len(damage)] = damage
    path.write_bytes(data)
    try:
        loaded = Calibration.load(path)
    except RunError:
        return
    assert same(saved, loaded)


@pytest.mark.parametrize(
    "change",
    [
        {"glyphs": np.zeros((6, 40, 40))},
        {"glyphs": np.zeros((6, 40, 39), np.uint8)},
        {"x": np.zeros(101, np.float32)},
        {"y": np.zeros(100, np.float32)},
        {"rotation": np.array(["pickled", None], object)},
    ],
)
def test_other_arrays_are_a_run_error(
    tmp_path: Path, change: dict[str, npt.NDArray[np.generic]]
) -> None:
    path = tmp_path / "calibration.npz"
    np.savez(path, allow_pickle=True, **{**vars(skewed(LETTERS)), **change})
    with pytest.raises(RunError, match="expected a calibration at"):
        Calibration.load(path)
    np.savez(path, glyphs=np.zeros((6, 40, 40), np.uint8))
    with pytest.raises(RunError, match="expected a calibration at"):
        Calibration.load(path)
    with pytest.raises(RunError, match="expected a calibration at"):
        Calibration.load(tmp_path / "missing.npz")


# Drawing with a calibration.


def test_appended_glyphs_follow_all_others_whatever_size_and_stroke_say() -> None:
    bank = GlyphBank("abc", ("stix-bold", "roboto-black"), (12, 20, 30), (0.0, 0.5))
    before, shape = list(bank.glyphs), bank.shape
    bank.append(np.arange(3, dtype=np.uint8).reshape(3, 1, 1).repeat(8, 1).repeat(6, 2) + 1)
    assert bank.shape == shape
    fonts, *rest = shape
    every = np.indices((fonts + 1, *rest)).reshape(4, -1)
    indices = bank.index(*every)
    for at, (font, size, stroke, character) in zip(indices.tolist(), every.T.tolist(), strict=True):
        assert bank.index(font, size, stroke, character) == at
        glyph = bank.glyph(font, size, stroke, character)
        assert glyph is bank.glyphs[at]
        assert tuple(bank.boxes[at]) == glyph.alpha.shape[::-1]
        assert tuple(bank.centres[at]) == glyph.centre
        if font < fonts:
            assert glyph is before[at]
        else:
            assert glyph.alpha.shape == (10, 8)
            assert glyph.centre == (4, 5)
            np.testing.assert_array_equal(np.unique(glyph.alpha), [0, character + 1])
    assert len(set(indices.tolist())) == len(bank.glyphs) == len(before) + 3


@pytest.mark.parametrize(
    ("rotation", "box"),
    [
        (0, (30, 25, 38, 35)),
        (90, (15, 32, 25, 40)),
        (180, (22, 45, 30, 55)),
        (-90, (35, 40, 45, 48)),
    ],
)
def test_a_found_glyph_is_drawn_where_and_as_the_calibration_says(
    rotation: int, box: tuple[int, int, int, int]
) -> None:
    scheme = Scheme(alphabet="ab", length=1, width=60, height=80)
    calibration = Calibration(
        np.repeat(block(), 2, axis=0),
        x=np.full((1, len(QUANTILES)), 30, np.float32),
        y=np.full(len(QUANTILES), 40, np.float32),
        rotation=np.full(len(QUANTILES), rotation, np.float32),
    )
    settings = drawing(harvested=1.0, noise=(0, 0), jpeg_quality=(100, 100), nearest=0)
    simulator = Simulator(scheme, settings, plain(60, 80), calibration)
    images, _ = simulator.batch(np.random.default_rng(0), 5)
    for image in images:
        rows, columns = np.nonzero(image > 175)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box


def calibrated(share: float, *found: int) -> Simulator:
    fonts = ("stix-bold", "roboto-black")
    return Simulator(
        LETTERS, drawing(fonts=fonts, harvested=share), STRIPED, skewed(LETTERS, *found)
    )


@pytest.mark.parametrize("share", [0.0, 0.8, 1.0])
def test_classes_without_a_glyph_are_drawn_by_fonts(share: float) -> None:
    simulator = calibrated(share, 0, 3)
    parameters = simulator.draw_parameters(np.random.default_rng(0), 3000)
    found = np.isin(parameters.ids, [0, 3])
    by_glyph = parameters.font == 2
    assert not by_glyph[~found].any()
    assert by_glyph[found].mean() == pytest.approx(share, abs=0.03)
    for font in (0, 1):
        assert (parameters.font[~found] == font).mean() == pytest.approx(0.5, abs=0.03)


def test_places_and_turns_are_the_calibration_s() -> None:
    simulator = calibrated(0.8, 0)
    calibration = simulator.calibration
    assert calibration is not None
    parameters = simulator.draw_parameters(np.random.default_rng(0), 4000)
    for slot in range(LETTERS.length):
        drawn = np.quantile(parameters.x[:, slot], QUANTILES)
        np.testing.assert_allclose(drawn, calibration.x[slot], atol=0.8)
    np.testing.assert_allclose(np.quantile(parameters.y, QUANTILES), calibration.y, atol=0.8)
    assert (parameters.rotation == -20).mean() == pytest.approx(0.5, abs=0.02)


def test_without_a_calibration_nothing_of_it_is_drawn() -> None:
    plain_ones = [
        Simulator(LETTERS, drawing(harvested=share), STRIPED).draw_parameters(
            np.random.default_rng(0), 2000
        )
        for share in (0.0, 1.0)
    ]
    for name, values in vars(plain_ones[0]).items():
        np.testing.assert_array_equal(values, vars(plain_ones[1])[name])
    parameters = plain_ones[0]
    assert not parameters.font.any()
    for slot, (low, high) in enumerate([(5, 20), (30, 45), (55, 70), (80, 95)]):
        ends = np.quantile(parameters.x[:, slot], (0, 1))
        np.testing.assert_allclose(ends, (low, high), atol=0.2)
    np.testing.assert_allclose(np.quantile(parameters.y, (0, 1)), (15, 35), atol=0.2)


def test_a_worker_draws_the_same_with_a_calibration() -> None:
    simulator = PosedSimulator(calibrated(0.8, 0, 3))
    drawn = [
        [
            (images.tobytes(), targets.tolist())
            for images, targets in islice(
                synthetic_batches(simulator, 3, 1, stream=1, workers=workers), 4
            )
        ]
        for workers in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] == drawn[2]
    assert len({images for images, _ in drawn[0]}) == 4


# The stage of a run.

REAL = drawing(size=(19, 19), rotation=(-8, 8), horizontal=(0, 0.2), vertical=(0.4, 0.6))
CALIBRATING = (
    "calibrate=true",
    "calibration.rounds=2",
    "calibration.steps=250",
    "refine=false",
    "adaptation.steps=0",
    "reader.batch_size=32",
    "reader.channels=[8, 8, 16, 16, 32]",
    "reader.ema_decay=0.95",
    "reader.learning_rate=0.01",
    "reader.steps=2",
    "reader.checkpoint_every=100",
    'simulator.fonts=["roboto-black", "dejavu-sans-bold"]',
    "simulator.size=[18, 20]",
    "simulator.horizontal=[-0.3, 0.3]",
    "simulator.vertical=[0.3, 0.7]",
)


@pytest.fixture(scope="module")
def challenges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 captchas of a font, places and turns of their own."""
    images, ids = Simulator(SCHEME, REAL, shaded()).batch(np.random.default_rng(8), 400)
    captchas = [
        (encode_jpeg(image, 90), SCHEME.decode(row))
        for image, row in zip(images, ids.tolist(), strict=True)
    ]
    folder = tmp_path_factory.mktemp("challenges") / "batches"
    write_challenges(folder, captchas)
    return folder


def test_a_run_learns_glyphs_and_places_of_its_images(tmp_path: Path, challenges: Path) -> None:
    run = tmp_path / "run"
    pipeline(run, challenges, *CALIBRATING)
    folder = run / "calibrate"
    manifest = json.loads((folder / MANIFEST).read_text())
    found = Calibration.load(folder / "calibration.npz")

    assert found.found.all()
    like = likeness(found.glyphs, true_glyphs(SCHEME.alphabet, 19, found.glyphs.shape[1]))
    np.testing.assert_array_equal(like.argmax(1), range(len(SCHEME.alphabet)))
    assert np.diagonal(like).min() > 0.5
    with Image.open(folder / "glyphs.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), glyph_sheet(found.glyphs))

    result = manifest["result"]
    assert result["x"] == [pytest.approx([12, 16.8], abs=2), pytest.approx([36, 40.8], abs=2)]
    assert result["y"] == pytest.approx([9.6, 14.4], abs=2)
    low, high = result["rotation"]
    assert -32 <= low <= high <= 32
    assert result["warnings"] == []
    assert result["accuracy"] > 0.9

    scout, architecture = load_reader(folder / "reader.safetensors")
    assert architecture.pose
    assert not scout.training
    rounds = []
    for number in (1, 2):
        rows = (folder / f"round-{number}" / "metrics.jsonl").read_text().splitlines()
        rounds.append([json.loads(row)["loss"] for row in rows])
        assert len(rows) == 250
    assert rounds[1][0] < 0.5 * rounds[0][0]  # it goes on with what it has learned
    assert manifest["images"] == 2 * (250 * 32 + 400)
    assert manifest["training_flops"] > 0


def test_a_scout_too_little_trained_stops_a_run_that_goes_on_without(
    tmp_path: Path, challenges: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"read surely in every slot.*calibration.steps.*=false"):
        pipeline(run, challenges, *CALIBRATING, "calibration.steps=2")
    assert not (run / "calibrate" / MANIFEST).exists()
    done = (run / "simulate" / MANIFEST).stat().st_mtime_ns
    readings = pipeline(run, challenges, *CALIBRATING, "calibrate=false")
    assert len(readings) == len(CaptchaStore(run / "store").in_content_order().names)
    assert (run / "simulate" / MANIFEST).stat().st_mtime_ns == done
