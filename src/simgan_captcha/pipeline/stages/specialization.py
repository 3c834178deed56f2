"""The stage in which the generalist specializes on the run's images, and reads them.

It learns its own texts. If the simulator came first and its recognizer reads better, the generalist
learns the readings of that recognizer instead.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.background import without_background
from simgan_captcha.data.pictures import open_picture
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.generalist.decoding import Alphabet, Decoded, PossibleTexts
from simgan_captcha.generalist.features import HEIGHT
from simgan_captcha.generalist.network import Generalist, load_generalist
from simgan_captcha.generalist.shipped import shipped
from simgan_captcha.generalist.specialization.specialize import (
    GivenTexts,
    count_specialization_flops,
    decode_all,
    prepare,
    read_columns,
    specialize,
)
from simgan_captcha.pipeline.estimate import calibration_failure, first_is_better
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.routes import routes
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import PSEUDO_LABELS, STORE, TeacherTexts
from simgan_captcha.recognizer.decode import decode, read_probabilities
from simgan_captcha.scheme import Scheme
from simgan_captcha.training.parallel import fabric_precision
from simgan_captcha.types import Floats, OnStep

_SIMULATED = "read"
"""Stage of the recognizer that learned from the simulator, before any adaptation."""


def specialize_generalist(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Self-train the generalist on some of the run's images, and read them with it."""
    settings = data.config.specialization
    prepared = PreparedImages.of(data, {}, settings.images)
    readings = _simulated_readings(data, prepared.names)
    if readings is not None:
        data.say("specialize the generalist learns what the simulator's reader reads")
    _specialized_texts(data, prepared, {}, readings, advance).save(folder)
    count = len(prepared.names)
    return StageOutcome(
        (PSEUDO_LABELS,),
        {"learned_from": "generalist" if readings is None else _SIMULATED},
        images=count + settings.steps * settings.batch_size,
        training_flops=count_specialization_flops(
            settings, prepared.images.shape[-1], count, relabels=readings is None
        ),
    )


def specialized_texts(data: RunData, known: Mapping[str, str], advance: OnStep) -> TeacherTexts:
    """Specialize the generalist and read with it.

    Args:
        data: Data of the run.
        known: True texts by image name. These images are added to those that the generalist learns
            from. Only `simgan_captcha.teaching` gives any.
        advance: Called after each step.
    """
    prepared = PreparedImages.of(data, known, data.config.specialization.images)
    readings = _simulated_readings(data, prepared.names)
    return _specialized_texts(data, prepared, known, readings, advance)


def simulator_came_first(data: RunData) -> bool:
    """Whether a run has a recognizer that learned from the simulator before the generalist."""
    first = routes(data.config, data.run)[0]
    return (
        data.config.begins_pretrained and first == "simulator" and not calibration_failure(data.run)
    )


def _simulated_readings(data: RunData, names: Sequence[str]) -> list[tuple[str, float]] | None:
    """Text and confidence of images by the recognizer that learned from the simulator.

    Returns:
        None if the run has no such recognizer yet, or if the generalist's first readings are
        better, see `first_is_better`.
    """
    if not simulator_came_first(data):
        return None
    first = TeacherTexts.of_stage(data.run / "look")
    seen = [*dict.fromkeys((*names, *first.names))]
    probabilities = read_probabilities(
        data.recognizer(_SIMULATED), data.background(), data.images_named(seen)
    )
    read = {
        one.name: (one.text, one.confidence)
        for one in decode(data.config.scheme, seen, probabilities)
    }
    of_first = list(zip(first.texts, first.confidences, strict=True))
    better = first_is_better([read[name] for name in first.names], of_first)
    return [read[name] for name in names] if better else None


class PreparedImages(NamedTuple):
    """The generalist, and the images that it specializes on."""

    network: Generalist
    names: list[str]
    images: Floats
    """(N, 4, 40, W)."""

    @staticmethod
    def of(data: RunData, names: Collection[str], most: int) -> "PreparedImages":
        """Select the first ``most`` images in content order, and add those of some names.

        The content order is that of hashes, so the first images are a random sample.
        """
        ordered = CaptchaStore(data.run / STORE).in_content_order()
        chosen = {*ordered.names[:most], *names}
        pairs = zip(ordered.names, ordered.images, strict=True)
        encoded = {name: image for name, image in pairs if name in chosen}
        pictures = [open_picture(image).rgb for image in encoded.values()]
        if data.config.scheme.shares_picture:
            pictures = without_background(pictures, data.background())
        images = prepare(pictures)
        network, _ = load_generalist(shipped("generalist.safetensors"))
        return PreparedImages(network, list(encoded), images)

    def in_order_of(self, names: Sequence[str]) -> "PreparedImages":
        """The images of these names, in this order."""
        row_of = {name: row for row, name in enumerate(self.names)}
        return self._replace(names=list(names), images=self.images[[row_of[n] for n in names]])


def _specialized_texts(
    data: RunData,
    prepared: PreparedImages,
    known: Mapping[str, str],
    readings: list[tuple[str, float]] | None,
    advance: OnStep,
) -> TeacherTexts:
    network, names, images = prepared
    numbers = {name: number for number, name in enumerate(names)}
    specialized = specialize(
        network,
        images,
        possible_texts(data.config.scheme),
        data.config.specialization,
        seed=data.seed,
        given=GivenTexts({numbers[name]: text for name, text in known.items()}, readings),
        bf16=bf16_of(data),
        on_step=advance,
    )
    decoded = read_prepared(data, specialized, images)
    return texts_of(names, decoded)


def texts_of(names: list[str], decoded: list[Decoded]) -> TeacherTexts:
    """Texts and confidences of decoded images."""
    return TeacherTexts(names, [one.text for one in decoded], [one.confidence for one in decoded])


def read_prepared(data: RunData, network: Generalist, images: Floats) -> list[Decoded]:
    """Texts of prepared images (N, 4, 40, W) that the scheme of a run allows."""
    logits = read_columns(network, torch.from_numpy(images), bf16=bf16_of(data))
    return decode_all(logits, possible_texts(data.config.scheme))


def possible_texts(scheme: Scheme) -> PossibleTexts:
    """What the texts of a scheme may say."""
    lengths = (scheme.min_length, scheme.max_length)
    return PossibleTexts.of_lengths(Alphabet(scheme.alphabet), lengths)


def bf16_of(data: RunData) -> bool:
    """Whether a run computes in bfloat16."""
    return fabric_precision(data.fabric) == "bf16-mixed"


def input_columns(scheme: Scheme) -> int:
    """Columns of the generalist's input for images of a scheme."""
    return 4 * round(scheme.width * HEIGHT / scheme.height / 4)


def specialization_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the specialization, with the maximum number of images."""
    settings = config.specialization
    return count_specialization_flops(settings, input_columns(config.scheme), settings.images)
