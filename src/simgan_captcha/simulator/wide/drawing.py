"""Renders planned images in colour: backdrop, letters, clutter, warps, noise, compression."""

import math
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from simgan_captcha.data.pictures import Pixels
from simgan_captcha.simulator.clutter import curve
from simgan_captcha.simulator.wide.fonts import FontShelf, outlined, shadowed, thinned
from simgan_captcha.simulator.wide.plans import (
    LUMA,
    Colour,
    ImagePlan,
    PlannedLetter,
    PlannedMark,
    colour,
)
from simgan_captcha.types import Floats


class DrawnImage(NamedTuple):
    """One image and where its letters stand."""

    image: Pixels
    """(H, W, 3)."""
    text: str
    places: Floats
    """(L, 4): x and y of each letter's middle in pixels, height of a capital in pixels, rotation in
    degrees counter-clockwise."""


def render(plan: ImagePlan, shelf: FontShelf) -> DrawnImage:
    """The image of a plan."""
    noise = np.random.default_rng(plan.seed)
    finish, clutter = plan.style.finish, plan.style.clutter
    canvas = _backdrop(plan, noise)
    warp = _warp(plan, noise)
    letters, inks = _letters(plan, shelf)
    if warp is not None and not finish.warps_clutter:
        letters, inks = warp.moved(letters), warp.moved(inks, cv2.INTER_NEAREST)
    _grid(canvas, plan)
    _lay_marks(canvas, [m for m in plan.marks if not m.over])
    if clutter.inverting != "none":
        letters = _inverted(letters, plan, noise)
    _lay(canvas, letters, inks)
    _lay_marks(canvas, [m for m in plan.marks if m.over])
    if warp is not None and finish.warps_clutter:
        canvas = warp.moved(canvas)
    if clutter.border:
        corner = (plan.width - 1, plan.height - 1)
        cv2.rectangle(canvas, (0, 0), corner, plan.border, 2 * clutter.border - 1)
    places = np.array([[p.x, p.y, p.height, p.turn] for p in plan.letters], np.float32)
    if warp is not None:
        places[:, :2] = warp.place(places[:, :2])
    return DrawnImage(_finish(canvas, plan, noise), plan.text, places)


class _Warp(NamedTuple):
    """Every pixel of the result takes the source's pixel at (x + across, y + down)."""

    across: Floats
    down: Floats

    def moved(self, picture: Pixels, interpolation: int = cv2.INTER_LINEAR) -> Pixels:
        H, W = self.across.shape
        x, y = np.meshgrid(np.arange(W, dtype=np.float32), np.arange(H, dtype=np.float32))
        moved = cv2.remap(
            picture, x + self.across, y + self.down, interpolation, None, cv2.BORDER_REPLICATE
        )
        return np.asarray(moved, np.uint8)

    def place(self, points: Floats) -> Floats:
        """Where points (N, 2) of the source come to lie, to first order."""
        H, W = self.across.shape
        columns = np.clip(points[:, 0].astype(int), 0, W - 1)
        rows = np.clip(points[:, 1].astype(int), 0, H - 1)
        back = np.stack([self.across[rows, columns], self.down[rows, columns]], 1)
        return np.asarray(points - back, np.float32)


def _warp(plan: ImagePlan, noise: np.random.Generator) -> _Warp | None:
    """Waves (sines along and across), elastic displacement (smooth noise) and perspective."""
    f, H, W = plan.style.finish, plan.height, plan.width
    amplitude, length, first, second = plan.wave
    if not (amplitude or f.elastic or f.perspective):
        return None
    x, y = np.arange(W, dtype=np.float32), np.arange(H, dtype=np.float32)
    down = np.zeros((H, W), np.float32) + amplitude * np.sin(2 * np.pi * x / length + first)
    across = np.zeros((H, W), np.float32)
    if f.ripple:
        across += 0.7 * amplitude * np.sin(2 * np.pi * y / length + second)[:, None]
    if f.elastic:
        cells = (max(2, round(H / plan.unit * 2)), max(2, round(W / plan.unit * 2)))
        for field in (across, down):
            coarse = noise.uniform(-1, 1, cells).astype(np.float32)
            field += (
                f.elastic * plan.unit * cv2.resize(coarse, (W, H), interpolation=cv2.INTER_CUBIC)
            )
    if f.perspective:
        # Rows widen and columns grow in proportion to their distance from the middle.
        keystone, swell = noise.uniform(-f.perspective, f.perspective, 2)
        u, v = (x - W / 2) / W, (y - H / 2) / H
        across += np.float32(2 * keystone * W) * v[:, None] * u
        down += np.float32(2 * swell * H) * v[:, None] * u
    return _Warp(across.astype(np.float32), down.astype(np.float32))


def _letters(plan: ImagePlan, shelf: FontShelf) -> tuple[Pixels, Pixels]:
    """Coverage (H, W) of the letters and their colours (H, W, 3)."""
    coverage = np.zeros((plan.height, plan.width), np.uint8)
    inks = np.empty((plan.height, plan.width, 3), np.uint8)
    inks[:] = plan.letters[0].ink
    several = any(letter.ink != plan.letters[0].ink for letter in plan.letters)
    for letter in plan.letters:
        patch, left, top = _patch(plan, letter, shelf)
        rows, columns = _overlap(patch.shape, left, top, coverage.shape)
        if rows is None or columns is None:
            continue
        cut = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        if several:
            inks[rows, columns][cut > 0] = letter.ink
        np.maximum(coverage[rows, columns], cut, out=coverage[rows, columns])
    return coverage, inks


def _overlap(
    shape: tuple[int, ...], left: int, top: int, within: tuple[int, ...]
) -> tuple[slice | None, slice | None]:
    rows = slice(max(0, top), min(within[0], top + shape[0]))
    columns = slice(max(0, left), min(within[1], left + shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None, None
    return rows, columns


def _patch(plan: ImagePlan, letter: PlannedLetter, shelf: FontShelf) -> tuple[Pixels, int, int]:
    """A letter as it stands in the image, and the pixel its patch begins at (left, top).

    A glyph's point p goes to A (p - c) + (x, y), where c is the glyph's middle and
    A = rotation . shear . scale = R(turn) . [[1, shear], [0, 1]] . [[stretch, 0], [0, 1]].
    """
    s = plan.style.letters
    glyph, (cx, cy), _ = shelf.glyph(
        letter.font, letter.size, letter.character, stroke=s.stroke, smooth=s.smooth
    )
    if s.rendering == "raised":
        glyph = shadowed(glyph, max(1, round(0.08 * letter.size)))
    elif s.rendering == "hollow":
        glyph, cx, cy = outlined(glyph, max(1, s.stroke)), cx + 1, cy + 1
    elif s.rendering == "thin":
        glyph = thinned(glyph)
    angle = math.radians(letter.turn)
    cos, sin = math.cos(angle), math.sin(angle)
    # Counter-clockwise, though rows are counted downwards.
    a, b = cos * letter.stretch, cos * letter.shear + sin
    c, d = -sin * letter.stretch, -sin * letter.shear + cos
    height, width = glyph.shape
    corners = [(u - cx, v - cy) for u in (0, width) for v in (0, height)]
    xs = [a * u + b * v for u, v in corners]
    ys = [c * u + d * v for u, v in corners]
    frame = s.frame * letter.height if letter.framed else 0.0
    reach = frame * (abs(cos) + abs(sin))
    left = math.floor(letter.x + min(*xs, -reach)) - 1
    top = math.floor(letter.y + min(*ys, -reach)) - 1
    right = math.ceil(letter.x + max(*xs, reach)) + 1
    bottom = math.ceil(letter.y + max(*ys, reach)) + 1
    x, y = letter.x - left, letter.y - top
    matrix = np.array([[a, b, x - a * cx - b * cy], [c, d, y - c * cx - d * cy]], np.float32)
    how = cv2.INTER_NEAREST if s.nearest else cv2.INTER_LINEAR
    size = (max(1, min(400, right - left)), max(1, min(400, bottom - top)))
    patch = np.asarray(cv2.warpAffine(glyph, matrix, size, flags=how), np.uint8)
    if letter.framed:
        square = [
            (x + frame * (p * cos + q * sin), y + frame * (q * cos - p * sin)) for p, q in _SQUARE
        ]
        line = 1 if s.nearest else cv2.LINE_AA
        corners_of_frame = [np.rint(square).astype(np.int32)]
        cv2.polylines(patch, corners_of_frame, True, 255, s.frame_width, line)
    return patch, left, top


_SQUARE = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def _inverted(letters: Pixels, plan: ImagePlan, noise: np.random.Generator) -> Pixels:
    """Ink and background change places under a shape: |coverage - shape|."""
    shape = np.zeros_like(letters)
    H, W = letters.shape
    kind = plan.style.clutter.inverting
    if kind == "arc":
        ends = noise.uniform(0, H, 2)
        middle = noise.uniform(-0.5, 1.5) * H
        points = [[-2, ends[0]], [W / 2, middle], [W + 2, ends[1]]]
        width = max(2, round(plan.unit * noise.uniform(0.12, 0.4)))
        cv2.polylines(shape, [_bent(points)], False, 255, width, cv2.LINE_AA, 3)
    elif kind == "ellipse":
        centre = (int(noise.uniform(0, W)), int(noise.uniform(0, H)))
        axes = (int(noise.uniform(0.3, 1.2) * H), int(noise.uniform(0.2, 0.7) * H))
        cv2.ellipse(shape, centre, axes, noise.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    else:
        shape[:, int(noise.uniform(0.2, 0.8) * W) :] = 255
    return np.asarray(cv2.absdiff(letters, shape), np.uint8)


def _lay(canvas: Pixels, coverage: Pixels, inks: Pixels) -> None:
    """canvas += (ink - canvas) coverage / 255."""
    share = coverage[..., None].astype(np.float32) * np.float32(1 / 255)
    mixed = canvas + (inks.astype(np.float32) - canvas) * share
    np.copyto(canvas, mixed.astype(np.uint8))


def _bent(points: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """The curve of three control points, in eighths of a pixel."""
    return np.asarray(np.rint(curve(np.asarray(points, np.float32), 14) * 8), np.int32)


def _lay_marks(canvas: Pixels, marks: list[PlannedMark]) -> None:
    for mark in marks:
        if mark.kind == "curve":
            width = max(1, round(mark.width))
            cv2.polylines(canvas, [_bent(mark.points)], False, mark.colour, width, cv2.LINE_AA, 3)
            continue
        (x, y), *rest = [(round(u * 8), round(v * 8)) for u, v in mark.points]
        if mark.kind == "dot":
            radius = max(2, round(mark.width * 8))
            cv2.circle(canvas, (x, y), radius, mark.colour, -1, cv2.LINE_AA, 3)
        elif mark.kind == "ellipse":
            thickness = round(mark.width)
            cv2.ellipse(canvas, (x, y), rest[0], 0, 0, 360, mark.colour, thickness, cv2.LINE_AA, 3)
        else:
            width = max(1, round(mark.width))
            cv2.line(canvas, (x, y), rest[0], mark.colour, width, cv2.LINE_AA, 3)


def _finish(canvas: Pixels, plan: ImagePlan, noise: np.random.Generator) -> Pixels:
    """What a program does to an image before it sends it."""
    f = plan.style.finish
    H, W = canvas.shape[:2]
    if plan.blur > 0.25:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), plan.blur), np.uint8)
    if plan.noise > 0.5:
        grain = _grain(H, W, noise) * plan.noise
        canvas = np.clip(canvas + grain[..., None], 0, 255).astype(np.uint8)
    if f.specks:
        struck = noise.random((H, W)) < f.specks
        canvas[struck] = np.where(noise.random((int(struck.sum()), 1)) < 0.5, 0, 255)
    if plan.style.colours.grey and plan.style.colours.saturation:
        canvas = np.repeat(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    if plan.rescaled != 1:
        size = (max(8, round(W * plan.rescaled)), max(8, round(H * plan.rescaled)))
        canvas = np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_AREA), np.uint8)
        canvas = np.asarray(cv2.resize(canvas, (W, H), interpolation=cv2.INTER_LINEAR), np.uint8)
    if f.one_bit:
        grey = cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)
        _, grey = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        canvas = np.repeat(np.asarray(grey, np.uint8)[..., None], 3, 2)
    if f.palette:
        step = 256 / max(2, round(f.palette ** (1 / 3) + 1))
        canvas = np.clip((canvas // step + 0.5) * step, 0, 255).astype(np.uint8)
    if plan.jpeg is not None:
        _, data = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, plan.jpeg])
        canvas = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return canvas


_FIELD = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)


def _grain(H: int, W: int, noise: np.random.Generator) -> Floats:
    """(H, W) Gaussian noise: a window on one field, because drawing a new field takes too long."""
    start = int(noise.integers(len(_FIELD)))
    return np.take(_FIELD, range(start, start + H * W), mode="wrap").reshape(H, W)


def _smooth(H: int, W: int, cell: float, noise: np.random.Generator) -> Floats:
    """(H, W) smooth noise in [-1, 1], as coarse as ``cell`` pixels."""
    cells = (max(2, math.ceil(H / cell) + 1), max(2, math.ceil(W / cell) + 1))
    coarse = noise.uniform(-1, 1, cells).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (W, H), interpolation=cv2.INTER_CUBIC), np.float32)


def _backdrop(plan: ImagePlan, noise: np.random.Generator) -> Pixels:
    """(H, W, 3): two colours mixed by a gradient, clouds, stripes or a texture."""
    H, W, colours = plan.height, plan.width, plan.style.colours
    canvas = np.empty((H, W, 3), np.uint8)
    canvas[:] = plan.background
    if colours.backdrop == "plain":
        return canvas
    # What all images share is drawn from the family's seed.
    source = np.random.default_rng(plan.style.seed) if colours.backdrop_scope == "family" else noise
    if colours.backdrop == "hatching":
        return _hatched(canvas, plan.second_background, source)
    if colours.backdrop == "patches":
        return _patched(canvas, plan, source)
    if colours.backdrop == "letters":
        return _lettered(canvas, plan.second_background, source)
    if colours.backdrop == "gradient":
        angle = source.uniform(0, 2 * np.pi)
        x, y = np.linspace(-1, 1, W), np.linspace(-1, 1, H)[:, None]
        share = 0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y)
    elif colours.backdrop == "clouds":
        share = 0.5 + 0.5 * _smooth(H, W, source.uniform(0.2, 1.0) * H, source)
    elif colours.backdrop == "stripes":
        wide = source.uniform(0.15, 1.2) * H
        along = np.arange(W) if source.random() < 0.6 else np.arange(H)[:, None]
        share = ((along // wide) % 2) + np.zeros((H, W))
    else:
        share = 0.5 + 0.4 * cv2.GaussianBlur(_grain(H, W, source), (0, 0), source.uniform(0.3, 2))
    share = np.clip(share, 0, 1)[..., None].astype(np.float32)
    difference = np.subtract(plan.second_background, plan.background, dtype=np.float32)
    return np.asarray(canvas + share * difference).astype(np.uint8)


def _patched(canvas: Pixels, plan: ImagePlan, source: np.random.Generator) -> Pixels:
    """Bands or fields whose colours differ as much from each other as from the ink."""
    H, W = canvas.shape[:2]
    c = plan.style.colours
    # All stay on one side of the ink's lightness.
    ground, reach = float(np.dot(plan.background, LUMA)), 0.4 * c.contrast[0]
    lightness = (ground - reach, 255.0) if c.dark_ink else (0.0, ground + reach)
    columns = np.sort(source.uniform(0, W, int(source.integers(1, 6)))).astype(int)
    rows = np.sort(source.uniform(0, H, int(source.integers(0, 2)))).astype(int)
    for top, bottom in pairwise((0, *rows, H)):
        for left, right in pairwise((0, *columns, W)):
            saturation = 0.0 if c.grey else source.uniform(0.3, 1)
            canvas[top:bottom, left:right] = colour(source.uniform(*lightness), saturation, source)
    return canvas


def _hatched(canvas: Pixels, shade: Colour, source: np.random.Generator) -> Pixels:
    H, W = canvas.shape[:2]
    distance, slant = int(source.integers(3, 10)), int(source.uniform(-1.5, 1.5) * H)
    for x in range(-2 * H, W + 2 * H, distance):
        cv2.line(canvas, (x, 0), (x + slant, H), shade, 1, cv2.LINE_AA)
    return canvas


def _lettered(canvas: Pixels, shade: Colour, source: np.random.Generator) -> Pixels:
    """Small pale letters that belong to no text."""
    H, W = canvas.shape[:2]
    for _ in range(int(source.integers(5, 40))):
        letter = chr(source.integers(ord("A"), ord("z") + 1))
        place = (int(source.integers(-5, W)), int(source.integers(0, H + 8)))
        cv2.putText(
            canvas, letter, place, cv2.FONT_HERSHEY_SIMPLEX, source.uniform(0.2, 0.45), shade
        )
    return canvas


def _grid(canvas: Pixels, plan: ImagePlan) -> None:
    if distance := plan.style.clutter.grid:
        H, W = canvas.shape[:2]
        for x in range(distance // 2, W, distance):
            cv2.line(canvas, (x, 0), (x, H), plan.border, 1)
        for y in range(distance // 2, H, distance):
            cv2.line(canvas, (0, y), (W, y), plan.border, 1)
