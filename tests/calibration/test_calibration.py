import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simgan_captcha.calibration.bootstrap import PosedSimulator
from simgan_captcha.calibration.calibrate import FEWEST_CHARACTERS, calibrate, glyph_sheet
from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.errors import RunError
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import GLYPH_SCALE, RENDERING, UNKNOWN_CLUTTER, Calibration
from simgan_captcha.simulator.glyphs import GlyphBank
from simgan_captcha.simulator.pose import PLACED, POSE
from simgan_captcha.simulator.simulator import AS_FOUND, Shares, Simulator
from simgan_captcha.training.streams import synthetic_batches
from simgan_captcha.types import Floats
from tests.calibration.scene import (
    DONORS,
    LETTERS,
    STRIPED,
    block,
    drawing,
    drawn,
    regardless,
    same,
    skewed,
    unformed,
)
from tests.drawing import plain

# Calibrated poses.

RENDERED = np.array([240, 0.5, 0.3, 1, 50, 1.5], np.float32)
GLYPHS: Floats = np.ones((len(LETTERS.alphabet), 8, 8), np.float32)

Bools = npt.NDArray[np.bool_]


def known(count: int) -> tuple[Poses, Bools, Bools]:
    """Poses, all of them confident and settled."""
    poses = drawn(count)[1]
    return poses, np.ones(poses.x.shape, np.bool_), np.ones(count, np.bool_)


def places(poses: Poses) -> Floats:
    return poses.places


def moved(poses: Poses, off: npt.NDArray[Any]) -> Poses:
    """Poses moved by offsets (N, L, 3), or by one common offset."""
    return poses.at(places(poses) + unformed(np.broadcast_to(off, (*poses.x.shape, PLACED))))


def test_poses_come_from_settled_images_without_class_offsets() -> None:
    poses, kept, settled = known(300)
    settled[np.random.default_rng(6).random(300) < 0.3] = False
    found = calibrate(GLYPHS, poses, kept, settled, RENDERED)
    ids = poses.probabilities.argmax(-1)
    usual = places(poses) - found.offset[ids]
    np.testing.assert_allclose(found.poses, usual[settled], atol=1e-4)
    assert found.poses.dtype == np.float32
    np.testing.assert_array_equal(found.rendering, RENDERED)
    assert found.glyphs.dtype == np.uint8
    assert found.found.all()


def test_poses_include_unsure_characters_but_not_strayed_ones() -> None:
    """Overlapping letters are rarely confident."""
    poses, kept, settled = known(100)
    close, astray = np.arange(100) < 20, np.arange(100) >= 90
    kept[close, 1], settled[astray] = False, False
    off = np.zeros((100, 4, 3))
    off[close, 1] = (-60, 0, 0)
    off[astray, 2] = (0, 300, 0)
    found = calibrate(GLYPHS, moved(poses, off), kept, settled, RENDERED)
    ids = np.zeros((5000, 4), np.int64)
    x, y, *_ = np.moveaxis(draw(found, ids), -1, 0)
    assert (x[:, 1] < 0).mean() == pytest.approx(20 / 90, abs=0.03)
    assert (x[:, [0, 2, 3]] > 0).all()
    assert y.max() < 100


def test_only_confident_characters_determine_class_offsets() -> None:
    """Misread characters would give a class the offset of another class."""
    poses, kept, settled = known(400)
    kept[np.random.default_rng(6).random(kept.shape) < 0.6] = False
    wild = moved(poses, np.where(kept, 0, 90)[..., None])
    straight, found = (calibrate(GLYPHS, p, kept, settled, RENDERED) for p in (poses, wild))
    np.testing.assert_array_equal(found.offset, straight.offset)
    apart = (found.poses - straight.poses)[~kept][:, :PLACED]
    np.testing.assert_allclose(apart, 90, atol=1e-3)


def test_class_offsets_are_separated_from_slot_positions() -> None:
    poses, kept, settled = known(600)
    ids = poses.probabilities.argmax(-1)
    off = np.array([[0, 0, 0], [4, 0, 0], [0, -3, 0], [0, 0, 9], [-2, 2, 0], [0, 0, -9]])
    straight, found = (
        calibrate(GLYPHS, p, kept, settled, RENDERED) for p in (poses, moved(poses, off[ids]))
    )
    apart = (found.offset - straight.offset)[:, :PLACED] - off
    # An offset of all classes moves the slots.
    apart -= np.median(apart, 0)
    assert (np.abs(apart).max(0) < (1.5, 1.5, 3)).all()
    middles = [np.median(c.poses, 0) for c in (straight, found)]
    assert np.ptp(middles[1] - middles[0], axis=0).max() < 0.7
    widths = [np.ptp(np.quantile(c.poses, (0.05, 0.95), axis=0), axis=0) for c in (straight, found)]
    np.testing.assert_allclose(widths[1][:, :2], widths[0][:, :2], atol=0.9)
    np.testing.assert_allclose(widths[1][:, 2], 54, atol=4)


def test_one_sided_misreadings_give_no_class_offset() -> None:
    """The remaining letters lean to the other side, but no further than those of other classes."""
    poses, kept, settled = known(600)
    leaning = (poses.probabilities.argmax(-1) == 3) & (poses.rotation > 0)
    probabilities = poses.probabilities.copy()
    probabilities[leaning] = np.eye(6)[4]
    misread = dataclasses.replace(poses, probabilities=probabilities)
    for predicted, sure in ((misread, kept), (poses, kept & ~leaning)):
        found = calibrate(GLYPHS, predicted, sure, settled, RENDERED)
        left = predicted.rotation[(predicted.probabilities.argmax(-1) == 3) & sure]
        assert np.median(left) < -12
        assert np.abs(found.offset[:, 2]).max() < 3


@pytest.mark.parametrize("aligned", [0.0, 0.5])
def test_gaps_between_letters_do_not_depend_on_their_widths(aligned: float) -> None:
    """Texts are aligned left or centred. The gaps are equal, not the distances."""
    generator, side, gap = np.random.default_rng(0), 40, 3
    widths = np.array([4, 8, 10, 10, 12, 16])  # pixels
    glyphs = np.zeros((6, side, side), np.float32)
    for k, width in enumerate(widths * GLYPH_SCALE):
        glyphs[k, 10:30, side // 2 - width // 2 : side // 2 + width // 2] = 1
    ids = generator.integers(6, size=(600, 4))
    wide = widths[ids]
    ends = np.cumsum(wide + gap, 1) - gap
    x = ends - wide / 2 - aligned * ends[:, -1:] + 50
    nowhere = np.full(ids.shape, 20, np.float32)
    predicted = np.eye(6, dtype=np.float32)[ids]
    poses = Poses(predicted, x.astype(np.float32), nowhere, np.zeros_like(nowhere))
    sure = np.ones(ids.shape, np.bool_)
    found = calibrate(glyphs, poses, sure, np.ones(600, np.bool_), RENDERED)
    # The calibration is drawn from as estimated.
    np.testing.assert_allclose(found.as_usual(poses.places, ids, sure), found.poses, atol=1e-3)
    assert found.poses[..., 0].std(0).max() < 0.5
    drawn_ids = generator.integers(6, size=(2000, 4))
    drawn_x, wide = draw(found, drawn_ids)[..., 0], widths[drawn_ids]
    gaps = np.diff(drawn_x, axis=1) - (wide[:, 1:] + wide[:, :-1]) / 2
    assert gaps.mean() == pytest.approx(gap, abs=0.2)
    assert gaps.std() < 1  # no more than the jitter
    begin = drawn_x[:, 0] - wide[:, 0] / 2 + aligned * (wide.sum(1) + 3 * gap)
    assert begin.mean() == pytest.approx(50, abs=0.3)
    assert begin.std() < 1


def test_classes_without_a_glyph_have_no_offset() -> None:
    poses, kept, settled = known(300)
    glyphs = GLYPHS.copy()
    glyphs[2] = 0
    found = calibrate(glyphs, poses, kept, settled, RENDERED)
    np.testing.assert_array_equal(found.found, np.arange(6) != 2)
    np.testing.assert_array_equal(found.offset[2], 0)
    at = poses.probabilities.argmax(-1) == 2
    np.testing.assert_array_equal(found.poses[at], places(poses)[at])


@pytest.mark.parametrize(
    ("sure", "settling", "counts"),
    [
        (FEWEST_CHARACTERS, FEWEST_CHARACTERS, None),
        (FEWEST_CHARACTERS - 1, 100, r"\[100, 100, 19, 100\].* got 100;"),
        (100, FEWEST_CHARACTERS - 1, r"\[100, 100, 100, 100\].* got 19;"),
    ],
)
def test_too_few_confident_characters_are_an_error_with_advice(
    sure: int, settling: int, counts: str | None
) -> None:
    poses, kept, settled = known(100)
    kept[sure:, 2] = False
    settled[settling:] = False
    if counts is None:
        assert len(calibrate(GLYPHS, poses, kept, settled, RENDERED).poses) == FEWEST_CHARACTERS
        return
    with pytest.raises(
        RunError, match=rf"at least 20 .* got {counts} train longer .* calibrate=false"
    ):
        calibrate(GLYPHS, poses, kept, settled, RENDERED)


def test_a_sheet_shows_every_glyph() -> None:
    levels = np.arange(14, dtype=np.uint8) * 10 + 50
    glyphs = levels.reshape(14, 1, 1).repeat(6, 1).repeat(6, 2)
    sheet = glyph_sheet(glyphs, columns=5)
    assert sheet.shape == (3 * 6, 5 * 6)
    np.testing.assert_array_equal(sheet[::6, ::6].reshape(-1), [*levels, 0])


# Drawn poses.

JITTER = np.array([0.5, 0.5, 1.5])


def draw(calibration: Calibration, ids: npt.NDArray[np.int64], seed: int = 0) -> Floats:
    """Poses (B, L, 3) of characters with the form of their glyphs."""
    _, poses = calibration.draw_places(np.random.default_rng(seed), ids)
    assert not poses[..., PLACED:].any()
    return poses[..., :PLACED]


def donors(calibration: Calibration, usual: Floats) -> npt.NDArray[np.int64]:
    """The real image (B,) that is nearest to each drawn one."""
    near = np.array(
        [np.abs((calibration.poses[..., :PLACED] - each) / JITTER).max((1, 2)) for each in usual]
    )
    return np.asarray(near.argmin(1))


def test_drawn_poses_are_those_of_one_real_image_plus_jitter() -> None:
    calibration, count = skewed(LETTERS), 4000
    calibration.offset[:, :PLACED] = np.arange(18).reshape(6, 3) - 8
    ids = np.random.default_rng(1).integers(6, size=(count, LETTERS.max_length))
    found = draw(calibration, ids)
    assert found.shape == (count, LETTERS.max_length, 3)
    assert found.dtype == np.float32
    usual = found - calibration.offset[ids][..., :PLACED]
    off = (usual - calibration.poses[donors(calibration, usual)][..., :PLACED]) / JITTER
    assert np.abs(off).max() < 6
    np.testing.assert_allclose(off.std((0, 1)), 1, atol=0.05)
    np.testing.assert_allclose(off.mean((0, 1)), 0, atol=0.05)
    # Each character has its own jitter.
    between = np.corrcoef(off.reshape(count, -1).T) - np.eye(3 * LETTERS.max_length)
    assert np.abs(between).max() < 0.1


def test_all_real_images_are_drawn_equally_often() -> None:
    far = 20 * np.arange(DONORS, dtype=np.float32)[:, None, None]
    calibration = dataclasses.replace(skewed(LETTERS), poses=unformed(np.tile(far, (1, 4, 3))))
    x, _, _ = np.moveaxis(draw(calibration, np.zeros((100 * DONORS, 4), np.int64)), -1, 0)
    drawn_from = np.rint(x / 20).astype(np.int64)
    assert (drawn_from == drawn_from[:, :1]).all()
    counts = np.bincount(drawn_from[:, 0], minlength=DONORS)
    assert len(counts) == DONORS
    assert counts.min() > 50
    assert counts.max() < 150


def test_rare_lengths_are_equally_frequent_except_very_rare_ones() -> None:
    poses = unformed(np.zeros((100, 4, 3)))
    poses[:40, 3:] = np.nan  # 40 of three letters, 58 of four...
    poses[98:, 2:] = np.nan  # ...and 2 of two: perhaps an error
    calibration = dataclasses.replace(skewed(LETTERS), poses=poses)
    ids, _ = calibration.draw_places(np.random.default_rng(0), np.zeros((6000, 4), np.int64))
    lengths = np.bincount((ids == 0).sum(1), minlength=5) / 6000
    np.testing.assert_allclose(lengths, [0, 0, 6 / 122, 58 / 122, 58 / 122], atol=0.03)


def test_forms_of_misread_letters_are_clipped_to_confident_ones() -> None:
    poses, kept, settled = known(100)
    form = np.random.default_rng(0).uniform(-0.3, 0.3, (*kept.shape, 6))
    kept[:20, 1] = False
    form[:20, 1] = 3
    poses = dataclasses.replace(poses, form=form.astype(np.float32))
    found = calibrate(GLYPHS, poses, kept, settled, RENDERED).poses[..., PLACED:]
    assert 0.28 < found.max() < 0.31
    assert found[20:, 1, 0].std() == pytest.approx(form[20:, 1, 0].std(), rel=0.05)


def test_drawn_poses_have_the_correlations_of_real_ones() -> None:
    calibration = skewed(LETTERS)
    found = draw(calibration, np.zeros((20_000, LETTERS.max_length), np.int64))
    real, drawn = (
        np.cov(p.reshape(len(p), -1).astype(np.float64).T)
        for p in (calibration.poses[..., :PLACED], found)
    )
    expected = real * (DONORS - 1) / DONORS + np.diag(np.tile(JITTER**2, LETTERS.max_length))
    deviations = np.sqrt(np.diagonal(expected))
    scale = np.outer(deviations, deviations)
    np.testing.assert_allclose(drawn / scale, expected / scale, atol=0.04)
    # The real poses are correlated: x, y and rotation of the first letter and the next.
    correlation = drawn / scale
    assert correlation[0, 2] > 0.8  # rotation and position
    assert correlation[0, 3] > 0.3  # positions of neighbours
    assert correlation[1, 4] > 0.8  # on one line
    assert abs(correlation[0, 1]) < 0.2


def test_the_same_generator_draws_the_same_poses() -> None:
    calibration, ids = skewed(LETTERS), np.zeros((50, 4), np.int64)
    one, again, other = (draw(calibration, ids, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.9


# Drawn glyphs.


@pytest.mark.parametrize("contrast", [1.0, 1.5, 2.0, 4.0])
def test_contrast_makes_edges_steeper_about_half_coverage(contrast: float) -> None:
    levels = np.arange(256, dtype=np.uint8)
    calibration = dataclasses.replace(
        skewed(LETTERS), glyphs=np.tile(levels.reshape(1, 16, 16), (6, 1, 1))
    )
    calibration.glyphs[5] = 0
    calibration.rendering[RENDERING.index("contrast")] = contrast
    drawn = calibration.drawn_glyphs()
    assert drawn.dtype == np.uint8
    assert drawn.shape == calibration.glyphs.shape
    steeper = drawn[0].reshape(-1).astype(np.int64)
    if contrast == 1:
        np.testing.assert_array_equal(steeper, levels)
    assert (steeper + steeper[::-1] == 255).mean() > 0.4  # symmetric
    assert np.abs(steeper + steeper[::-1] - 255).max() <= 1  # rounding
    assert (np.diff(steeper) >= 0).all()
    inner = np.flatnonzero((steeper > 0) & (steeper < 255))
    slope = np.polyfit(inner, steeper[inner], 1)[0]
    assert slope == pytest.approx(contrast, rel=0.01)
    assert len(inner) == pytest.approx(255 / contrast, abs=2)
    # Empty pixels stay empty, and the given glyphs are unchanged.
    assert not drawn[5].any()
    np.testing.assert_array_equal(calibration.glyphs[0].reshape(-1), levels)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_raster_has_the_drawn_pixels_on_any_grid(down: int, right: int) -> None:
    pixels = np.random.default_rng(0).integers(2, size=(5, 7), dtype=np.uint8) * np.uint8(255)
    fine = np.zeros((16, 16), np.uint8)
    fine[2 + down : 12 + down, right : 14 + right] = pixels.repeat(2, 0).repeat(2, 1)
    found = skewed(LETTERS)
    calibration = dataclasses.replace(found, glyphs=np.stack([fine, *found.glyphs[1:, :16, :16]]))
    calibration.rendering[RENDERING.index("contrast")] = 2
    rasters = calibration.drawn_rasters()
    raster = rasters[0]
    # The middle of a raster is that of the glyph.
    assert raster.shape == (8 + down, 8 + right)
    assert raster.dtype == np.uint8
    expected = np.zeros_like(raster)
    expected[1 + down : 6 + down, right : 7 + right] = pixels
    np.testing.assert_array_equal(raster, expected)
    for empty in np.flatnonzero(~calibration.found):
        assert not rasters[empty].any()


def test_without_interpolation_a_gap_of_one_pixel_stays() -> None:
    """A gap as in an i, sampled from finer glyphs, would depend on the position of the letter."""
    scheme = Scheme(alphabet="ab", length=1, width=40, height=40)
    glyphs = np.zeros((2, 32, 32), np.uint8)
    glyphs[:, 4:28, 12:20] = 255
    glyphs[:, 10:12] = 0
    calibration = Calibration(
        glyphs,
        poses=unformed(np.array([[[20, 20, 0]]])),
        offset=np.zeros((2, len(POSE)), np.float32),
        following=regardless(1),
        rendering=np.array([250, 0, 1, 0, 99, 1], np.float32),
        clutter=UNKNOWN_CLUTTER,
    )
    simulator = Simulator(
        scheme, drawing(noise=(0, 0)), plain(40, 40), calibration, shares=AS_FOUND
    )
    parameters = simulator.draw_parameters(np.random.default_rng(0), 60)
    gaps = []
    for nearest in (True, False):
        turned = dataclasses.replace(
            parameters,
            nearest=np.full(60, nearest),
            rotation=np.zeros_like(parameters.rotation),
            noise=np.zeros_like(parameters.noise),
        )
        inked = (simulator.render(turned).max(2) > 150).sum(1)
        gaps.append(12 - inked)  # of 12 rows from the upper end to the lower
    assert set(gaps[0].tolist()) == {1}
    assert set(gaps[1].tolist()) != {1}


def test_a_simulator_draws_with_the_calibrated_contrast() -> None:
    soft = skewed(LETTERS, *range(6))
    soft.glyphs[:] = cv2.GaussianBlur(np.moveaxis(soft.glyphs, 0, -1), (0, 0), 3).transpose(2, 0, 1)
    steep = dataclasses.replace(soft, rendering=soft.rendering.copy())
    steep.rendering[RENDERING.index("contrast")] = 3
    images = [
        Simulator(LETTERS, drawing(), plain(), c, shares=AS_FOUND).batch(
            np.random.default_rng(0), 40
        )[0]
        for c in (soft, steep)
    ]
    half_way = [((i > 125) & (i < 225)).mean() for i in images]
    assert half_way[1] < 0.6 * half_way[0]


# Files.


def test_a_saved_calibration_is_loaded(tmp_path: Path) -> None:
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


@settings(max_examples=100)
@given(st.floats(0, 1), st.binary(min_size=1, max_size=6))
@example(0.06094199333726481, b"\x0e")  # numpy alone does not detect it
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
        {"poses": np.zeros((200, 4, 9))},
        {"poses": np.zeros((200, 4, 3), np.float32)},
        {"poses": np.zeros((200, 24), np.float32)},
        {"poses": np.zeros((0, 4, 9), np.float32)},
        {"poses": np.zeros((200, 0, 9), np.float32)},
        {"poses": np.array(["pickled", None], object)},
        {"offset": np.zeros((5, 9), np.float32)},
        {"following": np.zeros((4, 4, 3), np.float32)},
        {"rendering": np.zeros(5, np.float32)},
        {"clutter": np.zeros(6, np.float32)},
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


def test_appended_glyphs_follow_all_others_for_any_size_and_stroke() -> None:
    bank = GlyphBank("abc", ("stix-bold", "roboto-black"), (12, 20, 30), (0.0, 0.5))
    before, shape = list(bank.glyphs), bank.shape
    bank.append([np.full((8, 6), k + 1, np.uint8) for k in range(3)], 2)
    bank.append([np.full((4 + k, 3), k + 4, np.uint8) for k in range(3)], 1)
    assert bank.shape == shape
    fonts, *rest = shape
    every = np.indices((fonts + 2, *rest)).reshape(4, -1)
    indices = bank.index(*every)
    for at, (font, size, stroke, character) in zip(indices.tolist(), every.T.tolist(), strict=True):
        assert bank.index(font, size, stroke, character) == at
        glyph = bank.glyph(font, size, stroke, character)
        assert glyph is bank.glyphs[at]
        assert tuple(bank.boxes[at]) == glyph.alpha.shape[::-1]
        assert tuple(bank.centres[at]) == glyph.centre
        assert bank.scales[at] == (0.5 if font == fonts else 1)
        if font < fonts:
            assert glyph is before[at]
        elif font == fonts:
            assert glyph.alpha.shape == (10, 8)
            assert glyph.centre == (4, 5)
            np.testing.assert_array_equal(np.unique(glyph.alpha), [0, character + 1])
        else:
            assert glyph.alpha.shape == (6 + character, 5)
            assert glyph.centre == (2.5, 3 + character / 2)
            np.testing.assert_array_equal(np.unique(glyph.alpha), [0, character + 4])
    assert len(set(indices.tolist())) == len(bank.glyphs) == len(before) + 6


@pytest.mark.parametrize(
    ("rotation", "box"),
    [
        (0, (30, 25, 38, 35)),
        (90, (15, 32, 25, 40)),
        (180, (22, 45, 30, 55)),
        (-90, (35, 40, 45, 48)),
    ],
)
@pytest.mark.parametrize("nearest", [0, 1])
def test_a_calibrated_glyph_is_drawn_at_its_calibrated_pose(
    rotation: int, box: tuple[int, int, int, int], nearest: int
) -> None:
    assert GLYPH_SCALE == 2  # as the block is drawn
    scheme = Scheme(alphabet="ab", length=1, width=60, height=80)
    calibration = Calibration(
        np.repeat(block(), 2, axis=0),
        poses=unformed(np.array([[[25, 40, rotation]]])),
        offset=unformed(np.array([[5, 0, 0]] * 2)),
        following=regardless(1),
        rendering=np.array([250, 0, nearest, 0, 99, 1], np.float32),
        clutter=UNKNOWN_CLUTTER,
    )
    simulator = Simulator(scheme, drawing(), plain(60, 80), calibration, shares=AS_FOUND)
    parameters = simulator.draw_parameters(np.random.default_rng(0), 5)
    exact = {"x": 30, "y": 40, "rotation": rotation}
    for name, value in exact.items():
        np.testing.assert_allclose(getattr(parameters, name), value, atol=5)
    # Without the jitter.
    images = simulator.render(
        dataclasses.replace(
            parameters,
            **{n: np.full_like(getattr(parameters, n), value) for n, value in exact.items()},
        )
    )
    for image in images:
        rows, columns = np.nonzero(image > 175)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box


def calibrated(share: float, *found: int) -> Simulator:
    fonts = ("stix-bold", "roboto-black")
    settings = drawing(fonts=fonts, shear=(0.02, 0.04), stretch=(1.1, 1.2))
    shares = Shares(calibrated_glyphs=share)
    return Simulator(LETTERS, settings, STRIPED, skewed(LETTERS, *found), shares=shares)


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
    # Calibrated glyphs are neither sheared nor stretched, fonts are.
    np.testing.assert_array_equal(parameters.shear == 0, by_glyph)
    np.testing.assert_array_equal(parameters.stretch == 1, by_glyph)


def test_poses_and_rendering_come_from_the_calibration() -> None:
    simulator = calibrated(0.8, 0)
    calibration = simulator.calibration
    assert calibration is not None
    calibration.rendering[:] = (200, 0.6, 0.3, 4, 80, 1)
    parameters = simulator.draw_parameters(np.random.default_rng(0), 4000)
    shares = np.linspace(0.05, 0.95, 10)
    for number, values in enumerate((parameters.x, parameters.y)):
        drawn, real = (
            np.quantile(v, shares, axis=0) for v in (values, calibration.poses[..., number])
        )
        np.testing.assert_allclose(drawn, real, atol=1)
    turned = (calibration.poses[..., 2] > 0).mean()
    assert (parameters.rotation > 0).mean() == pytest.approx(turned, abs=0.03)
    assert np.median(parameters.rotation[parameters.rotation < 0]) == pytest.approx(-20, abs=0.3)
    assert parameters.nearest.mean() == pytest.approx(0.3, abs=0.03)
    for drawn_values, middle, widest in (
        (parameters.ink, 200, 1),
        (parameters.blur, 0.6, 0.1),
        (parameters.noise, 4, 0.5),
        (parameters.jpeg_quality, 80, 1),
    ):
        assert drawn_values.mean() == pytest.approx(middle, abs=widest / 10)
        assert np.abs(drawn_values - middle).max() <= widest + 1e-3


def test_without_a_calibration_nothing_is_calibrated() -> None:
    plain_ones = [
        Simulator(
            LETTERS, drawing(), STRIPED, shares=Shares(calibrated_glyphs=share)
        ).draw_parameters(np.random.default_rng(0), 2000)
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


def test_only_possible_texts_give_poses() -> None:
    """A recognizer that misses a letter leaves a gap, or a text that is too short."""
    probabilities = np.zeros((4, 3, 3), np.float32)
    for n, row in enumerate([(0, 1, 2), (0, 2, 1), (2, 2, 2), (0, 1, 0)]):
        probabilities[n, np.arange(3), row] = 1
    nowhere = np.zeros((4, 3), np.float32)
    poses = Poses(probabilities, nowhere, nowhere, nowhere, blank=2, min_length=2)
    assert poses.possible.tolist() == [True, False, False, True]
    assert Poses(probabilities, nowhere, nowhere, nowhere).possible.all()
