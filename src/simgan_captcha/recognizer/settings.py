"""Settings of the recognizer, its training and its adaptation. This module needs no torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

ATTENTION_HEADS = 4
"""Number of heads; the last width of the attention recognizer must be divisible by it."""


class RecognizerSettings(BaseModel):
    """The recognizer and its supervised training."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["attention", "original"] = "attention"
    """Architecture, see `network.RecognizerArchitecture`."""
    channels: tuple[int, int, int, int, int] = (16, 32, 48, 48, 48)
    """Output channels of the convolutions of ``attention``, 1 to 4096; the last must be divisible
    by 4."""
    images: Literal["raw", "refined"] = "raw"
    """Whether the refiner processes the synthetic images of training."""
    batch_size: int = Field(default=32, ge=2, le=65536)
    """Synthetic images per step."""
    steps: int = Field(default=1500, ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(default=3e-3, gt=0, le=1)
    """Peak learning rate of AdamW. It follows a linear warm-up, and falls to 0 along a cosine."""
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    """Decay per step of the averaged weights, which are the result; less at the beginning."""
    checkpoint_every: int = Field(default=250, ge=1)
    """Steps between checkpoints."""

    @field_validator("channels")
    @classmethod
    def _buildable(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        if not 1 <= min(channels) <= max(channels) <= 4096 or channels[-1] % ATTENTION_HEADS:
            raise ValueError(
                f"expected widths from 1 to 4096, the last divisible by {ATTENTION_HEADS}"
            )
        return channels


class AdaptationSettings(BaseModel):
    """Settings of self-training on unlabelled images."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(default=2000, ge=0)
    """Optimiser steps if 5 % of the characters are unsure. A confident recognizer takes down to a
    quarter of them; 0 turns adaptation off."""
    enough: float = Field(default=0.99, ge=0, le=2)
    """Estimated accuracy from which on the simulator's recognizer is not adapted, if drawings may
    rescore its readings. It counts only if the run begins with the simulator. Above 1, the
    recognizer always adapts."""
    max_steps_factor: float = Field(default=3.0, ge=1, le=100)
    """Factor on ``steps`` if the recognizer is unsure; values between are interpolated."""
    batch_size: int = Field(default=32, ge=2, le=65536)
    """Real images per step."""
    synthetic_batch_size: int = Field(default=16, ge=2, le=65536)
    """Synthetic images per step."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Peak learning rate of AdamW; the schedule is that of training."""
    confidence: float = Field(default=0.9, gt=0, le=1)
    """Least probability of the teacher for a character to become a pseudo-label."""
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    """Decay of the teacher's weights per step."""
    checkpoint_every: int = Field(default=250, ge=1)
    """Steps between checkpoints."""
