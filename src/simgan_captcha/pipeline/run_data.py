"""The data that the stages of one run share: images, background, simulator and batches."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from simgan_captcha.calibration.bootstrap import PosedSimulator
from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.background import Background
from simgan_captcha.data.foreground import decode_scheme_image
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import UsageError
from simgan_captcha.original.simulator import OriginalSimulator
from simgan_captcha.pipeline.cost import recognizer_architecture
from simgan_captcha.pipeline.estimate import calibration_failure
from simgan_captcha.pipeline.graph import stage_named
from simgan_captcha.pipeline.routes import left_out
from simgan_captcha.pipeline.run_folder import BACKGROUND, CALIBRATION, READER, STORE
from simgan_captcha.recognizer.decode import load_recognizer
from simgan_captcha.scheme import Scheme
from simgan_captcha.simulator.calibrated import Calibration
from simgan_captcha.simulator.simulator import AS_FOUND, Simulator
from simgan_captcha.training.parallel import share
from simgan_captcha.training.streams import CaptchaSimulator, real_batches, synthetic_batches
from simgan_captcha.types import GreyImages


def load_images(store: CaptchaStore, scheme: Scheme) -> tuple[list[str], GreyImages]:
    """All captchas of a store in content order: names, and (N, H, W) ``uint8``."""
    captchas = store.in_content_order()
    return captchas.names, np.stack([decode_scheme_image(data, scheme) for data in captchas.images])


def has_calibration(run: Path, config: RunConfig) -> bool:
    """Whether a run takes the stage ``calibrate``, and it succeeds."""
    taken = config.calibrates and not left_out(stage_named("calibrate"), run, config)
    return taken and calibration_failure(run) is None


def run_simulator(run: Path, config: RunConfig) -> Simulator:
    """The simulator of a run, calibrated if the run is.

    Raises:
        RunError: A stage is missing or damaged.
        UsageError: The run uses the generator of 2017, whose settings are fixed.
    """
    if config.generator == "original":
        raise UsageError(
            "expected a run that draws with fonts, this one has generator=original; repeat the "
            "run without that setting"
        )
    background = Background.load(run / BACKGROUND)
    if not has_calibration(run, config):
        return Simulator(config.scheme, config.simulator, background)
    calibration = Calibration.load(run / "calibrate" / CALIBRATION)
    return Simulator(config.scheme, config.simulator, background, calibration, shares=AS_FOUND)


@dataclass(frozen=True)
class RunData:
    """One run: its folder and configuration, and what earlier stages left there."""

    run: Path
    """Folder of the run."""
    config: RunConfig
    seed: int
    fabric: Fabric
    warn: Callable[[str], None]
    """Shows a warning to the user."""
    say: Callable[[str], None] = lambda text: None
    """Shows a line to the user."""
    challenges: str = ""
    """Folder or address that images come from."""
    user: str = ""
    """User of the puzzle, if the address needs one."""

    @cached_property
    def captchas(self) -> tuple[list[str], GreyImages]:
        """Names and images of all captchas in content order, see `load_images`."""
        return load_images(CaptchaStore(self.run / STORE), self.config.scheme)

    @property
    def images(self) -> GreyImages:
        """All captchas, (N, H, W) ``uint8``, in content order."""
        return self.captchas[1]

    def images_named(self, names: Iterable[str]) -> GreyImages:
        """The captchas of some names, (N, H, W) ``uint8``, in the order of the names."""
        number_of = {name: number for number, name in enumerate(self.captchas[0])}
        return self.images[[number_of[name] for name in names]]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of images."""
        return self.config.scheme.height, self.config.scheme.width

    def background(self) -> Background:
        """The result of the stage ``background``."""
        return Background.load(self.run / BACKGROUND)

    def calibration(self) -> Calibration | None:
        """The result of the stage ``calibrate``; None for runs without it."""
        if not has_calibration(self.run, self.config):
            return None
        return Calibration.load(self.run / "calibrate" / CALIBRATION)

    def recognizer(self, stage: str, *, pose: bool = False) -> nn.Module:
        """The recognizer that a stage left; with ``pose``, the bootstrap recognizer."""
        architecture = recognizer_architecture(self.config, pose=pose)
        return load_recognizer(self.run / stage / READER, architecture)[0]

    def label_checker(self) -> nn.Module:
        """A recognizer of raw images, which shows whether refining keeps the text.

        After a calibration it is the bootstrap recognizer.
        """
        if self.config.calibrates:
            return self.recognizer("calibrate", pose=True)
        return self.recognizer("refine/label_check")

    def simulator(self, calibration: Calibration | None = None) -> CaptchaSimulator:
        """The configured simulator with a calibration, or without."""
        config = self.config
        if config.generator == "original":
            return OriginalSimulator(config.scheme, self.background())
        return Simulator(config.scheme, config.simulator, self.background(), calibration)

    def synthetic(
        self, stream: int, size: int, first: int, *, posed: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the calibrated simulator, see `batches`; ``posed`` adds poses to targets."""
        simulator = self.simulator(self.calibration())
        if posed:
            assert isinstance(simulator, Simulator)
            simulator = PosedSimulator(simulator)
        return self.batches(simulator, stream, size, first)

    def batches(
        self, simulator: CaptchaSimulator, stream: int, size: int, first: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless synthetic batches of a simulator: normalised images and targets.

        Args:
            simulator: Draws the images.
            stream: Number of the random stream; streams have no image in common.
            size: Images of the joint batch of all processes.
            first: Number of the first batch.
        """
        background = self.background()
        for images, targets in synthetic_batches(
            simulator,
            share(self.fabric, size),
            self.seed,
            stream=stream,
            first=first,
            workers=self.config.drawing_processes(self.fabric.device.type),
            rank=self.fabric.global_rank,
            processes=self.fabric.world_size,
        ):
            yield torch.from_numpy(background.normalise(images)), targets

    def real(self, size: int, first: int) -> Iterator[Tensor]:
        """Endless batches of normalised real images, from batch ``first`` on."""
        background = self.background()
        rank, processes = self.fabric.global_rank, self.fabric.world_size
        for images in real_batches(
            self.images, size, self.seed, first, rank=rank, processes=processes
        ):
            yield torch.from_numpy(background.normalise(images))
