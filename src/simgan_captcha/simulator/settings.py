"""Settings of the simulator: fonts and ranges. This module needs no NumPy."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simgan_captcha.scheme import Scheme

Range = tuple[float, float]
"""Lowest and highest value of a random quantity."""

BOLD_FONTS = {
    "dejavu-sans-bold": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans-Bold.ttf"),
    "dejavu-serif-bold": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSerif-Bold.ttf"),
    "dejavu-sans-mono-bold": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSansMono-Bold.ttf"),
    "stix-bold": ("matplotlib", "mpl-data/fonts/ttf/STIXGeneralBol.ttf"),
    "source-sans-black": ("font_source_sans_pro", "files/SourceSansPro-Black.ttf"),
    "source-serif-black": ("font_source_serif_pro", "files/SourceSerifPro-Black.ttf"),
    "manrope-extrabold": ("font_manrope", "files/Manrope-ExtraBold.ttf"),
    "hanken-grotesk-bold": ("font_hanken_grotesk", "files/HankenGrotesk-Bold.otf"),
    "fredoka-one": ("font_fredoka_one", "files/FredokaOne-Regular.ttf"),
    "roboto-black": ("font_roboto", "files/Roboto-Black.ttf"),
    "caladea-bold": ("font_caladea", "files/Caladea-Bold.ttf"),
}
"""Bold fonts as (package, file)."""

LIGHTER_FONTS = {
    "dejavu-sans": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf"),
    "dejavu-serif": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSerif.ttf"),
    "dejavu-sans-mono": ("matplotlib", "mpl-data/fonts/ttf/DejaVuSansMono.ttf"),
    "stix": ("matplotlib", "mpl-data/fonts/ttf/STIXGeneral.ttf"),
    "source-sans": ("font_source_sans_pro", "files/SourceSansPro-Regular.ttf"),
    "source-serif": ("font_source_serif_pro", "files/SourceSerifPro-Regular.ttf"),
    "manrope": ("font_manrope", "files/Manrope-Medium.ttf"),
    "hanken-grotesk": ("font_hanken_grotesk", "files/HankenGrotesk-Regular.otf"),
    "roboto": ("font_roboto", "files/Roboto-Regular.ttf"),
    "caladea": ("font_caladea", "files/Caladea-Regular.ttf"),
}
"""Fonts of regular weight as (package, file)."""

DEFAULT_FONTS = tuple(BOLD_FONTS)
"""The bold fonts, because the font of the puzzle is bold."""


class LayoutSettings(BaseModel):
    """Ranges of layouts, drawn uniformly."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    extent: Range = (0.6, 0.95)
    """Width of a text of mean length, as a fraction of the image width; one value per image."""
    one_font: float = Field(default=0.7, ge=0, le=1)
    """Share of images with one font for all letters."""
    even: float = Field(default=0.4, ge=0, le=1)
    """Share of images with equal distances between letters. In the others, distances follow the
    widths of the letters."""
    jitter: Range = (0.0, 0.25)
    """Greatest horizontal deviation of letters, in distances between letters; one value per
    image."""
    baseline: Range = (-0.12, 0.12)
    """Vertical offset of the text from the middle, as a fraction of the image height."""
    slant: Range = (-0.25, 0.25)
    """Shear of all letters of an image: horizontal shift per vertical pixel."""
    stretch: Range = (0.6, 1.2)
    """Horizontal scale of all letters of an image."""
    drift: Range = (0.0, 0.2)
    """Greatest distance of letters from the baseline, as a fraction of the height; one value per
    image."""
    turn: Range = (0.0, 35.0)
    """Greatest rotation of letters in degrees; one value per image."""
    skew: Range = (0.0, 0.3)
    """Greatest deviation of the shear of letters from ``slant``; one value per image."""
    resize: Range = (0.0, 0.3)
    """Greatest relative deviation of the size, and again of the width; one value per image."""
    fade: Range = (0.0, 30.0)
    """Greatest deviation of the ink in grey levels; one value per image."""
    warp: Range = (0.0, 0.6)
    """Greatest `taper` and `swell` of letters, see `Letters`; one value per image."""
    wave: Range = (0.0, 0.3)
    """Greatest slope of the baseline, for schemes with waves; one value per image."""
    wavelength: Range = (0.7, 2.5)
    """Wavelength in image heights; one value per image."""

    @model_validator(mode="after")
    def _in_bounds(self) -> "LayoutSettings":
        for name, (lowest, highest) in _LAYOUT_BOUNDS.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(
                    f"{name}: expected {lowest} <= low <= high <= {highest}, got {low}, {high}"
                )
        return self


_LAYOUT_BOUNDS: dict[str, tuple[float, float]] = {
    "extent": (0.05, 2),
    "jitter": (0, 2),
    "baseline": (-1, 1),
    "slant": (-2, 2),
    "stretch": (0.1, 10),
    "drift": (0, 1),
    "turn": (0, 360),
    "skew": (0, 2),
    "resize": (0, 0.9),
    "fade": (0, 255),
    "warp": (0, 1),  # larger values fold letters over
    "wave": (0, 2),
    "wavelength": (0.1, 100),
}


class SimulatorSettings(BaseModel):
    """Ranges of the parameters, drawn uniformly for each character or image."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    fonts: tuple[str, ...] = Field(default=DEFAULT_FONTS, min_length=1)
    """Names (see `glyphs.WIDE_FONTS`) or font files. Each character draws a font; with a
    ``layout``, most images draw one for all characters."""
    size: tuple[int, int] = (21, 28)
    """Font size in pixels per em, both ends included. At most eight sizes are used, or four with a
    ``layout``."""
    strokes: tuple[float, ...] = Field(default=(0.0, 0.4), min_length=1)
    """Extra outline in pixels, per character, or per image with a ``layout``. Negative values draw
    hollow letters, see `glyphs.GlyphBank`."""
    rotation: Range = (-32.0, 32.0)
    """Rotation in degrees, counter-clockwise."""
    shear: Range = (-0.05, 0.05)
    """Horizontal shift per vertical pixel."""
    stretch: Range = (0.92, 1.12)
    """Horizontal scale."""
    horizontal: Range = (-0.35, 0.45)
    """Horizontal offset from the middle of the slot, in slots (width / length)."""
    vertical: Range = (0.24, 0.76)
    """Vertical position of the middle of a letter, as a fraction of the image height."""
    ink: Range = (-6.0, 4.0)
    """Deviation from the estimated ink level, in grey levels."""
    nearest: float = Field(default=0.6, ge=0, le=1)
    """Share of images with letters rotated without interpolation, as many generators do."""
    blur: Range = (0.0, 0.5)
    """Sigma in pixels of the Gaussian blur of letters before compositing; below 0.3 there is no
    blur."""
    noise: Range = (0.0, 2.0)
    """Gaussian noise, standard deviation in grey levels."""
    jpeg_quality: tuple[int, int] = (45, 60)
    """JPEG quality, both ends included."""
    layout: LayoutSettings | None = None
    """Text layout for families without known positions. It replaces ``rotation``, ``shear``,
    ``stretch``, ``horizontal`` and ``vertical``, and ``ink`` is drawn per image. Texts of several
    lengths always have one. None draws slot by slot from these ranges."""

    @model_validator(mode="after")
    def _in_bounds(self) -> "SimulatorSettings":
        for name, (lowest, highest) in _BOUNDS.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(
                    f"{name}: expected {lowest} <= low <= high <= {highest}, got {low}, {high}"
                )
        if not all(-10 <= stroke <= 10 for stroke in self.strokes):
            raise ValueError(f"strokes: expected -10 to 10 pixels each, got {self.strokes}")
        return self


_BOUNDS: dict[str, tuple[float, float]] = {
    "size": (4, 200),
    "rotation": (-360, 360),
    "shear": (-2, 2),
    "stretch": (0.1, 10),
    "horizontal": (-10, 10),
    "vertical": (-10, 10),
    "ink": (-255, 255),
    "blur": (0, 1),  # the filter is 3x3
    "noise": (0, 255),
    "jpeg_quality": (1, 100),
}


def layout_of(scheme: Scheme, settings: SimulatorSettings) -> LayoutSettings | None:
    """The layout of a scheme, or None for letters drawn slot by slot.

    Slots need a fixed length, so texts of several lengths always have a layout.
    """
    return settings.layout or (None if scheme.blank is None else LayoutSettings())
