import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simgan_captcha.simulator.compositing import lay_letters, with_noise
from simgan_captcha.simulator.glyphs import GlyphBank

BANK = GlyphBank("ag", ("dejavu-sans-bold",), (18, 30), (0.0,))
GLYPHS = BANK.packed()
H, W = 24, 40
Doubles = npt.NDArray[np.float64]


def sampled(alpha: npt.NDArray[np.uint8], u: float, v: float, *, nearest: bool) -> float:
    """Coverage at a point of a glyph, in pixels from the centre of the first pixel; 0 outside."""
    if nearest:
        column, row = int(np.floor(u + 0.5)), int(np.floor(v + 0.5))
        inside = 0 <= column < alpha.shape[1] and 0 <= row < alpha.shape[0]
        return float(alpha[row, column]) if inside else 0.0
    wide = np.pad(alpha.astype(np.float64), 1)
    if not (-1 < u < alpha.shape[1] and -1 < v < alpha.shape[0]):
        return 0.0
    column, row = int(np.floor(u)), int(np.floor(v))
    right, lower = u - column, v - row
    rows = wide[row + 1 : row + 3, column + 1 : column + 3] @ [1 - right, right]
    return float(rows @ [1 - lower, lower])


def drawn_slowly(
    glyph: int, to_glyph: Doubles, ink: float, *, nearest: bool, side_weight: float
) -> Doubles:
    """One letter on black, pixel by pixel, in float64."""
    alpha = BANK.glyphs[glyph].alpha
    coverage = np.array(
        [
            [
                sampled(alpha, *(to_glyph @ [x, y, 1, x * y, x * x]), nearest=nearest)
                for x in range(-1, W + 1)
            ]
            for y in range(-1, H + 1)
        ]
    )
    taps = np.array([side_weight, 1 - 2 * side_weight, side_weight])
    for axis in (0, 1):
        coverage = np.apply_along_axis(np.convolve, axis, coverage, taps, mode="same")
    return coverage[1:-1, 1:-1] / 255 * ink


def half_way(to_glyph: Doubles) -> npt.NDArray[np.bool_]:
    """Mask (H, W) of pixels whose point in the glyph is half way between two pixels."""
    y, x = np.mgrid[:H, :W].astype(np.float64)
    points = np.tensordot(to_glyph, np.stack([x, y, np.ones_like(x), x * y, x * x]), 1)
    off = np.abs(points + 0.5 - np.rint(points + 0.5))
    return np.asarray((off < 1e-3).any(0))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3),
    st.floats(-180, 180),
    st.tuples(st.floats(-0.02, 0.02), st.floats(-0.02, 0.02)),
    st.sampled_from([(0.0, 0.0), (0.01, 0.03), (-0.02, 0.01)]),
    st.floats(0.4, 2.5),
    st.floats(-5, W + 5),
    st.floats(-5, H + 5),
    st.booleans(),
    st.floats(0, 1 / 3),
)
def test_a_letter_is_the_same_as_in_slow_loops(
    glyph: int,
    turn: float,
    warp: tuple[float, float],
    bend: tuple[float, float],
    scale: float,
    x: float,
    y: float,
    nearest: bool,
    side_weight: float,
) -> None:
    cosine, sine = np.cos(np.deg2rad(turn)) / scale, np.sin(np.deg2rad(turn)) / scale
    linear = np.array([[cosine, -sine], [sine, cosine]])
    middle = BANK.boxes[glyph] / 2
    to_glyph = np.column_stack([linear, middle - linear @ [x, y], warp, bend])
    canvases = np.zeros((1, H, W), np.float32)
    lay_letters(
        canvases,
        GLYPHS,
        np.array([[glyph]]),
        to_glyph[None, None].astype(np.float32),
        np.array([[[0, 0, W, H]]]),
        np.full((1, 1), 200, np.float32),
        np.array([nearest]),
        np.array([side_weight], np.float32),
    )
    expected = drawn_slowly(glyph, to_glyph, 200, nearest=nearest, side_weight=side_weight)
    differs = np.abs(canvases[0] - expected) > 0.1
    # Either pixel may be the nearest one to a point half way between two; the taps then spread it.
    tied = cv2.dilate(half_way(to_glyph).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert not (differs & ~(tied & nearest)).any()


def test_nothing_is_drawn_outside_a_letters_box() -> None:
    canvases = np.zeros((1, H, W), np.float32)
    turn = np.array([[1, 0, -10, 0, 0], [0, 1, -3, 0, 0]], np.float32)
    box = np.array([12, 6, 16, 11])
    rest = (np.full((1, 1), 250, np.float32), np.array([False]), np.array([0.2], np.float32))
    lay_letters(canvases, GLYPHS, np.array([[2]]), turn[None, None], box[None, None], *rest)
    inside = canvases[0, 6:11, 12:16].copy()
    assert inside.max() > 100
    canvases[0, 6:11, 12:16] = 0
    assert not canvases.any()
    whole = np.zeros((1, H, W), np.float32)
    everywhere = np.array([0, 0, W, H])
    lay_letters(whole, GLYPHS, np.array([[2]]), turn[None, None], everywhere[None, None], *rest)
    np.testing.assert_allclose(whole[0, 6:11, 12:16], inside, atol=1e-3)


def test_noise_starts_at_its_offset_and_levels_are_clipped() -> None:
    field = np.arange(40, dtype=np.float32)
    canvases = np.full((2, 2, 3), 100.2, np.float32)
    canvases[1, 0, 0] = -3
    drawn = with_noise(canvases, field, np.array([4, 30]), np.array([1, 10], np.float32))
    assert drawn[0].tolist() == [[104, 105, 106], [107, 108, 109]]
    assert drawn[1].ravel().tolist() == [255] * 6
    assert with_noise(canvases, field, np.array([0, 0]), np.zeros(2, np.float32))[1, 0, 0] == 0


@pytest.mark.parametrize("cache", ["/proc/none", ""])
def test_loops_are_compiled_without_a_cache_folder(tmp_path: Path, cache: str) -> None:
    code = """
import numpy as np
from simgan_captcha.simulator.codec import through_jpeg
print(through_jpeg(np.full((1, 8, 8), 7, np.uint8), np.array([90])).mean())
"""
    # The other cache folder is not writable either.
    environment = os.environ | {
        "NUMBA_CACHE_DIR": cache or str(tmp_path),
        "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "7.0", done.stderr
    assert bool(list(tmp_path.rglob("*.nbi"))) == (not cache)
