"""Settings of learning from the generalist. This module needs no torch."""

from pydantic import BaseModel, ConfigDict, Field


class SpecializationSettings(BaseModel):
    """Self-training of the generalist on the unlabelled images of one family."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    images: int = Field(default=2000, ge=2)
    """Most images that it trains on and labels."""
    steps: int = Field(default=200, ge=0)
    """Optimiser steps."""
    batch_size: int = Field(default=48, ge=2, le=65536)
    """Images per step."""


class DistillationSettings(BaseModel):
    """Training of the recognizer on the texts that the specialized generalist reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rounds: int = Field(default=4, ge=1, le=10)
    """Most trainings from the first weights. Between two of them the generalist learns the readings
    of the recognizer. They end earlier if a recognizer reads 98 % of the images as its teacher. The
    last recognizer may then learn on, in up to four more trainings."""
    fewest_steps: int = Field(default=200, ge=1)
    """Optimiser steps of a round for a small alphabet."""
    steps_a_class: int = Field(default=15, ge=0)
    """Optimiser steps of a round for each class, if that is more. Too many steps learn mistakes by
    heart; too few do not tell rare classes apart."""
    batch_size: int = Field(default=64, ge=2, le=65536)
    """Images per step."""
    enough: float = Field(default=0.8, ge=0, le=1)
    """Estimated share of right texts from which on a run does without its second route: the
    simulator, or the generalist if the run begins with the simulator."""

    def steps_of(self, classes: int) -> int:
        """Optimiser steps of a round."""
        return max(self.fewest_steps, self.steps_a_class * classes)
