"""Settings of calibration and of rescoring. This module needs no torch."""

from pydantic import BaseModel, ConfigDict, Field


class CalibrationSettings(BaseModel):
    """The scout's training; batch size and step size are the reader's."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rounds: int = Field(default=3, ge=1, le=20)
    """Times that the scout learns from the simulator and looks at the real images; from the second
    on the simulator is already calibrated by the round before."""
    first_steps: int = Field(default=700, ge=1)
    """Optimiser steps of the first round, which begins from nothing."""
    steps: int = Field(default=400, ge=1)
    """Optimiser steps of every other round."""
    free: float = Field(default=0.3, ge=0, le=1)
    """``simulator.free`` of the scout's images: calibrations that it has yet to better are less to
    be trusted than the last one, which readers learn from."""
    images: int = Field(default=3000, ge=1)
    """Real images that are looked at."""
    epochs: int = Field(default=14, ge=2)
    """Passes over them that fit glyphs and poses."""
    rendering_images: int = Field(default=1000, ge=1)
    """Real images whose statistics the rendering is fitted to."""
    rendering_evaluations: int = Field(default=160, ge=20)
    """Candidates that are drawn for it."""

    def steps_of(self, number: int) -> int:
        """Optimiser steps of a round, from 1."""
        return self.first_steps if number == 1 else self.steps


class VerificationSettings(BaseModel):
    """Settings of rescoring."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    doubt: float = Field(default=0.02, gt=0, le=1)
    """Characters are rescored if their second class has more than this probability; 1 turns
    rescoring off."""
    steps: int = Field(default=30, ge=1, le=1000)
    """Optimiser steps that fit the poses of a drawing."""
