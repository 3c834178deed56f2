"""The stage in which the generalist reads some images before anything is trained.

Its readings are the first answer that a user sees. Their mean confidence decides with which route a
run begins, see `routes.routes`.
"""

from pathlib import Path

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.generalist.network import count_forward_flops
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import PSEUDO_LABELS
from simgan_captcha.pipeline.stages.specialization import (
    PreparedImages,
    input_columns,
    read_prepared,
    texts_of,
)
from simgan_captcha.types import OnStep

_IMAGES = 600
"""Largest number of images that are read."""
_SHOWN = 10
"""Number of images whose texts are shown."""


def look(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Read some images with the generalist, and show the first few texts."""
    prepared = PreparedImages.of(data, (), _IMAGES)
    decoded = read_prepared(data, prepared.network, prepared.images)
    texts = (f"{one.text or 'nothing'} ({one.confidence:.0%})" for one in decoded[:_SHOWN])
    data.say(f"first      the generalist reads {', '.join(texts)}; learning improves on this")
    found = texts_of(prepared.names, decoded)
    found.save(folder)
    return StageOutcome(
        (PSEUDO_LABELS,),
        {"confidence": round(sum(found.confidences) / len(found.confidences), 4)},
        images=len(found.names),
        training_flops=_flops(prepared.images.shape[-1], len(found.names)),
    )


def look_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the first look, with the maximum number of images."""
    return _flops(input_columns(config.scheme), _IMAGES)


def _flops(columns: int, images: int) -> int:
    return round(count_forward_flops(columns) * images)
