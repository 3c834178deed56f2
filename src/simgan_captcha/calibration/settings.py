"""Settings of calibration. This module needs no torch."""

from pydantic import BaseModel, ConfigDict, Field


class CalibrationSettings(BaseModel):
    """Training of the bootstrap recognizer, with the batch size and learning rate of ``reader``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rounds: int = Field(default=3, ge=1, le=20)
    """Largest number of rounds of training on synthetic images and prediction on real images. From
    the second round on, the simulator is calibrated by the previous round. From the second
    round on, a round in which nearly all characters are read with confidence is the last one."""
    first_steps: int = Field(default=500, ge=1)
    """Optimiser steps of the first round."""
    steps: int = Field(default=400, ge=1)
    """Optimiser steps of each later round."""
    images: int = Field(default=1200, ge=1)
    """Number of real images to calibrate from."""
    epochs: int = Field(default=14, ge=2)
    """Passes over these images to fit glyphs and poses."""
    rendering_images: int = Field(default=500, ge=1)
    """Number of real images to fit the rendering to."""
    rendering_evaluations: int = Field(default=100, ge=20)
    """Number of candidates that this fit draws; a repeated fit draws half as many."""

    @property
    def steps_of_rounds(self) -> tuple[int, ...]:
        """Optimiser steps of each round."""
        return (self.first_steps, *[self.steps] * (self.rounds - 1))
