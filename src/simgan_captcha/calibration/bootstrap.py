"""The bootstrap recognizer: it predicts the class and the pose of each character.

Calibration starts from these predictions.

Shapes: B images, L characters, K classes. A pose is x, y and rotation, each about -1 to 1.
"""

import numpy as np
import torch
from torch import Tensor, nn

from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.recognizer.counting import counting_loss
from simgan_captcha.recognizer.decode import TOGETHER
from simgan_captcha.recognizer.network import (
    MAP_STRIDE,
    PosedOutput,
    RecognizerArchitecture,
    build_recognizer,
    map_size,
)
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.simulator import DrawParameters, Simulator
from simgan_captcha.types import FloatImages, Floats, GreyImages

_DEGREES = 45.0

MIDDLES_WEIGHT = 1.5
"""Weight of `middles_loss`; the cross-entropy of the characters has weight 1."""


class PosedSimulator:
    """A simulator with poses in its targets (B, L, 1 + 3 + 1), see `pose_targets`."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def batch(self, generator: np.random.Generator, count: int) -> tuple[GreyImages, Floats]:
        """Draw images (count, H, W) ``uint8`` and targets (count, L, 5) float32."""
        parameters = self.simulator.draw_parameters(generator, count)
        return self.simulator.render(parameters), pose_targets(parameters, self.simulator.scheme)


def pose_targets(parameters: DrawParameters, scheme: Scheme) -> Floats:
    """Targets (N, L, 5) float32: class id, the drawn pose, and the position on the feature map.

    The unit of both coordinates is the slot pitch. In image heights, y differed so little between
    letters that some bootstrap recognizers learned only its mean.

    The position is the index of the map cell at the centre of the character, row by row. It is -1
    outside the image. Empty slots have a pose of NaN and the position -1.
    """
    pitch = scheme.width / scheme.max_length
    slots = (np.arange(scheme.max_length) + 0.5) * pitch
    rows, columns = map_size(scheme.height, scheme.width)
    row = np.floor(parameters.y / MAP_STRIDE)
    column = np.floor(parameters.x / MAP_STRIDE)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    targets = np.stack(
        [
            parameters.ids,
            (parameters.x - slots) / pitch,
            (parameters.y - scheme.height / 2) / pitch,
            parameters.rotation / _DEGREES,
            np.where(inside, row * columns + column, -1),
        ],
        axis=-1,
    ).astype(np.float32)
    targets[parameters.ids == scheme.blank, 1:] = (np.nan, np.nan, np.nan, -1)
    return targets


def posed_objective(outputs: PosedOutput, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of characters and of centres, and absolute errors of poses and counts.

    Each position of the map must predict the class that is centred there. This teaches the
    convolutions the shapes of letters early, and slots use these predictions. With only the
    attention of the slots, the shapes are learned later. Dense heads in detection work in the same
    way (FCOS, arXiv:1904.01355).

    Args:
        outputs: Output of an `AttentionRecognizer` with ``pose``.
        targets: (B, L, 5), see `pose_targets`.
    """
    ids, logits = targets[..., 0].long(), outputs.logits.float()
    cross_entropy = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    posed = targets[..., 1:4].isfinite()
    error = (outputs.pose.float() - targets[..., 1:4]).where(posed, 0).abs().mean((0, 1))
    # The mean over characters with a pose; a batch may have none.
    error = error / posed[..., 0].float().mean().clamp(min=1e-6)
    figures = {
        "loss": cross_entropy,
        "accuracy": (logits.argmax(-1) == ids).float().mean(),
        "turn_error_degrees": error[2] * _DEGREES,
    }
    # Poses are easier and must not slow the characters down. Characters depend on the centres.
    middles = middles_loss(outputs.middles, targets)
    counts = counting_loss(outputs.counts, targets[..., 4].long())
    return cross_entropy + 0.5 * error.sum() + MIDDLES_WEIGHT * middles + counts, figures


def middles_loss(middles: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the class that is centred at each position of the map.

    Args:
        middles: (B, positions, K + 1) logits; the last class means that no character is centred.
        targets: (B, L, 5), see `pose_targets`.
    """
    ids, place = targets[..., 0].long(), targets[..., 4].long()
    B, positions, classes = middles.shape
    none = classes - 1
    # An additional position collects centres outside the image.
    centred = torch.full((B, positions + 1), none, device=ids.device)
    centred.scatter_(1, place.where(place >= 0, torch.full_like(place, positions)), ids)
    weight = torch.ones(classes, device=ids.device)
    weight[none] = ids.shape[1] / positions  # the same total as the characters
    return nn.functional.cross_entropy(
        middles.float().flatten(0, 1), centred[:, :positions].flatten(), weight=weight
    )


def without_pose(reader: nn.Module, architecture: RecognizerArchitecture) -> nn.Module:
    """The recognizer reduced to the parts of this architecture, in evaluation mode."""
    plain = build_recognizer(architecture)
    weights = reader.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain.eval()


@torch.inference_mode()
def predict_poses(bootstrap: nn.Module, normalised: FloatImages, scheme: Scheme) -> Poses:
    """Predict classes and poses of normalised images (N, 2, H, W)."""
    bootstrap.eval()
    images = torch.from_numpy(normalised).contiguous(memory_format=torch.channels_last)
    outputs = [bootstrap(batch) for batch in images.split(TOGETHER)]
    probabilities = torch.cat([o.logits for o in outputs]).float().softmax(-1).numpy()
    pose = torch.cat([o.pose for o in outputs]).float().numpy()
    pitch = scheme.width / scheme.max_length
    slots = ((np.arange(scheme.max_length) + 0.5) * pitch).astype(np.float32)
    return Poses(
        probabilities,
        x=pose[..., 0] * np.float32(pitch) + slots,
        y=pose[..., 1] * np.float32(pitch) + np.float32(scheme.height / 2),
        rotation=pose[..., 2] * np.float32(_DEGREES),
        blank=scheme.blank,
        min_length=scheme.min_length,
    )
