"""Fit ink, blur, noise, codec and clutter of the simulator to image statistics.

This is the method of simulated moments (McFadden 1989). An optimiser draws images with candidate
values until their moments agree with those of real images. The moments are histograms of grey
levels, differences of neighbouring pixels, and coefficients of the JPEG transform. All candidates
use the same random numbers. CMA-ES (Hansen 2016, arXiv:1604.00772) searches globally; least squares
(Levenberg 1944, Marquardt 1963) refines the result. The derivatives of the moments give the
standard errors.

Shapes: N images, H and W pixels, M moments, V values.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import cma
import numpy as np
import torch

from simgan_captcha.calibration.moments import image_moments
from simgan_captcha.data.background import Background
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import RENDERING, UNKNOWN_CLUTTER, Calibration
from simgan_captcha.simulator.clutter import CLUTTER, DOTS, LINES, TEXTURE, clutter_like, middles
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import Shares, Simulator
from simgan_captcha.types import Doubles, Floats, GreyImages

IMAGES = 400
"""Number of images drawn for each candidate; the global search draws a quarter."""

_VALUES = {
    "ink": (0, 255, 6, 0.2),
    "blur": (0, 1, 0.3, 0.02),
    "nearest": (0, 1, 0.5, 0.05),
    "noise": (0, 12, 2, 0.5),
    "jpeg_quality": (20, 98, 10, 0.3),
    "contrast": (1, 6, 0.5, 0.05),
    "lines": (0, 12, 1, 0.1),
    "line_width": (0.01, 0.12, 0.015, 0.002),
    "bend": (0, 1, 0.2, 0.05),
    "line_strength": (0.1, 1.5, 0.15, 0.03),
    "dots": (0, 150, 12, 2),
    "dot_radius": (0.008, 0.08, 0.006, 0.001),
    "dot_strength": (0.1, 1.5, 0.15, 0.03),
    "texture": (0, 1, 0.08, 0.01),
    "grain": (0.005, 0.15, 0.012, 0.002),
}
"""Lower bound, upper bound, unit of the optimiser, and least standard error of each value. The last
covers what derivatives miss: grey levels are integers, and noise adds in squares."""
_STEP, _STRIDE = 0.6, 1.5
"""Initial deviation of CMA-ES, and longest step of least squares, in these units."""
_STUCK = 1e5
_BLUR, _FIRST_BLUR = RENDERING.index("blur"), 0.3
"""The simulator draws no blur below this sigma."""


@dataclass(frozen=True)
class RenderingFit:
    """The fitted values and their errors."""

    values: Floats
    """(6,) in the order of `calibrated.RENDERING`."""
    errors: Floats
    """(6,) standard errors."""
    clutter: Floats
    """(9,) in the order of `clutter.CLUTTER`; NaN for absent kinds."""
    clutter_errors: Floats
    """(9,) standard errors."""
    misfit: float
    """Mean squared difference of moments, in units of the sampling variance; at best about 1."""


@dataclass(frozen=True)
class _Space:
    """The space of values that apply to a scheme."""

    names: tuple[str, ...]
    """(V,) names of the values."""

    @staticmethod
    def of(scheme: Scheme) -> "_Space":
        lines = LINES if "lines" in scheme.clutter else ()
        dots = DOTS if "dots" in scheme.clutter else ()
        texture = TEXTURE if "texture" in scheme.clutter else ()
        return _Space((*RENDERING, *lines, *dots, *texture))

    @property
    def bounds(self) -> Doubles:
        """Lower and upper bounds (2, V)."""
        return np.array([_VALUES[name][:2] for name in self.names], np.float64).T

    @property
    def width(self) -> Doubles:
        """Units (V,) of the optimiser."""
        return np.array([_VALUES[name][2] for name in self.names], np.float64)

    @property
    def resolution(self) -> Doubles:
        """Least standard errors (V,)."""
        return np.array([_VALUES[name][3] for name in self.names], np.float64)

    def parts(self, values: Doubles) -> tuple[Floats, Floats]:
        """Split values into rendering (6,) and clutter (9,), with NaN for absent kinds."""
        named = dict(zip(self.names, values.tolist(), strict=True))
        rendering = np.array([named[name] for name in RENDERING], np.float32)
        return rendering, np.array([named.get(name, np.nan) for name in CLUTTER], np.float32)

    def whole(self, rendering: Floats, clutter: Floats) -> Doubles:
        """Join rendering and clutter into values (V,)."""
        named = dict(zip((*RENDERING, *CLUTTER), (*rendering, *clutter), strict=True))
        return np.array([named[name] for name in self.names], np.float64)


def start_rendering(background: Background) -> Floats:
    """Initial rendering values, before any fit."""
    return np.array([background.ink_level, 0.25, 0.5, 1.0, 55.0, 1.5], np.float32)


def fit_rendering(
    images: GreyImages,
    background: Background,
    scheme: Scheme,
    calibration: Calibration,
    seed: int,
    *,
    evaluations: int = 240,
    on_evaluation: Callable[[int, int], None] = lambda done, total: None,
) -> RenderingFit:
    """Fit rendering and clutter so that synthetic images have the moments of real ones.

    Args:
        images: (N, H, W) ``uint8`` real images.
        background: Their background.
        scheme: Their scheme.
        calibration: Glyphs and poses to draw; its rendering and clutter start the search. The
            middles of wide ranges start it for unknown clutter.
        seed: Random seed of the images and of the search.
        evaluations: Number of candidates; a candidate with a quarter of the images counts as a
            quarter.
        on_evaluation: Called after each generation with the number of candidates and the total.
    """
    comparison = _Comparison(images, background, scheme, calibration, seed)
    space, differences = _Space.of(scheme), comparison.differences
    known = np.where(np.isnan(calibration.clutter), middles(), calibration.clutter)
    start = np.clip(space.whole(calibration.rendering, known), *space.bounds)
    best, searched = _searched(differences, start, space, seed, evaluations, on_evaluation)
    best = _polished(differences, best, evaluations - searched, space)
    if best[_BLUR] < _FIRST_BLUR:
        best[_BLUR] = 0
    on_evaluation(evaluations, evaluations)
    residuals = differences(best)
    misfit = float(np.square(residuals).mean())
    slopes = _slopes(differences, best, residuals, space)
    errors = _standard_errors(slopes, comparison.scatter(), misfit, space)
    if best[_BLUR] == 0:
        errors[_BLUR] = _FIRST_BLUR
    (values, found), (error, clutter_error) = space.parts(best), space.parts(errors)
    return RenderingFit(values, error, found, clutter_error, misfit)


class _Comparison:
    """Compares the moments of drawn images with those of real images (N, H, W)."""

    def __init__(
        self,
        images: GreyImages,
        background: Background,
        scheme: Scheme,
        calibration: Calibration,
        seed: int,
    ) -> None:
        self._background, self._cluttered = background, bool(scheme.clutter)
        self._each = np.stack([self._moments(image[None]) for image in images])
        self._target, self._spread = self._each.mean(0), self._each.var(0)
        self._telling = self._spread > 1e-12
        # Sampling variance of the means over the real and over the synthetic images.
        self._chance = self._spread[self._telling] * (1 / len(images) + 1 / IMAGES)
        self._draw = partial(draw_rendered, scheme, background, calibration, seed=seed)

    def _moments(self, images: GreyImages) -> Doubles:
        return image_moments(images, self._background, cluttered=self._cluttered)

    def differences(self, values: Doubles, count: int = IMAGES) -> Doubles:
        """Differences (M,) of images drawn with values (V,), in deviations of sampling."""
        found = self._moments(self._draw(values=values, count=count))
        return np.asarray((found - self._target)[self._telling] / np.sqrt(self._chance))

    def scatter(self) -> Doubles:
        """Deviation (N, M) of each real image's moments from the mean, in standard deviations."""
        spread = np.sqrt(self._spread[self._telling])
        return np.asarray((self._each - self._target)[:, self._telling] / spread)


_BARE = SimulatorSettings(fonts=("roboto-black",), size=(24, 24), strokes=(0.0,))
"""Placeholder settings, which the calibration replaces."""
_ONLY_CALIBRATED = Shares(calibrated_glyphs=1.0, other_fonts=0.0, uncalibrated=0.0)


def draw_rendered(
    scheme: Scheme,
    background: Background,
    calibration: Calibration,
    values: Doubles,
    count: int,
    seed: int,
) -> GreyImages:
    """Draw images (count, H, W) with a calibrated simulator and exactly these values (V,).

    Only clutter is drawn in a range around its values. With a single grey level, moments would not
    improve as a wrong level approaches the right one, and the search would get stuck.
    """
    rendering, clutter = _Space.of(scheme).parts(values)
    found = replace(calibration, rendering=rendering, clutter=UNKNOWN_CLUTTER)
    simulator = Simulator(
        scheme, _BARE, background, found, shares=_ONLY_CALIBRATED, clutter=clutter_like(clutter)
    )
    generator = np.random.default_rng(seed)
    parameters = simulator.draw_parameters(generator, count)
    ink, blur, nearest, noise, quality, _ = rendering.tolist()
    along = generator.random((2, count))
    return simulator.render(
        replace(
            parameters,
            ink=np.full_like(parameters.ink, np.clip(ink, 0, 255)),
            blur=np.full_like(parameters.blur, blur),
            nearest=along[0] < nearest,
            noise=np.full_like(parameters.noise, noise),
            # Between two qualities, each image has one of the two.
            jpeg_quality=np.floor(quality + along[1]).astype(np.int64),
        )
    )


def _searched(
    differences: Callable[[Doubles, int], Doubles],
    start: Doubles,
    space: _Space,
    seed: int,
    evaluations: int,
    on_evaluation: Callable[[int, int], None],
) -> tuple[Doubles, int]:
    """The best values of a global search by CMA-ES, and the number of evaluations it took."""

    def loss(units: Doubles) -> float:
        return float(np.square(differences(units * space.width, IMAGES // 4)).mean())

    low, high = space.bounds / space.width
    search = cma.CMAEvolutionStrategy(
        start / space.width,
        _STEP,
        {
            "seed": seed + 1,  # 0 would mean the clock
            "bounds": [low.tolist(), high.tolist()],
            "maxfevals": 4 * (evaluations // 2),
            "verbose": -9,
        },
    )
    searched = 0
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        while not search.stop():
            candidates = search.ask()
            search.tell(candidates, list(threads.map(loss, candidates)))
            searched = int(search.result.evaluations) // 4
            on_evaluation(searched, evaluations)
    return np.clip(search.result.xbest * space.width, *space.bounds), searched


def _polished(
    differences: Callable[[Doubles], Doubles], values: Doubles, evaluations: int, space: _Space
) -> Doubles:
    """Refine values by damped least squares within bounds."""
    damping, residuals, slopes = 0.3, differences(values), None
    evaluations -= 1
    while evaluations > 0 and damping < _STUCK:
        if slopes is None:
            slopes = _slopes(differences, values, residuals, space) * space.width[:, None]
            evaluations -= len(values)
        nearer = values + _downhill(slopes, residuals, damping, values, space.bounds) * space.width
        nearer = np.clip(nearer, *space.bounds)
        found = differences(nearer)
        evaluations -= 1
        if np.square(found).sum() < np.square(residuals).sum():
            values, residuals, slopes, damping = nearer, found, None, damping / 5
        else:
            damping *= 5
    return values


def _downhill(
    slopes: Doubles, residuals: Doubles, damping: float, values: Doubles, bounds: Doubles
) -> Doubles:
    """A step (V,) in units; values at a bound do not cross it."""
    information, gradient = slopes @ slopes.T, slopes @ residuals
    # Values without influence must not move.
    scale = np.diagonal(information) + 1e-6 * information.max() + 1e-12
    curvature = information + np.diag(damping * scale)
    free = np.ones(len(values), np.bool_)
    while True:
        step = np.zeros_like(values)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], -gradient[free])
        low, high = bounds
        over = ((values <= low) & (step < 0)) | ((values >= high) & (step > 0))
        if not over.any():
            return np.clip(step, -_STRIDE, _STRIDE)
        free &= ~over


def _slopes(
    differences: Callable[[Doubles], Doubles], values: Doubles, residuals: Doubles, space: _Space
) -> Doubles:
    """Derivatives (V, M) of the differences by the values."""
    step = np.where(values + space.width / 4 <= space.bounds[1], 1, -1) * space.width / 4
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        found = list(threads.map(differences, values + np.diag(step)))
    return np.asarray((np.array(found) - residuals) / step[:, None])


def _standard_errors(slopes: Doubles, apart: Doubles, misfit: float, space: _Space) -> Doubles:
    """Standard errors (V,) of least squares with dependent moments (sandwich, White 1980).

    Args:
        slopes: (V, M) derivatives.
        apart: (N, M) deviation of each image's moments from the mean, in standard deviations.
        misfit: Factor that widens the errors if the model leaves more than chance (Birge's ratio).
        space: Space of the values.
    """
    # Values without influence, such as noise that JPEG removes, are uncertain by their whole range.
    prior = np.diag(1 / np.square(np.diff(space.bounds, axis=0)[0]))
    known = np.linalg.inv(slopes @ slopes.T + prior)
    scattered = np.cov(apart @ slopes.T, rowvar=False) * max(1.0, misfit)
    errors = np.sqrt(np.diagonal(known @ (scattered + prior) @ known))
    return np.asarray(np.hypot(errors, space.resolution))
