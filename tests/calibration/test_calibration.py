import dataclasses
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgan_captcha.calibration.calibration import (
    FEWEST_CHARACTERS,
    GLYPH_SCALE,
    QUANTILES,
    Calibration,
    calibrate,
    glyph_sheet,
)
from simgan_captcha.calibration.poses import Floats, Poses
from simgan_captcha.errors import RunError
from simgan_captcha.glyphs import GlyphBank
from simgan_captcha.reader.scout import PosedSimulator
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator import Simulator
from simgan_captcha.streams import synthetic_batches
from tests.calibration.scene import LETTERS, STRIPED, block, drawing, drawn, same, skewed
from tests.drawing import plain

# What poses say.

RENDERING = np.array([240, 0.5, 0.3, 1, 50], np.float32)
GLYPHS: Floats = np.ones((len(LETTERS.alphabet), 8, 8), np.float32)


def known(count: int) -> tuple[Poses, npt.NDArray[np.bool_]]:
    poses = drawn(count)[1]
    return poses, np.ones(poses.x.shape, np.bool_)


def test_ranges_are_those_of_the_characters_that_count() -> None:
    """Whatever is said of the others does not count."""
    poses, kept = known(500)
    kept[np.random.default_rng(6).random(kept.shape) < 0.3] = False
    wild = {
        name: np.where(kept, getattr(poses, name), np.float32(999))
        for name in ("x", "y", "rotation")
    }
    found = calibrate(GLYPHS, dataclasses.replace(poses, **wild), kept, RENDERING)
    for slot, (low, high) in enumerate([(5, 20), (30, 45), (55, 70), (80, 95)]):
        np.testing.assert_allclose(found.x[slot], low + (high - low) * QUANTILES, atol=2)
    np.testing.assert_allclose(found.y, 15 + 20 * QUANTILES, atol=2)
    np.testing.assert_allclose(found.rotation, -30 + 60 * QUANTILES, atol=5)
    np.testing.assert_array_equal(found.rendering, RENDERING)
    assert found.glyphs.dtype == np.uint8
    assert found.found.all()


def test_what_a_class_lies_off_is_told_apart_from_where_slots_lie() -> None:
    poses, kept = known(600)
    ids = poses.probabilities.argmax(-1)
    off = np.array([[0, 0, 0], [4, 0, 0], [0, -3, 0], [0, 0, 9], [-2, 2, 0], [0, 0, -9]])
    moved = Poses(
        poses.probabilities,
        x=(poses.x + off[ids, 0]).astype(np.float32),
        y=(poses.y + off[ids, 1]).astype(np.float32),
        rotation=(poses.rotation + off[ids, 2]).astype(np.float32),
    )
    straight, found = (calibrate(GLYPHS, p, kept, RENDERING) for p in (poses, moved))
    apart = found.offset - straight.offset - off
    # All classes together may lie elsewhere: slots then lie the other way.
    np.testing.assert_allclose(apart, np.broadcast_to(np.median(apart, 0), off.shape), atol=2)
    widths = [np.ptp(c.x[:, [5, 95]], axis=1).mean() for c in (straight, found)]
    assert widths[1] == pytest.approx(widths[0], abs=0.7)
    assert np.ptp(found.rotation[[5, 95]]) == pytest.approx(54, abs=4)


def test_classes_without_a_glyph_lie_as_usual() -> None:
    poses, kept = known(300)
    glyphs = GLYPHS.copy()
    glyphs[2] = 0
    found = calibrate(glyphs, poses, kept, RENDERING)
    np.testing.assert_array_equal(found.found, np.arange(6) != 2)
    np.testing.assert_array_equal(found.offset[2], 0)


@pytest.mark.parametrize("count", [FEWEST_CHARACTERS - 1, FEWEST_CHARACTERS])
def test_a_scout_that_knows_too_little_is_told_what_to_do(count: int) -> None:
    poses, kept = known(100)
    kept[count:, 2] = False
    if count == FEWEST_CHARACTERS:
        calibrate(GLYPHS, poses, kept, RENDERING)
        return
    advice = r"at least 50 .* got \[100, 100, 49, 100\]; train the scout .* calibrate=false"
    with pytest.raises(RunError, match=advice):
        calibrate(GLYPHS, poses, kept, RENDERING)


def test_a_sheet_shows_every_glyph() -> None:
    levels = np.arange(14, dtype=np.uint8) * 10 + 50
    sheet = glyph_sheet(levels.reshape(14, 1, 1).repeat(6, 1).repeat(6, 2), columns=5)
    assert sheet.shape == (3 * 6, 5 * 6)
    np.testing.assert_array_equal(sheet[::6, ::6].reshape(-1), [*levels, 0])


# Places that are drawn.


def test_places_are_drawn_as_they_are_distributed() -> None:
    calibration, count = skewed(LETTERS), 20_000
    ids = np.zeros((count, LETTERS.length), np.int64)
    x, y, rotation = calibration.draw_places(np.random.default_rng(0), ids)
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


def test_places_are_drawn_with_what_their_class_lies_off() -> None:
    straight = skewed(LETTERS)
    offset = np.arange(18, dtype=np.float32).reshape(6, 3)
    off = dataclasses.replace(straight, offset=offset)
    ids = np.random.default_rng(1).integers(6, size=(50, 4))
    usual, moved = (
        np.stack(c.draw_places(np.random.default_rng(0), ids), -1) for c in (straight, off)
    )
    np.testing.assert_allclose(moved - usual, offset[ids], atol=1e-4)


def test_places_are_drawn_again_by_their_generator() -> None:
    calibration, ids = skewed(LETTERS), np.zeros((50, 4), np.int64)
    one, again, other = (
        np.stack(calibration.draw_places(np.random.default_rng(seed), ids)) for seed in (1, 1, 2)
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
        {"glyphs": np.zeros((6, 80, 80))},
        {"glyphs": np.zeros((6, 80, 79), np.uint8)},
        {"x": np.zeros(101, np.float32)},
        {"y": np.zeros(100, np.float32)},
        {"offset": np.zeros((5, 3), np.float32)},
        {"rendering": np.zeros(4, np.float32)},
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


def test_missing_arrays_and_files_are_a_run_error(tmp_path: Path) -> None:
    path = tmp_path / "calibration.npz"
    np.savez(path, glyphs=np.zeros((6, 80, 80), np.uint8))
    with pytest.raises(RunError, match="expected a calibration at"):
        Calibration.load(path)
    with pytest.raises(RunError, match="expected a calibration at"):
        Calibration.load(tmp_path / "missing.npz")


# Drawing with a calibration.


def test_appended_glyphs_follow_all_others_whatever_size_and_stroke_say() -> None:
    bank = GlyphBank("abc", ("stix-bold", "roboto-black"), (12, 20, 30), (0.0, 0.5))
    before, shape = list(bank.glyphs), bank.shape
    bank.append(np.arange(3, dtype=np.uint8).reshape(3, 1, 1).repeat(8, 1).repeat(6, 2) + 1, 2)
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
        assert bank.scales[at] == (1 if font < fonts else 0.5)
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
    assert GLYPH_SCALE == 2  # as the block is drawn
    scheme = Scheme(alphabet="ab", length=1, width=60, height=80)
    calibration = Calibration(
        np.repeat(block(), 2, axis=0),
        x=np.full((1, len(QUANTILES)), 25, np.float32),
        y=np.full(len(QUANTILES), 40, np.float32),
        rotation=np.full(len(QUANTILES), rotation, np.float32),
        offset=np.array([[5, 0, 0]] * 2, np.float32),
        rendering=np.array([250, 0, 0, 0, 99], np.float32),
    )
    simulator = Simulator(scheme, drawing(fitted=1.0), plain(60, 80), calibration)
    images, _ = simulator.batch(np.random.default_rng(0), 5)
    for image in images:
        rows, columns = np.nonzero(image > 175)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box


def calibrated(share: float, *found: int) -> Simulator:
    fonts = ("stix-bold", "roboto-black")
    settings = drawing(fonts=fonts, fitted=share, shear=(0.02, 0.04), stretch=(1.1, 1.2))
    return Simulator(LETTERS, settings, STRIPED, skewed(LETTERS, *found))


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
    # Found glyphs are neither sheared nor stretched, fonts are.
    np.testing.assert_array_equal(parameters.shear == 0, by_glyph)
    np.testing.assert_array_equal(parameters.stretch == 1, by_glyph)


def test_places_turns_and_rendering_are_the_calibration_s() -> None:
    simulator = calibrated(0.8, 0)
    calibration = simulator.calibration
    assert calibration is not None
    calibration.rendering[:] = (200, 0.6, 0.3, 4, 80)
    parameters = simulator.draw_parameters(np.random.default_rng(0), 4000)
    for slot in range(LETTERS.length):
        drawn = np.quantile(parameters.x[:, slot], QUANTILES)
        np.testing.assert_allclose(drawn, calibration.x[slot], atol=0.8)
    np.testing.assert_allclose(np.quantile(parameters.y, QUANTILES), calibration.y, atol=0.8)
    assert (parameters.rotation == -20).mean() == pytest.approx(0.5, abs=0.02)
    assert parameters.nearest.mean() == pytest.approx(0.3, abs=0.03)
    for values, middle, widest in (
        (parameters.ink, 200, 1),
        (parameters.blur, 0.6, 0.1),
        (parameters.noise, 4, 0.5),
        (parameters.jpeg_quality, 80, 1),
    ):
        assert values.mean() == pytest.approx(middle, abs=widest / 10)
        assert np.abs(values - middle).max() <= widest + 1e-3


def test_without_a_calibration_nothing_of_it_is_drawn() -> None:
    plain_ones = [
        Simulator(LETTERS, drawing(fitted=share), STRIPED).draw_parameters(
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
    batches = [
        [
            (images.tobytes(), targets.tolist())
            for images, targets in islice(
                synthetic_batches(simulator, 3, 1, stream=1, workers=workers), 4
            )
        ]
        for workers in (0, 0, 1)
    ]
    assert batches[0] == batches[1] == batches[2]
    assert len({images for images, _ in batches[0]}) == 4
