"""Settings of the 2017 system, and the preset ``original``."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class OriginalSimulatorSettings(BaseModel):
    """Settings of the generator of 2017."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    font: str = "dejavu-sans-bold"
    """Name of a font (see `glyphs.DEFAULT_FONTS`) or a font file."""
    font_size: int = Field(default=26, ge=4, le=200)
    """Font size in pixels per em."""
    rotation: float = Field(default=20.0, ge=0, le=180)
    """Largest rotation in degrees, in either direction."""
    apart: bool = True
    """Whether texts with touching letters are drawn again, as in the original."""


ORIGINAL: dict[str, Any] = {
    "calibrate": False,
    "encoding": "binary",
    "lines": "average",
    "generator": "original",
    "simgan": {
        "refiner": {"global_skip": False},
        "batch_size": 512,
        "steps": 1000,
        "pretrain_refiner_steps": 100,
        "pretrain_discriminator_steps": 100,
        "refiner_updates": 4,
        "history_capacity": 51200,
    },
    "recognizer": {"kind": "original", "images": "refined", "batch_size": 128, "steps": 20000},
    "adaptation": {"steps": 0},
}
"""The system of 2017 without its bugs: its generator, encoding and networks."""
