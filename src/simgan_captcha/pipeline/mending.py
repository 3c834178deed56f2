"""What a run does with files of its own that were damaged since it wrote them."""

from collections.abc import Callable
from pathlib import Path

from simgan_captcha.recognizer.train import CHECKPOINT
from simgan_captcha.training.checkpoint import set_aside_if_damaged


def set_aside_damaged(stage: Path, warn: Callable[[str], None]) -> None:
    """Set damaged checkpoints of a stage aside, so that their trainings begin anew.

    Args:
        stage: Its folder.
        warn: Called with a sentence for each.
    """
    for path in sorted(stage.rglob(CHECKPOINT)):
        if set_aside_if_damaged(path):
            warn(
                f"{path} was damaged and is set aside as {path.name}.damaged: this training begins "
                "again from its start, to the same result; if it happens again, check the disk"
            )
