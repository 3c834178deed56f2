"""The stage in which the recognizer learns the texts that the specialized generalist reads.

Recognizer and generalist then teach each other, in rounds: the generalist learns the readings of
the recognizer, and a new recognizer learns those of the generalist. Each round begins with the
first weights, so no mistake is kept for good. These are the pretrained weights of the generalist
and random weights of the recognizer. If the simulator came first, the recognizer begins with what
it learned there. Two networks of different kinds make different mistakes, and each learns first
what most images have in common.

The last recognizer then learns on, while it agrees more often with its teacher on images that it
does not learn from. There, a mistake that is learned by heart does not raise the agreement.

Sources: noisy student training (arXiv:1911.04252), where each student is the next teacher; for two
networks that correct each other's labels, co-teaching (arXiv:1804.06872). Deviation: our two
networks have different sizes and inputs, and train one after the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simgan_captcha.config.settings import RunConfig
from simgan_captcha.errors import RunError
from simgan_captcha.generalist.decoding import Decoded
from simgan_captcha.generalist.specialization.specialize import (
    GivenTexts,
    count_specialization_flops,
    specialize,
)
from simgan_captcha.pipeline.cost import recognizer_architecture
from simgan_captcha.pipeline.estimate import Estimate, estimate_from_confidence
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import READER, TeacherTexts
from simgan_captcha.pipeline.stages.specialization import (
    PreparedImages,
    bf16_of,
    input_columns,
    possible_texts,
    read_prepared,
    simulator_came_first,
)
from simgan_captcha.recognizer.decode import read_probabilities, save_recognizer
from simgan_captcha.recognizer.distill import LabelledImages, forgiving_objective, labelled_batches
from simgan_captcha.recognizer.train import (
    TrainedRecognizer,
    TrainingSession,
    count_flops,
    train_recognizer,
)
from simgan_captcha.scheme import Scheme
from simgan_captcha.types import Floats, OnStep

_STABLE = 0.98
"""Least share of images that a recognizer reads as it learned them, for the rounds to end. The
texts then hold few mistakes, and a further round has little to correct."""
_HELD_OUT = 10
"""One image in so many is held out, to show how long the last recognizer should learn."""
_GAP = 0.1
"""Loss of agreement on images held out from which on there is a warning."""
_LONGER = 4
"""Most trainings of the last recognizer after its first one."""
_SEEDS = 10_007
"""Difference between the seeds of two rounds."""


class Distilled(NamedTuple):
    """A recognizer that learned the texts of a teacher."""

    trained: list[TrainedRecognizer]
    """Results of all trainings, at least one."""
    kept: TrainedRecognizer
    """The one that reads."""
    taught: float
    """Mean confidence of the teacher in the texts that the recognizer learned."""
    agreement: float
    """Share of the images held out that it reads as its teacher; 1 if there are none."""
    stability: float
    """The same share of all images."""
    flops: int
    """Floating-point operations of all rounds, with those of the generalist."""

    @property
    def estimate(self) -> Estimate:
        """The estimated accuracy."""
        return estimate_from_confidence(self.taught)

    @property
    def warnings(self) -> list[str]:
        """A warning if new images are read less well than those that the recognizer learned."""
        if self.stability - self.agreement < _GAP:
            return []
        return [
            "the distilled reader reads new images less well than those of the run: it agrees with "
            f"its teacher on {self.stability:.0%} of all images, and on {self.agreement:.0%} of "
            "those that it did not learn from; more images help"
        ]


def distill(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Train the recognizer on the texts of the specialized generalist; estimate its accuracy."""
    learned = learn_texts(data, folder, TeacherTexts.of_stage(data.run / "specialize"), {}, advance)
    for warning in learned.warnings:
        data.warn(warning)
    if data.fabric.is_global_zero:
        save_recognizer(folder / READER, learned.kept.reader, recognizer_architecture(data.config))
    return StageOutcome(
        (READER,),
        {
            **learned.kept.figures,
            "taught": round(learned.taught, 4),
            "agreement": round(learned.agreement, 4),
            "estimate": asdict(learned.estimate),
            "warnings": learned.warnings,
        },
        images=sum(result.images for result in learned.trained),
        training_flops=learned.flops,
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
    sure_of = dict(zip(teacher.names, teacher.confidences, strict=True)) | dict.fromkeys(known, 1.0)
    lesson = _Lesson(
        LabelledImages(
            data.images_named(taught),
            np.array(list(taught.values())),
            np.array([name in known for name in taught]),
        ),
        float(np.mean([sure_of[name] for name in taught])),
    )
    return _Rounds(data, folder, list(taught), advance).learn(lesson)


class _Lesson(NamedTuple):
    """What a recognizer learns."""

    images: LabelledImages
    taught: float
    """Mean confidence of the teacher in the texts."""

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Whether an image is held out (N,). Images with known texts are not."""
        number = np.arange(len(self.images.ids))
        return np.asarray((number % _HELD_OUT == _HELD_OUT - 1) & ~self.images.known)

    @property
    def learned(self) -> LabelledImages:
        """The images that are not held out."""
        kept, (pixels, ids, known) = ~self.held_out, self.images
        return LabelledImages(pixels[kept], ids[kept], known[kept])


class _Round(NamedTuple):
    """One training on N images."""

    result: TrainedRecognizer
    lesson: _Lesson
    read: Floats
    """Probabilities (N, L, K) that the recognizer gives after training."""

    @property
    def stability(self) -> float:
        """The share of all images that the recognizer reads as its teacher."""
        return float(self._alike.mean())

    @property
    def agreement(self) -> float:
        """The share of the images held out that it reads as its teacher; 1 without such images."""
        held_out = self.lesson.held_out
        return float(self._alike[held_out].mean()) if held_out.any() else 1.0

    @property
    def _alike(self) -> npt.NDArray[np.bool_]:
        return np.asarray((self.read.argmax(-1) == self.lesson.images.ids).all(1))


class _Rounds:
    """Trains one recognizer after another, each on texts of the generalist.

    The rounds are short, so that a recognizer learns what most images of a shape have in common,
    and few mistakes. They end when the texts hold few mistakes. There is one round if the
    generalist cannot read the scheme.
    """

    def __init__(self, data: RunData, folder: Path, names: Sequence[str], advance: OnStep) -> None:
        self.data, self.folder, self.names, self.advance = data, folder, names, advance
        config = data.config
        self.rounds = config.distillation.rounds if config.begins_pretrained else 1
        self.each = config.distillation.steps_of(config.scheme.classes)
        self.done, self.longer, self.flops = 0, 0, 0
        self.first = data.recognizer("read") if simulator_came_first(data) else None
        self.prepared: PreparedImages | None = None

    @property
    def total(self) -> int:
        """Steps of all rounds, at most, and of the longer trainings so far."""
        generalist = (self.rounds - 1) * self.data.config.specialization.steps
        return (self.rounds + self.longer) * self.each + generalist

    def learn(self, lesson: _Lesson) -> Distilled:
        """Train all rounds, and the last recognizer for as long as it agrees more and more.

        Args:
            lesson: Of the first round.
        """
        latest = self.train(lesson, 0)
        results = [latest.result]
        while len(results) < self.rounds and latest.stability < _STABLE:
            latest = self.train(self.taught_back(latest, len(results)), len(results))
            results.append(latest.result)
        for _ in range(_LONGER):
            if latest.agreement >= _STABLE:
                break
            self.longer += 1
            longer = self.train(latest.lesson, len(results), begun=latest)
            results.append(longer.result)
            if longer.agreement <= latest.agreement:
                break
            latest = longer
        return Distilled(
            results,
            latest.result,
            latest.lesson.taught,
            latest.agreement,
            latest.stability,
            self.flops,
        )

    def taught_back(self, latest: _Round, number: int) -> _Lesson:
        """The texts of the generalist after it has learned the readings of the recognizer.

        An image keeps its label if the generalist finds no text in it.
        """
        images = latest.lesson.images
        ids, taught = images.ids, latest.lesson.taught
        if self.data.fabric.is_global_zero:
            decoded = self.generalist_readings(latest, number)
            encode = self.data.config.scheme.encode
            ids = np.array(
                [
                    encode(one.text) if one.text and not certain else label
                    for one, label, certain in zip(decoded, ids, images.known, strict=True)
                ]
            )
            confidences = [one.confidence for one in decoded]
            taught = float(np.where(images.known, 1.0, confidences).mean())
        ids, taught = self.data.fabric.broadcast((ids, taught))
        return _Lesson(images._replace(ids=ids), taught)

    def generalist_readings(self, latest: _Round, number: int) -> list[Decoded]:
        """Readings of the generalist that has learned those of the latest recognizer."""
        data, scheme, settings = self.data, self.data.config.scheme, self.data.config.specialization
        if self.prepared is None:
            self.prepared = PreparedImages.of(data, self.names, 0).in_order_of(self.names)
        texts = [scheme.decode(ids) for ids in latest.read.argmax(-1).tolist()]
        certain = np.flatnonzero(latest.lesson.images.known).tolist()
        done = self.done
        network = specialize(
            self.prepared.network,
            self.prepared.images,
            possible_texts(scheme),
            settings,
            seed=data.seed + _SEEDS * number,
            given=GivenTexts(
                {n: scheme.decode(latest.lesson.images.ids[n].tolist()) for n in certain},
                list(zip(texts, latest.read.max(-1).prod(-1).tolist(), strict=True)),
            ),
            bf16=bf16_of(data),
            on_step=lambda step, _, figures: self.advance(done + step, self.total, figures),
        )
        self.done += settings.steps
        columns, count = self.prepared.images.shape[-1], len(self.names)
        self.flops += count_specialization_flops(settings, columns, count, relabels=False)
        return read_prepared(data, network, self.prepared.images)

    def train(self, lesson: _Lesson, number: int, *, begun: _Round | None = None) -> _Round:
        """Train a recognizer from its first weights, or that of an earlier round further."""
        data, config, fabric = self.data, self.data.config, self.data.fabric
        batch_size = config.distillation.batch_size
        changes = {"steps": self.each, "batch_size": batch_size, "images": "raw"}
        settings = config.recognizer.model_copy(update=changes)
        seed, done, images = data.seed + _SEEDS * number, self.done, lesson.learned
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
                self.folder / f"round-{number + 1}",
                fabric,
                seed,
                lambda step, _, figures: self.advance(done + step, self.total, figures),
            ),
            initial=self.first if begun is None else begun.result.reader,
            objective=partial(forgiving_objective, known=int(images.known.sum())),
        )
        self.done += self.each
        self.flops += result.flops
        read = read_probabilities(result.reader, data.background(), lesson.images.pixels)
        return _Round(result, lesson, read)


def distillation_flops(config: RunConfig, unsure: float = 0.0) -> int:
    """Floating-point operations of the distillation with all rounds."""
    settings, learned = config.distillation, config.specialization
    each = count_flops(recognizer_architecture(config), settings.batch_size, backward=True)
    generalist = count_specialization_flops(
        learned, input_columns(config.scheme), learned.images, relabels=False
    )
    recognizers = each * settings.steps_of(config.scheme.classes) * (settings.rounds + _LONGER)
    return recognizers + generalist * (settings.rounds - 1)


def _with_ids(texts: Mapping[str, str], scheme: Scheme) -> dict[str, list[int]]:
    """Class ids (L,) of the texts that fit the scheme, by the names of their images."""
    fewest = scheme.min_length
    return {
        name: scheme.encode(text)
        for name, text in texts.items()
        if fewest <= len(text) <= scheme.max_length
    }
