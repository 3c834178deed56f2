"""The stages that learn from the generalist.

The generalist specializes on the run's images. A small recognizer then learns the texts that the
specialized generalist reads.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from simgan_captcha.atomic import write_json
from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.images import evenly
from simgan_captcha.data.pictures import open_picture
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.documents import read_object
from simgan_captcha.errors import RunError
from simgan_captcha.generalist.decoding import Alphabet
from simgan_captcha.generalist.features import HEIGHT
from simgan_captcha.generalist.network import load_generalist
from simgan_captcha.generalist.shipped import shipped
from simgan_captcha.generalist.specialization.class_balance import (
    balanced_classes,
    balancing_biases,
)
from simgan_captcha.generalist.specialization.specialize import (
    PossibleTexts,
    count_specialization_flops,
    decode_all,
    prepare,
    read_columns,
    specialize,
)
from simgan_captcha.pipeline.cost import reader_architecture
from simgan_captcha.pipeline.estimate import Estimate, estimate_from_agreement
from simgan_captcha.pipeline.graph import Advance
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import READER, STORE
from simgan_captcha.recognizer.decode import decode, read_probabilities, save_reader
from simgan_captcha.recognizer.distill import (
    LabelledImages,
    forgiving_objective,
    labelled_batches,
)
from simgan_captcha.recognizer.train import ReaderResult, TrainingSession, count_flops, train_reader
from simgan_captcha.scheme import Scheme
from simgan_captcha.training.known_texts import known_of_batch
from simgan_captcha.training.parallel import fabric_precision
from simgan_captcha.types import Floats, Ids

PSEUDO_LABELS = "pseudo_labels.json"
"""Texts of the specialized generalist, in the folder of its stage."""

_FIRST = 10
"""Number of images whose texts are shown before training."""
_BALANCE = 1.0
"""Strength of the biases against characters that are read too often, between two rounds."""
_SEEDS = 10_007
"""Difference between the seeds of two rounds."""


class TeacherTexts(NamedTuple):
    """Readings of some of a run's images by a teacher."""

    names: list[str]
    texts: list[str]
    """One for each name; some may be empty or of a wrong length."""
    confidences: list[float]
    """Probability of each text, 0 to 1."""


class Distilled(NamedTuple):
    """A recognizer that learned the texts of a teacher."""

    reader: nn.Module
    results: list[ReaderResult]
    """Results of the rounds."""
    figures: dict[str, float]
    """Arguments of `estimate_from_agreement`."""

    @property
    def estimate(self) -> Estimate:
        """The estimated accuracy."""
        return estimate_from_agreement(**self.figures)


def specialize_generalist(data: RunData, folder: Path, advance: Advance) -> StageOutcome:
    """Self-train the generalist on some of the run's images, and read them with it."""
    settings = data.config.specialization
    _show_first_texts(data)
    found, columns = specialized_texts(data, {}, advance)
    confidences = [round(confidence, 4) for confidence in found.confidences]
    write_json(folder / PSEUDO_LABELS, found._replace(confidences=confidences)._asdict())
    return StageOutcome(
        (PSEUDO_LABELS,),
        images=len(found.names) + settings.steps * settings.batch_size,
        training_flops=count_specialization_flops(settings, columns, len(found.names)),
    )


def specialized_texts(
    data: RunData, known: Mapping[str, str], advance: Advance
) -> tuple[TeacherTexts, int]:
    """Specialize the generalist and read with it.

    Args:
        data: Data of the run.
        known: True texts by image name. These images are added to those that the generalist learns
            from. Only `simgan_captcha.teaching` gives any.
        advance: Called after each step.

    Returns:
        The texts, and the number of columns of the network's input.
    """
    settings, captchas = data.config.specialization, CaptchaStore(data.run / STORE)
    ordered = captchas.in_content_order()
    chosen = {*evenly(ordered.names, settings.images), *known}
    pairs = zip(ordered.names, ordered.images, strict=True)
    encoded = {name: image for name, image in pairs if name in chosen}
    names = list(encoded)
    network, _ = load_generalist(shipped("generalist.safetensors"))
    possible = _possible_texts(data.config.scheme)
    bf16 = _bf16(data)
    images = prepare([open_picture(image).rgb for image in encoded.values()])
    specialized = specialize(
        network,
        images,
        possible,
        settings,
        seed=data.seed,
        known={names.index(name): text for name, text in known.items()},
        bf16=bf16,
        on_step=advance,
    )
    logits = read_columns(specialized, torch.from_numpy(images), bf16=bf16)
    decoded = decode_all(logits, possible)
    texts = [one.text for one in decoded]
    return TeacherTexts(names, texts, [one.confidence for one in decoded]), images.shape[-1]


def _show_first_texts(data: RunData) -> None:
    """Show a few readings of the generalist before training."""
    encoded = evenly(
        CaptchaStore(data.run / STORE).in_content_order().images, data.config.specialization.images
    )
    images = prepare([open_picture(image).rgb for image in encoded[:_FIRST]])
    network, _ = load_generalist(shipped("generalist.safetensors"))
    logits = read_columns(network, torch.from_numpy(images), bf16=_bf16(data))
    found = decode_all(logits, _possible_texts(data.config.scheme))
    texts = (f"{one.text or 'nothing'} ({one.confidence:.0%})" for one in found)
    data.say(f"first      the generalist reads {', '.join(texts)}; learning improves on this")


def _possible_texts(scheme: Scheme) -> PossibleTexts:
    fewest = scheme.shortest or scheme.length
    return PossibleTexts(Alphabet(scheme.alphabet), (fewest, scheme.length))


def _bf16(data: RunData) -> bool:
    return fabric_precision(data.fabric) == "bf16-mixed"


def distill(data: RunData, folder: Path, advance: Advance) -> StageOutcome:
    """Train the recognizer on the texts of the specialized generalist; estimate its accuracy."""
    texts = TeacherTexts(**read_object(data.run / "specialize" / PSEUDO_LABELS))
    learned = learn_texts(data, folder, texts, {}, advance)
    if data.fabric.is_global_zero:
        save_reader(folder / READER, learned.reader, reader_architecture(data.config))
    return StageOutcome(
        (READER,),
        {
            **learned.results[-1].figures,
            **{name: round(value, 4) for name, value in learned.figures.items()},
            "estimate": asdict(learned.estimate),
        },
        images=sum(result.images for result in learned.results),
        training_flops=sum(result.flops for result in learned.results),
    )


def learn_texts(
    data: RunData, folder: Path, teacher: TeacherTexts, known: Mapping[str, str], advance: Advance
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
    names, stored = data.captchas
    number_of = {name: number for number, name in enumerate(names)}
    batch = LabelledImages(
        stored[[number_of[name] for name in taught]],
        np.array(list(taught.values())),
        np.array([name in known for name in taught]),
    )
    kept, results = _learn_in_rounds(data, folder, batch, advance)
    readings = list(decode(scheme, list(taught), kept.read))
    alike = [scheme.fold(one.text) == scheme.fold(of_teacher[one.name]) for one in readings]
    sure_of = dict(zip(teacher.names, teacher.confidences, strict=True))
    figures = {
        "taught": float(np.mean([sure_of[one.name] for one in readings])),
        "agreement": float(np.mean(alike)),
        "sure": float(np.mean([one.confidence for one in readings])),
        "stability": kept.stability,
    }
    return Distilled(kept.result.reader, results, figures)


class _Round(NamedTuple):
    """One training on N images."""

    result: ReaderResult
    learned: Ids
    """Class ids (N, L) of the texts that the recognizer learned."""
    read: Floats
    """Probabilities (N, L, K) that it gives after training."""

    @property
    def stability(self) -> float:
        """The share of images that the recognizer reads as it learned them."""
        return float((self.read.argmax(-1) == self.learned).all(1).mean())


def _learn_in_rounds(
    data: RunData, folder: Path, images: LabelledImages, advance: Advance
) -> tuple[_Round, list[ReaderResult]]:
    """Train one recognizer after another, each on the readings of the one before.

    Where the texts hold many mistakes, each round corrects some, and stability rises. Where they
    hold few, a further round adds mistakes of its own, and stability falls: the round before is
    then kept, and no other follows.

    Returns:
        The round that is kept, and the results of all rounds.
    """
    kept: _Round | None = None
    results = list[ReaderResult]()
    while len(results) < data.config.distillation.rounds:
        results.append(_learn_texts(data, folder, images, len(results), advance))
        read = read_probabilities(results[-1].reader, data.background(), images.pixels)
        latest = _Round(results[-1], images.ids, read)
        if kept is not None and latest.stability < kept.stability:
            break
        kept = latest
        ids = _balanced_ids(read, data.config.scheme.alphabet)
        images = images._replace(ids=np.where(images.known[:, None], images.ids, ids))
    assert kept is not None  # there is at least one round
    return kept, results


def _balanced_ids(probabilities: Floats, alphabet: str) -> Ids:
    """Class ids (N, L) of probabilities (N, L, K), with a bias against too frequent classes."""
    characters = len(alphabet)
    read = (
        probabilities.argmax(-1) < characters
    )  # the class after the characters is that of empty slots
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
    data: RunData, folder: Path, images: LabelledImages, number: int, advance: Advance
) -> ReaderResult:
    """One round: train a recognizer from random weights."""
    config, fabric = data.config, data.fabric
    rounds, steps = config.distillation.rounds, config.distillation.steps_of(config.scheme.classes)
    changes = {"steps": steps, "batch_size": config.distillation.batch_size, "images": "raw"}
    settings = config.reader.model_copy(update=changes)
    seed = data.seed + _SEEDS * number
    known = known_of_batch(int(images.known.sum()), settings.batch_size)
    return train_reader(
        labelled_batches(
            images,
            data.background(),
            config.adaptation.augmentation,
            settings.batch_size,
            seed,
            rank=fabric.global_rank,
            processes=fabric.world_size,
        ),
        reader_architecture(config),
        settings,
        TrainingSession(
            folder / f"round-{number + 1}",
            fabric,
            seed,
            lambda step, _, figures: advance(number * steps + step, rounds * steps, figures),
        ),
        objective=partial(forgiving_objective, known=known),
    )


def specialization_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the specialization, with the maximum number of images."""
    scheme, settings = config.scheme, config.specialization
    columns = 4 * round(scheme.width * HEIGHT / scheme.height / 4)
    return count_specialization_flops(settings, columns, settings.images)


def distillation_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the distillation."""
    settings = config.distillation
    each = count_flops(reader_architecture(config), settings.batch_size, backward=True)
    return each * settings.steps_of(config.scheme.classes) * settings.rounds


def _with_ids(texts: Mapping[str, str], scheme: Scheme) -> dict[str, list[int]]:
    """Class ids (L,) of the texts that fit the scheme, by the names of their images."""
    fewest = scheme.shortest or scheme.length
    return {
        name: scheme.encode(text)
        for name, text in texts.items()
        if fewest <= len(text) <= scheme.length
    }
