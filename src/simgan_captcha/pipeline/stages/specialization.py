"""The stages that learn from the generalist.

The generalist specializes on the run's images. A small recognizer then learns the texts that the
specialized generalist reads.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.background import without_background
from simgan_captcha.data.pictures import open_picture
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import RunError
from simgan_captcha.generalist.decoding import Alphabet, Decoded, PossibleTexts
from simgan_captcha.generalist.features import HEIGHT
from simgan_captcha.generalist.network import Generalist, load_generalist
from simgan_captcha.generalist.shipped import shipped
from simgan_captcha.generalist.specialization.class_balance import (
    balanced_classes,
    balancing_biases,
)
from simgan_captcha.generalist.specialization.specialize import (
    count_specialization_flops,
    decode_all,
    prepare,
    read_columns,
    specialize,
)
from simgan_captcha.pipeline.cost import recognizer_architecture
from simgan_captcha.pipeline.estimate import Estimate, estimate_from_confidence
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import PSEUDO_LABELS, READER, STORE, TeacherTexts
from simgan_captcha.recognizer.decode import read_probabilities, save_recognizer
from simgan_captcha.recognizer.distill import (
    LabelledImages,
    forgiving_objective,
    labelled_batches,
)
from simgan_captcha.recognizer.train import (
    TrainedRecognizer,
    TrainingSession,
    count_flops,
    train_recognizer,
)
from simgan_captcha.scheme import Scheme
from simgan_captcha.training.parallel import fabric_precision
from simgan_captcha.types import Floats, Ids, OnStep

_BALANCE = 1.0
"""Strength of the biases against characters that are read too often, between two rounds."""
_LEARNED = 0.85
"""Mean confidence after the first round below which the texts are not learned yet."""
_SEEDS = 10_007
"""Difference between the seeds of two rounds."""


class Distilled(NamedTuple):
    """A recognizer that learned the texts of a teacher."""

    kept: TrainedRecognizer
    """Result of the round that is kept."""
    rounds: list[TrainedRecognizer]
    """Results of all rounds."""
    taught: float
    """Mean confidence of the teacher in the texts that the recognizer learned."""

    @property
    def estimate(self) -> Estimate:
        """The estimated accuracy."""
        return estimate_from_confidence(self.taught)


def specialize_generalist(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Self-train the generalist on some of the run's images, and read them with it."""
    settings = data.config.specialization
    prepared = PreparedImages.of(data, {}, settings.images)
    found = _specialized_texts(data, prepared, {}, advance)
    found.save(folder)
    return StageOutcome(
        (PSEUDO_LABELS,),
        images=len(found.names) + settings.steps * settings.batch_size,
        training_flops=count_specialization_flops(
            settings, prepared.images.shape[-1], len(found.names)
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
    return _specialized_texts(data, prepared, known, advance)


class PreparedImages(NamedTuple):
    """The generalist, and the images that it specializes on."""

    network: Generalist
    names: list[str]
    images: Floats
    """(N, 4, 40, W)."""

    @staticmethod
    def of(data: RunData, known: Collection[str], most: int) -> "PreparedImages":
        """Select the first ``most`` images in content order, and add those of the known names.

        The content order is that of hashes, so the first images are a random sample.
        """
        ordered = CaptchaStore(data.run / STORE).in_content_order()
        chosen = {*ordered.names[:most], *known}
        pairs = zip(ordered.names, ordered.images, strict=True)
        encoded = {name: image for name, image in pairs if name in chosen}
        pictures = [open_picture(image).rgb for image in encoded.values()]
        if data.config.scheme.shares_picture:
            pictures = without_background(pictures, data.background())
        images = prepare(pictures)
        network, _ = load_generalist(shipped("generalist.safetensors"))
        return PreparedImages(network, list(encoded), images)


def _specialized_texts(
    data: RunData, prepared: PreparedImages, known: Mapping[str, str], advance: OnStep
) -> TeacherTexts:
    network, names, images = prepared
    numbers = {name: number for number, name in enumerate(names)}
    specialized = specialize(
        network,
        images,
        possible_texts(data.config.scheme),
        data.config.specialization,
        seed=data.seed,
        known={numbers[name]: text for name, text in known.items()},
        bf16=_bf16(data),
        on_step=advance,
    )
    decoded = read_prepared(data, specialized, images)
    return texts_of(names, decoded)


def texts_of(names: list[str], decoded: list[Decoded]) -> TeacherTexts:
    """Texts and confidences of decoded images."""
    return TeacherTexts(names, [one.text for one in decoded], [one.confidence for one in decoded])


def read_prepared(data: RunData, network: Generalist, images: Floats) -> list[Decoded]:
    """Texts of prepared images (N, 4, 40, W) that the scheme of a run allows."""
    logits = read_columns(network, torch.from_numpy(images), bf16=_bf16(data))
    return decode_all(logits, possible_texts(data.config.scheme))


def possible_texts(scheme: Scheme) -> PossibleTexts:
    """What the texts of a scheme may say."""
    lengths = (scheme.min_length, scheme.max_length)
    return PossibleTexts.of_lengths(Alphabet(scheme.alphabet), lengths)


def _bf16(data: RunData) -> bool:
    return fabric_precision(data.fabric) == "bf16-mixed"


def distill(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Train the recognizer on the texts of the specialized generalist; estimate its accuracy."""
    learned = learn_texts(data, folder, TeacherTexts.of_stage(data.run / "specialize"), {}, advance)
    if data.fabric.is_global_zero:
        save_recognizer(folder / READER, learned.kept.reader, recognizer_architecture(data.config))
    return StageOutcome(
        (READER,),
        {
            **learned.kept.figures,
            "taught": round(learned.taught, 4),
            "estimate": asdict(learned.estimate),
        },
        images=sum(result.images for result in learned.rounds),
        training_flops=sum(result.flops for result in learned.rounds),
    )


def learn_texts(
    data: RunData, folder: Path, teacher: TeacherTexts, known: Mapping[str, str], advance: OnStep
) -> Distilled:
    """Train the recognizer on a teacher's texts, in rounds.

    Args:
        data: Data of the run.
        folder: Folder for the checkpoints and metrics of the rounds.
        teacher: Texts of the teacher; those that do not fit the scheme are left out.
        known: True texts by name, which replace those of the teacher. Only
            `simgan_captcha.teaching` gives any.
        advance: Called after each step.

    Raises:
        RunError: Fewer than two texts fit the scheme.
    """
    scheme = data.config.scheme
    of_teacher = dict(zip(teacher.names, teacher.texts, strict=True))
    taught = _with_ids(of_teacher | dict(known), scheme)
    if len(taught) < 2:
        raise RunError(
            "expected readings with the alphabet and length of the scheme, the generalist gives "
            "none; correct the scheme, or run with --set pretrained=false"
        )
    batch = LabelledImages(
        data.images_named(taught),
        np.array(list(taught.values())),
        np.array([name in known for name in taught]),
    )
    kept, rounds = _learn_in_rounds(data, folder, batch, advance)
    sure_of = dict(zip(teacher.names, teacher.confidences, strict=True))
    return Distilled(kept.result, rounds, float(np.mean([sure_of[name] for name in taught])))


class _Round(NamedTuple):
    """One training on N images."""

    result: TrainedRecognizer
    learned: Ids
    """Class ids (N, L) of the texts that the recognizer learned."""
    read: Floats
    """Probabilities (N, L, K) that it gives after training."""

    @property
    def stability(self) -> float:
        """The share of images that the recognizer reads as it learned them."""
        return float((self.read.argmax(-1) == self.learned).all(1).mean())

    @property
    def confidence(self) -> float:
        """The mean probability of the texts that it reads."""
        return float(self.read.max(-1).prod(-1).mean())


def _learn_in_rounds(
    data: RunData, folder: Path, images: LabelledImages, advance: OnStep
) -> tuple[_Round, list[TrainedRecognizer]]:
    """Train one recognizer after another, each on the readings of the one before.

    Where the texts hold many mistakes, each round corrects some, and stability rises. Where they
    hold few, a further round adds mistakes of its own, and stability falls: the round before is
    then kept, and no other follows.

    A first round that leaves the recognizer unsure was too short, as for letters of many fonts. Its
    readings hold more mistakes than the texts. The same recognizer then goes on learning these
    texts, for the steps of all other rounds.

    Returns:
        The round that is kept, and the results of all rounds.
    """
    rounds = data.config.distillation.rounds
    kept = _learn_texts(data, folder, images, 0, advance)
    results = [kept.result]
    if kept.confidence < _LEARNED and rounds > 1:
        kept = _learn_texts(data, folder, images, 1, advance, first=kept)
        return kept, [*results, kept.result]
    while len(results) < rounds:
        ids = _balanced_ids(kept.read, data.config.scheme.alphabet)
        images = images._replace(ids=np.where(images.known[:, None], images.ids, ids))
        latest = _learn_texts(data, folder, images, len(results), advance)
        results.append(latest.result)
        if latest.stability < kept.stability:
            break
        kept = latest
    return kept, results


def _balanced_ids(probabilities: Floats, alphabet: str) -> Ids:
    """Class ids (N, L) of probabilities (N, L, K), with a bias against too frequent classes."""
    characters = len(alphabet)
    read = probabilities.argmax(-1) < characters  # the last class is that of empty slots
    of_read = probabilities[read][:, :characters]
    if not len(of_read):
        return np.asarray(probabilities.argmax(-1))
    biases = balancing_biases(
        of_read / of_read.sum(1, keepdims=True),
        balanced_classes(alphabet),
        _BALANCE,
    )
    biased = probabilities.copy()
    biased[..., :characters] *= np.exp(biases)
    return np.asarray(biased.argmax(-1))


def _learn_texts(
    data: RunData,
    folder: Path,
    images: LabelledImages,
    number: int,
    advance: OnStep,
    *,
    first: _Round | None = None,
) -> _Round:
    """One round: train a recognizer from random weights, or that of the first round further."""
    config, fabric = data.config, data.fabric
    rounds, each = config.distillation.rounds, config.distillation.steps_of(config.scheme.classes)
    steps = each if first is None else each * (rounds - 1)
    changes = {"steps": steps, "batch_size": config.distillation.batch_size, "images": "raw"}
    settings = config.recognizer.model_copy(update=changes)
    seed = data.seed + _SEEDS * number
    result = train_recognizer(
        labelled_batches(
            images,
            data.background(),
            settings.batch_size,
            seed,
            rank=fabric.global_rank,
            processes=fabric.world_size,
        ),
        recognizer_architecture(config),
        settings,
        TrainingSession(
            folder / f"round-{number + 1}",
            fabric,
            seed,
            lambda step, _, figures: advance(number * each + step, rounds * each, figures),
        ),
        initial=None if first is None else first.result.reader,
        objective=partial(forgiving_objective, known=int(images.known.sum())),
    )
    read = read_probabilities(result.reader, data.background(), images.pixels)
    return _Round(result, images.ids, read)


def input_columns(scheme: Scheme) -> int:
    """Columns of the generalist's input for images of a scheme."""
    return 4 * round(scheme.width * HEIGHT / scheme.height / 4)


def specialization_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the specialization, with the maximum number of images."""
    settings = config.specialization
    return count_specialization_flops(settings, input_columns(config.scheme), settings.images)


def distillation_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the distillation."""
    settings = config.distillation
    each = count_flops(recognizer_architecture(config), settings.batch_size, backward=True)
    return each * settings.steps_of(config.scheme.classes) * settings.rounds


def _with_ids(texts: Mapping[str, str], scheme: Scheme) -> dict[str, list[int]]:
    """Class ids (L,) of the texts that fit the scheme, by the names of their images."""
    fewest = scheme.min_length
    return {
        name: scheme.encode(text)
        for name, text in texts.items()
        if fewest <= len(text) <= scheme.max_length
    }
