import json
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from simgan_captcha.calibration.calibrate import calibrate
from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.glyph_fit import GlyphFit, fit_glyphs
from simgan_captcha.calibration.rendering_fit import RenderingFit, fit_rendering, start_rendering
from simgan_captcha.calibration.summary import summarise
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import RENDERING, Calibration
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import Simulator
from tests.calibration.scene import disturbed, drawing, exact_poses, font_glyphs, mistaken
from tests.drawing import plain

SCHEME = Scheme(alphabet="agelkm", length=2, width=52, height=48)
FONTS = ("stix-bold", "roboto-black", "dejavu-sans-bold")
SIMULATOR = SimulatorSettings(fonts=FONTS, size=(20, 26))
SIZE, INK, BLUR, QUALITY = 22, 244, 0.6, 60
TURNS, PITCH = (-20, 14), 26
REAL = drawing(
    fonts=("roboto-black",),
    size=(SIZE, SIZE),
    rotation=TURNS,
    horizontal=(-0.2, 0.2),
    vertical=(0.4, 0.65),
    nearest=0.3,
    ink=(0, 0),
    blur=(BLUR, BLUR),
    jpeg_quality=(QUALITY, QUALITY),
)


@dataclass(frozen=True)
class Found:
    fit: GlyphFit
    calibration: Calibration
    rendered: RenderingFit

    def summary(self, seed: int = 0) -> dict[str, Any]:
        return summarise(
            self.fit, self.calibration, self.rendered, SCHEME.alphabet, SIMULATOR, seed
        )


@cache
def found() -> Found:
    """The calibration from 400 images and predictions with errors."""
    # Two grey levels, so that compression changes the background.
    background = replace(plain(SCHEME.width, SCHEME.height), ink_level=float(INK))
    background.grey[:, :26] = 60
    simulator = Simulator(SCHEME, REAL, background)
    parameters = simulator.draw_parameters(np.random.default_rng(1), 400)
    images = simulator.render(parameters)
    normalised = background.normalise(images)
    poses = mistaken(disturbed(exact_poses(parameters, SCHEME), 2, 6), 0.1)
    fit = fit_glyphs(normalised, poses, seed=0, epochs=24)
    rendering = start_rendering(background)
    calibration = calibrate(fit.glyphs, fit.poses, fit.kept, fit.settled, rendering)
    rendered = fit_rendering(images, background, SCHEME, calibration, 0, evaluations=160)
    return Found(fit, replace(calibration, rendering=rendered.values), rendered)


@cache
def summary() -> dict[str, Any]:
    return found().summary()


def middle(low: float, high: float) -> list[float]:
    """The middle 98 % of a uniform distribution."""
    return [low + 0.01 * (high - low), high - 0.01 * (high - low)]


# Known parameters are found.


def assert_found(estimate: list[float], truth: float, tolerance: float) -> None:
    value, error = estimate
    assert value == pytest.approx(truth, abs=tolerance)
    assert abs(value - truth) < max(3 * error, tolerance / 2)
    assert 0 < error < tolerance


def test_font_and_size_are_found() -> None:
    assert_found(summary()["font_size"], SIZE, 1)
    assert_found(summary()["stroke_weight"], 1, 0.15)
    fonts = summary()["fonts"]
    assert list(fonts) == list(SCHEME.alphabet)
    assert sum(font == "roboto-black" for font, _, _ in fonts.values()) >= 5
    assert all(abs(size - SIZE) <= 2 and similarity > 0.9 for _, size, similarity in fonts.values())


def test_rotations_are_found() -> None:
    """Glyphs themselves have no upright orientation."""
    for estimate, end in zip(summary()["rotation"], middle(*TURNS), strict=True):
        assert_found(estimate, end, 3)


def test_positions_and_pitch_are_found() -> None:
    assert_found(summary()["pitch"], PITCH, 1)
    for slot, across in enumerate(summary()["x"]):
        centre = PITCH * (slot + 0.5)
        for estimate, end in zip(
            across, middle(centre - 0.2 * PITCH, centre + 0.2 * PITCH), strict=True
        ):
            assert estimate[0] == pytest.approx(end, abs=1.5)
    for estimate, end in zip(summary()["y"], middle(0.4 * 48, 0.65 * 48), strict=True):
        assert estimate[0] == pytest.approx(end, abs=1.5)


def test_rendering_is_found() -> None:
    rendering = summary()["rendering"]
    assert tuple(rendering) == RENDERING
    assert rendering["ink"][0] == pytest.approx(INK, abs=3)
    assert rendering["jpeg_quality"][0] == pytest.approx(QUALITY, abs=4)
    # The blur of the images is in the fitted glyphs; `nearest` compensates for it.
    assert rendering["blur"][0] < BLUR + 0.1
    assert all(error > 0 for _, error in rendering.values())


def test_the_misfit_is_reported() -> None:
    said = exactly_found(100).summary()
    assert said["rendering_misfit"] == 1.23
    assert said["clutter"] == {
        "lines": [1, 0.1],
        "line_width": [0.0243, 0.0012],
        "bend": [0.5, 0.2],
        "line_strength": [1, 0.1],
    }
    assert summary()["rendering_misfit"] == pytest.approx(found().rendered.misfit, abs=0.01)


def test_correct_glyphs_give_no_warnings() -> None:
    assert summary()["warnings"] == []


def test_the_same_seed_gives_the_same_json() -> None:
    again, other = found().summary(), found().summary(seed=1)
    assert summary() == again
    assert json.loads(json.dumps(summary(), allow_nan=False)) == summary()
    # Other resamples change the errors, not the values.
    assert summary() != other
    assert [e[0] for e in other["rotation"]] == [e[0] for e in summary()["rotation"]]
    assert other["rotation"][0][1] == pytest.approx(summary()["rotation"][0][1], rel=0.4)


# Uncertainty.

NO_RENDERING = RenderingFit(
    np.zeros(6, np.float32),
    np.ones(6, np.float32),
    clutter=np.array([1, 0.0243, 0.5, 1, *[np.nan] * 5], np.float32),
    clutter_errors=np.array([0.1, 0.0012, 0.2, 0.1, *[np.nan] * 5], np.float32),
    misfit=1.234,
)


def exactly_found(count: int, length: int = 2, seed: int = 1) -> Found:
    """The fit of this number of images without any error in glyphs and poses."""
    scheme = SCHEME.model_copy(update={"length": length, "width": PITCH * length})
    simulator = Simulator(scheme, REAL, plain(scheme.width, scheme.height))
    parameters = simulator.draw_parameters(np.random.default_rng(seed), count)
    poses = exact_poses(parameters, scheme)
    kept = np.ones(poses.x.shape, np.bool_)
    glyphs = font_glyphs("roboto-black", SIZE, SCHEME.alphabet)
    misfit = np.zeros(poses.x.shape, np.float32)
    settled = np.ones(count, np.bool_)
    calibration = calibrate(glyphs, poses, kept, settled, NO_RENDERING.values)
    # Classes have only random offsets, so the truth is known.
    calibration.offset[:] = 0
    return Found(GlyphFit(glyphs, poses, kept, settled, misfit), calibration, NO_RENDERING)


def test_standard_errors_match_the_scatter_over_images() -> None:
    """Compares the standard error of the bootstrap with the scatter over six sets of images."""
    many = [exactly_found(120, seed=seed).summary() for seed in range(6)]
    for key in ("y", "rotation"):
        found = np.array([s[key] for s in many])[..., 0]
        told = np.array([s[key] for s in many])[..., 1].mean(0)
        assert (found.std(0, ddof=1) < 2.5 * told).all(), key
    pitch = np.array([s["pitch"] for s in many])
    assert pitch[:, 0].std(ddof=1) == pytest.approx(pitch[:, 1].mean(), rel=0.8)


def test_more_images_give_smaller_errors() -> None:
    few, many = (exactly_found(count).summary() for count in (100, 1600))
    assert many["pitch"][1] < 0.5 * few["pitch"][1]
    assert many["y"][0][1] < 0.6 * few["y"][0][1]
    # The rotation of the glyphs has the same error.
    assert many["rotation"][0][1] > 0.5


def test_one_slot_has_no_pitch() -> None:
    alone = exactly_found(100, length=1).summary()
    assert alone["pitch"] is None
    assert len(alone["x"]) == 1
    assert json.loads(json.dumps(alone, allow_nan=False)) == alone


# Warnings.


def test_a_glyph_unlike_all_fonts_gives_a_warning() -> None:
    right = exactly_found(100)
    glyphs = right.calibration.glyphs.copy()
    glyphs[1] = glyphs[3]  # an l that is read as g
    (warning,) = replace(right, calibration=replace(right.calibration, glyphs=glyphs)).summary()[
        "warnings"
    ]
    assert warning.startswith("'g' looks like no font of the simulator (nearest: ")
    assert "calibrate/glyphs.png" in warning


def test_a_rarely_read_letter_gives_a_warning() -> None:
    right = exactly_found(300)
    ids = right.fit.poses.probabilities.argmax(-1)
    ls = ids == SCHEME.alphabet.index("l")
    kept = ~ls | (np.cumsum(ls).reshape(ls.shape) <= 7)
    glyphs = right.calibration.glyphs.copy()
    glyphs[3] = 0
    starved = Found(
        replace(right.fit, kept=kept), replace(right.calibration, glyphs=glyphs), NO_RENDERING
    ).summary()
    (warning,) = starved["warnings"]
    expected = round(int(kept.sum()) / len(SCHEME.alphabet))
    assert warning.startswith(
        f"'l' was read with confidence 7 times in the images of calibration, {expected} expected"
    )
    assert "l" not in starved["fonts"]


def test_without_glyphs_there_is_no_size_and_a_warning_per_letter() -> None:
    right = exactly_found(100)
    nothing = replace(
        right,
        calibration=replace(right.calibration, glyphs=np.zeros_like(right.calibration.glyphs)),
    ).summary()
    assert nothing["font_size"] is None
    assert nothing["stroke_weight"] is None
    assert nothing["fonts"] == {}
    assert len(nothing["warnings"]) == len(SCHEME.alphabet)
    assert all(np.isfinite(end).all() for end in nothing["rotation"])
    assert json.loads(json.dumps(nothing, allow_nan=False)) == nothing


def test_unsure_characters_are_not_summarised() -> None:
    right = exactly_found(200)
    kept = np.random.default_rng(0).random(right.fit.kept.shape) < 0.7
    poses = right.fit.poses
    x, y, rotation = (np.where(kept, part, 999) for part in (poses.x, poses.y, poses.rotation))
    wild = Poses(poses.probabilities, x, y, rotation)
    found = replace(right, fit=replace(right.fit, kept=kept, poses=wild)).summary()
    assert max(end for end, _ in [*found["rotation"], *found["y"], *found["x"][1]]) < 60


def test_forms_are_reported_if_letters_differ() -> None:
    assert summary()["forms"] == {}
    right = found()
    generator = np.random.default_rng(0)
    most = np.array([0.2, 0.3, 0.1, 0.5, 0.5, 0.4])
    form = generator.uniform(-most, most, (*right.fit.kept.shape, 6))
    poses = replace(right.fit.poses, form=form.astype(np.float32))
    calibration = calibrate(
        right.fit.glyphs, poses, right.fit.kept, right.fit.settled, right.rendered.values
    )
    told = replace(right, fit=replace(right.fit, poses=poses), calibration=calibration).summary()
    ends = {
        "size": (0.822, 1.217),
        "stretch": (0.745, 1.342),
        "shear": (-0.098, 0.098),
        "taper": (-0.49, 0.49),
        "swell": (-0.49, 0.49),
        "bend": (-0.392, 0.392),
    }
    assert set(told["forms"]) == set(ends)
    for name, both in ends.items():
        values = [value for value, _ in told["forms"][name]]
        assert values == pytest.approx(both, abs=0.02)
