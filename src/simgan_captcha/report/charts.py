"""Small SVG charts for the report, as ``data:`` URIs that follow the browser's light or dark theme.

Every chart is a new Matplotlib `Figure` (no pyplot, no global figures). Its colours are CSS
variables, so one picture serves both themes. Its labels stay text, so it is small and sharp.
"""

import base64
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

Curve = Sequence[tuple[float, float]]
"""(step, value), ascending in step."""

MAX_POINTS = 300
"""Longer curves are drawn as means of consecutive points."""

# Placeholder colour that nothing else draws with, its CSS variable, light value, dark value.
_COLOURS = (
    ("#010101", "ink", "#3d4754", "#c3cad3"),
    ("#020202", "grid", "#e3e7ec", "#333a44"),
    ("#030303", "a", "#2f6fb3", "#6ea8e6"),
    ("#040404", "b", "#d0762b", "#eba05c"),
    ("#050505", "c", "#3f8f68", "#6fc299"),
    ("#060606", "d", "#8a63b8", "#b595dd"),
    ("#070707", "e", "#b5485d", "#e58296"),
    ("#080808", "f", "#6b7684", "#9aa5b3"),
)
_INK, _GRID, *_SERIES = (placeholder for placeholder, *_ in _COLOURS)
_ACCENT_RGB = (0x2F / 255, 0x6F / 255, 0xB3 / 255)
_WIDTH, _HEIGHT = 5.2, 2.9
"""Inches of 72 points: readable on a phone, and in two columns on a desktop."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
# Any: Matplotlib 3.10 types its keys as str, 3.11 as literals.
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.linewidth": 1.0,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.size": 10.0,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "simgan-captcha",
    "text.color": _INK,
    # A "$" in an alphabet or a metric's name is a character, not mathematics.
    "text.parse_math": False,
    "xtick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.color": _GRID,
    "ytick.labelcolor": _INK,
}


def curves(series: Mapping[str, Curve], *, share: bool = False) -> str:
    """Values over steps, one line for each name.

    The axis is logarithmic if all values are positive and span more than a factor of 30.

    Args:
        series: At least one curve, each of at least one point, finite.
        share: Whether values are shares in [0, 1]. The axis then shows 0 to 100 %.
    """

    def draw(axes: Axes) -> None:
        low, high = np.inf, 0.0
        for number, (name, curve) in enumerate(series.items()):
            steps, values = _thinned(curve)
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            axes.plot(
                steps,
                values,
                color=_SERIES[number % len(_SERIES)],
                linestyle="-" if number < len(_SERIES) else "--",
                marker="o" if len(steps) == 1 else "",
                label=name.replace("_", " ").strip(),
            )
        if share:
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        elif low > 0 and high > 30 * low:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
            axes.yaxis.set_major_formatter(FuncFormatter(_plain))
            axes.minorticks_off()
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _legend_above(axes, len(series))

    return _svg(draw)


def confidence_histogram(confidences: Sequence[float]) -> str:
    """Histogram of confidences in [0, 1]; the number of images is on a logarithmic axis."""

    def draw(axes: Axes) -> None:
        counts, edges = np.histogram(confidences, bins=20, range=(0.0, 1.0))
        axes.bar(edges[:-1], counts, width=0.046, align="edge", color=_SERIES[0], zorder=2)
        axes.set_yscale("log")
        axes.set_ylim(0.7, max(10.0, 1.6 * float(counts.max())))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(FuncFormatter(_count))
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.grid(False, axis="x")
        axes.set_xlabel("confidence in the whole text")
        axes.set_ylabel("images")

    return _svg(draw)


def character_shares(shares: Mapping[str, float], prior: float) -> str:
    """Share of each character among all characters read, in [0, 1], and the uniform prior."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(shares))
        axes.bar(places, list(shares.values()), width=0.72, color=_SERIES[0], zorder=2)
        axes.axhline(prior, color=_SERIES[1], linewidth=1.4, label="uniform prior", zorder=3)
        axes.set_xticks(places, list(shares), fontsize=8 if len(shares) <= 40 else 6)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.7, len(shares) - 0.3)
        axes.set_ylim(0, 1.15 * max(prior, *shares.values()))
        axes.yaxis.set_major_formatter(FuncFormatter(_fine_percent))
        axes.grid(False, axis="x")
        axes.set_ylabel("share of characters read")
        _legend_above(axes, 1)

    return _svg(draw, width=2 * _WIDTH)


def reliability(bins: Sequence[tuple[float, float, int]]) -> str:
    """Reliability diagram: accuracy against confidence.

    Args:
        bins: (mean confidence, accuracy, number of images), shares in [0, 1]. The area of a dot
            grows with the number of images.
    """

    def draw(axes: Axes) -> None:
        confidence, accuracy, images = (
            np.asarray(column, float) for column in zip(*bins, strict=True)
        )
        axes.plot([0, 1], [0, 1], color=_SERIES[5], linestyle=":", label="perfect calibration")
        area = 8 + 90 * images / images.max()
        axes.scatter(
            confidence, accuracy, area, color=_SERIES[0], label="measured", zorder=4, clip_on=False
        )
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set_xlabel("mean confidence")
        axes.set_ylabel("accuracy")
        _legend_above(axes, 2)

    return _svg(draw)


def confusion_matrix(characters: Sequence[str], shares: Sequence[Sequence[float]]) -> str:
    """How often each true character (row) was read as each other one (column).

    Args:
        characters: K labels.
        shares: K rows of K shares in [0, 1], relative to the row; the diagonal is left blank.
    """

    def draw(axes: Axes) -> None:
        amount = np.asarray(shares, float)
        np.fill_diagonal(amount, 0.0)
        top = max(float(amount.max()), 1e-9)
        cells = np.empty((*amount.shape, 4))
        cells[..., :3] = _ACCENT_RGB
        # The square root keeps rare confusions visible next to the most common ones.
        cells[..., 3] = np.sqrt(amount / top)
        axes.imshow(cells, interpolation="nearest", zorder=2)
        places = np.arange(len(characters))
        axes.plot(places, places, color=_GRID, linewidth=5, zorder=1, solid_capstyle="round")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(places, list(characters), fontsize=8)
            axis.set_tick_params(length=0)
        axes.grid(color=_GRID, linewidth=0.4)
        axes.set_xlabel(f"read as (darkest: {top:.1%} of a true character)")
        axes.set_ylabel("true character")

    return _svg(draw, height=_WIDTH)


def _svg(draw: Callable[[Axes], None], width: float = _WIDTH, height: float = _HEIGHT) -> str:
    with _style():
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    for placeholder, name, *_ in _COLOURS:
        svg = svg.replace(placeholder, f"var(--{name})")
    start = svg.index("<svg")
    end = svg.index(">", start) + 1
    svg = svg[start:end] + _theme() + svg[end:]
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Matplotlib's font only measures the text; the browser draws it with a font of its own.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _theme() -> str:
    light = "".join(f"--{name}:{colour};" for _, name, colour, _ in _COLOURS)
    dark = "".join(f"--{name}:{colour};" for _, name, _, colour in _COLOURS)
    return (
        f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"text{{font-family:{_FONT} !important}}</style>"
    )


def _legend_above(axes: Axes, entries: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(entries, 2),
        borderaxespad=0.2,
        handlelength=1.4,
    )


def _thinned(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(curve, float)
    chunks = np.array_split(points, min(len(points), MAX_POINTS))
    means = np.array([chunk.mean(axis=0) for chunk in chunks])
    return means[:, 0], means[:, 1]


def _plain(value: float, _position: int) -> str:
    return f"{value:g}"


def _percent(value: float, _position: int) -> str:
    return f"{value:.0%}"


def _fine_percent(value: float, _position: int) -> str:
    return f"{100 * value:.3g}%"


def _count(value: float, _position: int) -> str:
    return f"{value:,.0f}"
