"""A reader that also tells where each character lies and how it is turned: what calibration needs.

Shapes: B batch, L characters, K classes; a pose is x, y, rotation, each about -1 to 1.
"""

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from simgan_captcha.background import FloatImages
from simgan_captcha.calibrate import Floats, Poses
from simgan_captcha.images import GreyImages
from simgan_captcha.reader.reading import BATCH
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator import DrawParameters, Simulator


class CalibrationSettings(BaseModel):
    """The scout's training; batch size and step size are the reader's."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rounds: int = Field(default=2, ge=1, le=10)
    """Times that the scout learns from the simulator and looks at the real images; from the second
    on the simulator is already calibrated by the round before."""
    steps: int = Field(default=600, ge=1)
    """Optimiser steps of each round."""


POSE = 3
"""Numbers of a pose."""

_DEGREES = 45.0


class PosedSimulator:
    """Draws as a simulator does, but its targets are (B, L, 1 + 3): class id and pose."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def batch(self, generator: np.random.Generator, count: int) -> tuple[GreyImages, Floats]:
        """Images (count, H, W) ``uint8`` and targets (count, L, 4) float32."""
        parameters = self.simulator.draw_parameters(generator, count)
        return self.simulator.render(parameters), pose_targets(parameters, self.simulator.scheme)


def pose_targets(parameters: DrawParameters, scheme: Scheme) -> Floats:
    """(N, L, 4) float32: class id, then the pose that was drawn."""
    pitch = scheme.width / scheme.length
    slots = (np.arange(scheme.length) + 0.5) * pitch
    return np.stack(
        [
            parameters.ids,
            (parameters.x - slots) / pitch,
            parameters.y / scheme.height - 0.5,
            parameters.rotation / _DEGREES,
        ],
        axis=-1,
    ).astype(np.float32)


def scout_objective(outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of characters plus the mean absolute error of their poses.

    Args:
        outputs: (B, L, K + 3) of an `AttentionReader` with ``pose``.
        targets: (B, L, 1 + 3), see `pose_targets`.
    """
    logits, pose = outputs[..., :-POSE].float(), outputs[..., -POSE:].float()
    ids = targets[..., 0].long()
    cross_entropy = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    error = (pose - targets[..., 1:]).abs().mean((0, 1))
    figures = {
        "loss": cross_entropy,
        "accuracy": (logits.argmax(-1) == ids).float().mean(),
        "turn_error_degrees": error[2] * _DEGREES,
    }
    # Weighted so that poses, which are easier, do not hold up the characters.
    return cross_entropy + 0.5 * error.sum(), figures


@torch.inference_mode()
def scout_images(scout: nn.Module, normalised: FloatImages, scheme: Scheme) -> Poses:
    """Classes and poses of normalised images (N, 2, H, W)."""
    scout.eval()
    batches = torch.split(torch.from_numpy(normalised), BATCH)
    outputs = torch.cat([scout(images).float() for images in batches])
    probabilities = outputs[..., :-POSE].softmax(-1).numpy()
    pose = outputs[..., -POSE:].numpy()
    pitch = scheme.width / scheme.length
    slots = ((np.arange(scheme.length) + 0.5) * pitch).astype(np.float32)
    return Poses(
        probabilities,
        x=pose[..., 0] * np.float32(pitch) + slots,
        y=(pose[..., 1] + np.float32(0.5)) * np.float32(scheme.height),
        rotation=pose[..., 2] * np.float32(_DEGREES),
    )
