"""Algorithm 1 of SimGAN, arXiv:1612.07828: its steps, and a state that can be restored exactly."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from simgan_captcha.errors import RunError, ShapeError
from simgan_captcha.simgan.alarms import ALARMS, WINDOW
from simgan_captcha.simgan.augmentation import DiffAugment
from simgan_captcha.simgan.batches import BatchStream, CheckedBatches
from simgan_captcha.simgan.history import ImageHistory
from simgan_captcha.simgan.networks import Discriminator, FeatureDiscriminator, Refiner
from simgan_captcha.simgan.settings import SimGANSettings
from simgan_captcha.simgan.sheet import sheet_png
from simgan_captcha.simgan.updates import (
    Extras,
    FeatureJudge,
    Features,
    Figures,
    Recognizer,
    discriminator_loss,
    frozen,
    patch_sampler,
    refiner_loss,
    refiner_pretraining_loss,
)
from simgan_captcha.training.average import update_average
from simgan_captcha.training.checkpoint import load_training_state, save_training_state
from simgan_captcha.training.parallel import share

LabelAgreement = Callable[[Tensor, Tensor], float]
"""A function ``agreement(synthetic, refined)`` of two batches (B, C, H, W). It returns the fraction
of images for which a recognizer has the same reading before and after refining."""


class Training:
    """The state of a training, which a checkpoint contains."""

    def __init__(
        self,
        fabric: Fabric,
        settings: SimGANSettings,
        seed: int,
        streams: tuple[BatchStream, BatchStream],
        recognizer: Recognizer | None,
        features: Features | None = None,
    ) -> None:
        self.fabric, self.settings, self.seed = fabric, settings, seed
        expected = (share(fabric, settings.batch_size), settings.refiner.channels)
        self.synthetic = CheckedBatches("synthetic", streams[0], expected, fabric.device)
        self.real = CheckedBatches("real", streams[1], expected, fabric.device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            refiner = Refiner(settings.refiner)
            discriminator = Discriminator(settings.discriminator)
            sampler = patch_sampler(settings)
        self.average = copy.deepcopy(refiner).to(fabric.device).eval().requires_grad_(False)
        self.refiner, self.refiner_optimizer = fabric.setup(
            refiner, _adam(refiner, settings.refiner_learning_rate)
        )
        for method in ("explain", "features"):
            self.refiner.mark_forward_method(method)
        self.discriminator, self.discriminator_optimizer = fabric.setup(
            discriminator, _adam(discriminator, settings.discriminator_learning_rate)
        )
        self.history = ImageHistory(settings.history_capacity, torch.Generator().manual_seed(seed))
        self.sampler, self.sampler_optimizer = None, None
        if sampler is not None:
            self.sampler, self.sampler_optimizer = fabric.setup(
                sampler, _adam(sampler, settings.refiner_learning_rate)
            )
        self.judge, self.judge_optimizer = None, None
        if settings.features and features is not None:
            of_features = self._feature_discriminator(features)
            self.judge, self.judge_optimizer = fabric.setup(
                of_features, _adam(of_features, settings.discriminator_learning_rate)
            )
        self.extras = self._extras(recognizer, features)
        self.step = 0
        self.refiner_updates = 0
        self.figures: dict[str, float] = {}
        self.recent: list[dict[str, float]] = []
        self.alarms: dict[str, str] = {}

    def _feature_discriminator(self, features: Features) -> FeatureDiscriminator:
        """A discriminator for maps like those of the first real batch."""
        with torch.no_grad():
            channels = [each.shape[1] for each in features(self.real.first()[:1])]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            return FeatureDiscriminator(channels)

    def _extras(self, recognizer: Recognizer | None, features: Features | None) -> Extras:
        draws = torch.Generator().manual_seed(self.seed)
        kinds = self.settings.augmentations
        augment = DiffAugment(kinds, draws) if kinds else None
        judge = None
        if self.judge is not None and features is not None:
            judge = FeatureJudge(features, self.judge)
        return Extras(recognizer, self.sampler, judge, augment, draws)

    @property
    def images(self) -> int:
        """Number of images used so far, in all processes together."""
        return (self.synthetic.count + self.real.count) * self.settings.batch_size

    @property
    def adversarial(self) -> bool:
        """Whether the latest step belongs to Algorithm 1, after both pre-trainings."""
        return self.step > self.settings.total_steps - self.settings.steps

    def first_batches(self) -> tuple[Tensor, Tensor]:
        """The first synthetic and real batch, for pictures; they are the same after a restart."""
        sample, real_sample = self.synthetic.first(), self.real.first()
        if sample.shape != real_sample.shape:
            raise ShapeError(
                f"expected synthetic and real images of one size, got {tuple(sample.shape)} and "
                f"{tuple(real_sample.shape)}; bring both to the same"
            )
        return sample, real_sample

    def advance(self) -> dict[str, float]:
        """Make one step of the current phase, and return the mean figures of its updates."""
        self.step += 1
        with _seeded(self.seed, self.step, self.fabric.global_rank):
            self.figures = _means(self._updates())
        return self.figures

    def _updates(self) -> list[Figures]:
        """Make the updates of a step."""
        s = self.settings
        if self.step <= s.pretrain_refiner_steps:
            return [self._update_refiner(adversarial=False)]
        if not self.adversarial:
            return [self._update_discriminator()]
        updates = [self._update_refiner(adversarial=True) for _ in range(s.refiner_updates)]
        return updates + [self._update_discriminator() for _ in range(s.discriminator_updates)]

    def _update_refiner(self, *, adversarial: bool) -> Figures:
        synthetic = self.synthetic.next()
        # After a forward pass, DDP waits for gradients. The frozen discriminators have none.
        with ExitStack() as held:
            for judge in filter(None, (self.discriminator, self.judge)):
                held.enter_context(frozen(judge))
                held.enter_context(self.fabric.no_backward_sync(judge))
            loss, figures = (
                refiner_loss(
                    self.refiner, self.discriminator, synthetic, self.settings, self.extras
                )
                if adversarial
                else refiner_pretraining_loss(self.refiner, synthetic)
            )
            optimizers = [self.refiner_optimizer]
            if adversarial and self.sampler_optimizer is not None:
                optimizers.append(self.sampler_optimizer)
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.fabric.backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        self._average_refiner()
        return figures

    def _update_discriminator(self) -> Figures:
        loss, figures = discriminator_loss(
            self.refiner,
            self.discriminator,
            (self.synthetic.next(), self.real.next()),
            self.history,
            self.settings,
            extras=self.extras,
            fabric=self.fabric,
        )
        optimizers = [self.discriminator_optimizer]
        if self.judge_optimizer is not None:
            optimizers.append(self.judge_optimizer)
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.fabric.backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        return figures

    def _average_refiner(self) -> None:
        self.refiner_updates += 1
        update_average(self.average, self.refiner, self.settings.ema_decay, self.refiner_updates)

    @torch.no_grad()
    def look(
        self, sample: Tensor, real_sample: Tensor, label_agreement: LabelAgreement | None
    ) -> bytes:
        """Draw a picture of the refined sample, and add the label agreement to the figures."""
        with _seeded(self.seed, 0, 0):
            refined = self.average(sample)
        if label_agreement is not None:
            self.figures["label_agreement"] = label_agreement(sample, refined)
        return sheet_png(sample, refined, real_sample)

    def new_alarms(self, figures: dict[str, float]) -> list[str]:
        """Return the sentences of the alarms that these figures raise for the first time."""
        if not self.adversarial:
            return []
        self.recent = [*self.recent, figures][-WINDOW:]
        raised = {
            name: sentence
            for name, alarm in ALARMS.items()
            if name not in self.alarms and (sentence := alarm(self.recent))
        }
        self.alarms |= raised
        return list(raised.values())

    def _parts(self) -> dict[str, Any]:
        modules = {
            "refiner": self.refiner,
            "average": self.average,
            "discriminator": self.discriminator,
        }
        optimizers = {
            "refiner": self.refiner_optimizer,
            "discriminator": self.discriminator_optimizer,
        }
        if self.sampler is not None:
            modules["sampler"], optimizers["sampler"] = self.sampler, self.sampler_optimizer
        if self.judge is not None:
            modules["judge"], optimizers["judge"] = self.judge, self.judge_optimizer
        return {"modules": modules, "optimizers": optimizers}

    def _made_with(self) -> dict[str, Any]:
        return {"settings": self.settings.model_dump(mode="json"), "seed": self.seed}

    def save(self, path: Path) -> None:
        """Write a checkpoint for `load`."""
        numbers = {
            "made_with": self._made_with(),
            "step": self.step,
            "refiner_updates": self.refiner_updates,
            "synthetic_batches": self.synthetic.count,
            "real_batches": self.real.count,
            "figures": self.figures,
            "recent": self.recent,
            "alarms": self.alarms,
        }
        tensors = {f"history/{name}": tensor for name, tensor in self.history.state().items()}
        tensors["draws"] = self.extras.generator.get_state()
        save_training_state(path, **self._parts(), tensors=tensors, numbers=numbers)

    def load(self, path: Path) -> None:
        """Restore the state of a checkpoint.

        Raises:
            RunError: The checkpoint is damaged, or has other settings or another seed.
        """
        tensors, numbers = load_training_state(path, **self._parts())
        if numbers.get("made_with") != self._made_with():
            raise RunError(
                f"expected the checkpoint {path} to be of these settings and seed, it is of "
                f"{numbers.get('made_with')}; go back to those, or delete it to start again"
            )
        self.step = numbers["step"]
        self.refiner_updates = numbers["refiner_updates"]
        self.synthetic.count = numbers["synthetic_batches"]
        self.real.count = numbers["real_batches"]
        self.figures = numbers["figures"]
        self.recent = numbers["recent"]
        self.alarms = numbers["alarms"]
        history = {name: tensors[f"history/{name}"] for name in ("images", "generator")}
        self.history.restore(history, self.fabric.device)
        self.extras.generator.set_state(tensors["draws"])


@contextmanager
def _seeded(seed: int, step: int, rank: int) -> Iterator[None]:
    """Context in which random draws of torch depend only on (seed, step, rank).

    A resumed step draws the same noise, and the random state of the caller does not change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed * 1_000_003 + step + rank * 2**40)
        yield


def _adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=learning_rate, betas=(0.5, 0.999))


def _means(updates: Sequence[Figures]) -> dict[str, float]:
    names = dict.fromkeys(name for figures in updates for name in figures)
    values = {name: [u[name].detach() for u in updates if name in u] for name in names}
    return {name: torch.stack(each).mean().item() for name, each in values.items()}
