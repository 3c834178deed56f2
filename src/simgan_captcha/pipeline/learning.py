"""The stages that learn, and the readings: what each does in its own folder.

A stage reads what earlier ones left in the run's folder. It goes on from its own checkpoints.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from simgan_captcha.atomic import write_bytes
from simgan_captcha.calibration.calibrate import calibrate, glyph_sheet
from simgan_captcha.calibration.glyph_fit import GlyphFit
from simgan_captcha.calibration.look import find_shapes
from simgan_captcha.calibration.rendering_fit import RenderingFit, fit_rendering, start_rendering
from simgan_captcha.calibration.scout import (
    PosedSimulator,
    scout_images,
    scout_objective,
    without_pose,
)
from simgan_captcha.calibration.summary import summarise
from simgan_captcha.config.settings import RunConfig
from simgan_captcha.data.background import Background
from simgan_captcha.data.foreground import decode_scheme_image
from simgan_captcha.data.images import encode_png
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import TooLittleReadError, UsageError
from simgan_captcha.original.simulator import OriginalSimulator
from simgan_captcha.pipeline.cost import (
    brief_settings,
    calibrates,
    reader_architecture,
    reads_poses,
    recognising_flops,
    scouting_flops,
)
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.recognizer.adapt import adapt_reader
from simgan_captcha.recognizer.decode import load_reader, save_reader
from simgan_captcha.recognizer.network import logits_of
from simgan_captcha.recognizer.train import (
    ReaderResult,
    character_objective,
    count_flops,
    train_reader,
)
from simgan_captcha.scheme import Scheme
from simgan_captcha.simgan import (
    Recogniser,
    Refiner,
    count_forward_flops,
    load_refiner,
    train_refiner,
)
from simgan_captcha.simulator.calibrated import UNKNOWN_CLUTTER, Calibration
from simgan_captcha.simulator.simulator import Simulator, as_found
from simgan_captcha.training.parallel import share
from simgan_captcha.training.streams import CaptchaSimulator, real_batches, synthetic_batches
from simgan_captcha.types import FloatImages, Floats, GreyImages

READER = "reader.safetensors"
CALIBRATION = "calibration.npz"

# Synthetic streams: no two trainings of a run see the same images.
_WITNESS, _REFINE, _READ, _ADAPT = range(1, 5)
_SCOUT = 100  # and one more for each round

Advance = Callable[[int, int, dict[str, float]], None]
"""A stage's report of how far it is: step, steps in all, figures."""


def load_images(store: CaptchaStore, scheme: Scheme) -> tuple[list[str], GreyImages]:
    """All captchas of a store in content order: names, and (N, H, W) ``uint8``."""
    captchas = store.in_content_order()
    return captchas.names, np.stack([decode_scheme_image(data, scheme) for data in captchas.images])


def run_simulator(run: Path, config: RunConfig) -> Simulator:
    """Draws captchas as a run's calibration found the real ones, or by its ranges if it has none.

    Raises:
        RunError: A stage is missing or damaged.
        UsageError: The run draws as the 2017 project did, with a fixed set of images.
    """
    if config.generator == "original":
        raise UsageError(
            "expected a run that draws with fonts, this one has generator=original; run again "
            "without"
        )
    background = Background.load(run / "background" / "background.npz")
    if not calibrates(config):
        return Simulator(config.scheme, config.simulator, background)
    calibration = Calibration.load(run / "calibrate" / CALIBRATION)
    return Simulator(config.scheme, as_found(config.simulator), background, calibration)


@torch.no_grad()
def label_agreement(recogniser: Recogniser, synthetic: Tensor, refined: Tensor) -> float:
    """The share of images, (B, C, H, W) each, of which all characters are read as before."""
    before, after = (recogniser(images).argmax(-1) for images in (synthetic, refined))
    return float((before == after).all(-1).float().mean())


class Learning:
    """The work of each stage, and what they share.

    Of several processes all do what trains; one of them leads, and alone writes.
    """

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        seed: int,
        fabric: Fabric,
        warn: Callable[[str], None],
    ) -> None:
        self.run, self.config, self.seed = run, config, seed
        self.fabric, self.warn = fabric, warn
        self._stored: tuple[list[str], GreyImages] | None = None

    def calibrate(self, folder: Path, advance: Advance) -> StageOutcome:
        """Train the scout and fit the simulator, round after round."""
        settings, background = self.config.calibration, self.background()
        images = self.images()[: settings.images]
        normalised = background.normalise(images)
        scout: nn.Module | None = None
        calibration: Calibration | None = None
        glyphs: Floats | None = None
        formed = False
        rendering, clutter = start_rendering(background), UNKNOWN_CLUTTER
        rendered: RenderingFit | None = None
        flops = seen = 0
        doubts: list[str] = []
        for number in range(1, settings.rounds + 1):
            result = self._train_scout(folder, number, calibration, scout, advance)
            scout = result.reader
            fit, of_round = self._fit_glyphs(
                number, scout, normalised, glyphs, advance, formed=formed
            )
            flops += result.flops + scouting_flops(self.config, len(images))
            seen += result.images + len(images)
            try:
                calibration = calibrate(
                    fit.glyphs, fit.poses, fit.kept, fit.settled, rendering, clutter
                )
            except TooLittleReadError:
                if number == settings.rounds:
                    raise
                # The next round learns on by the ranges, or by what an earlier one found.
                early = f"round {number} of {settings.rounds} found too little read surely"
                doubts.append(f"{early} to calibrate with; the scout learned on and looked again")
                self.warn(doubts[-1])
                self.fabric.broadcast(calibration)
                continue
            glyphs, formed = fit.glyphs, bool(calibration.formed.any())
            doubts += of_round
            # Rendering is settled by the first look, and looked at again with the last glyphs.
            if rendered is None or number == settings.rounds:
                rendered = self._fit_rendering(number, images, calibration, advance)
                rendering, clutter = rendered.values, rendered.clutter
                calibration = replace(calibration, rendering=rendering, clutter=clutter)
            self.fabric.broadcast(calibration)  # to `assist_calibration`
            # The last round's are what counts; earlier ones show how they came about.
            calibration.save(folder / CALIBRATION)
            write_bytes(folder / "glyphs.png", encode_png(glyph_sheet(calibration.glyphs)))
            save_reader(folder / READER, scout, reader_architecture(self.config, pose=True))
        assert calibration is not None
        assert rendered is not None  # the last round raised if there is none
        alphabet, simulator = self.config.scheme.alphabet, self.config.simulator
        summary = summarise(fit, calibration, rendered, alphabet, simulator, self.seed)
        # Rounds may find the same.
        summary["warnings"] = list(dict.fromkeys([*doubts, *summary["warnings"]]))
        for warning in summary["warnings"]:
            self.warn(warning)
        return StageOutcome(
            (CALIBRATION, READER),
            {**result.figures, **summary},
            images=seen,
            training_flops=flops,
        )

    def assist_calibration(self, folder: Path, advance: Advance) -> None:
        """Train the scouts with the process that leads, which does the rest of `calibrate`."""
        scout: nn.Module | None = None
        calibration: Calibration | None = None
        for number in range(1, self.config.calibration.rounds + 1):
            scout = self._train_scout(folder, number, calibration, scout, advance).reader
            calibration = self.fabric.broadcast(calibration)

    def _fit_glyphs(
        self,
        number: int,
        scout: nn.Module,
        normalised: FloatImages,
        glyphs: Floats | None,
        advance: Advance,
        *,
        formed: bool,
    ) -> tuple[GlyphFit, list[str]]:
        """Shapes and poses, and in words which of the shapes no scout had known by their names."""
        config = self.config

        def on_epoch(epoch: int, epochs: int, misfit: float) -> None:
            left = float(epochs - epoch)
            advance(*self._scout_steps(number), {"glyph_epochs_left": left, "misfit": misfit})

        return find_shapes(
            normalised,
            scout_images(scout, normalised, config.scheme),
            config.scheme.alphabet,
            config.simulator,
            self.seed,
            glyphs=glyphs,
            waves=config.scheme.waves,
            formed=formed,
            epochs=config.calibration.epochs,
            on_epoch=on_epoch,
        )

    def _fit_rendering(
        self, number: int, images: GreyImages, calibration: Calibration, advance: Advance
    ) -> RenderingFit:
        def on_evaluation(done: int, total: int) -> None:
            advance(*self._scout_steps(number), {"rendering_candidates_left": float(total - done)})

        settings = self.config.calibration
        return fit_rendering(
            images[: settings.rendering_images],
            self.background(),
            self.config.scheme,
            calibration,
            self.seed,
            clutter=self.config.simulator.clutter,
            evaluations=settings.rendering_evaluations,
            on_evaluation=on_evaluation,
        )

    def _scout_steps(self, rounds: int) -> tuple[int, int]:
        """Steps of so many rounds, and of all."""
        settings = self.config.calibration
        steps = [settings.steps_of(number) for number in range(1, settings.rounds + 1)]
        return sum(steps[:rounds]), sum(steps)

    def _train_scout(
        self,
        folder: Path,
        number: int,
        calibration: Calibration | None,
        initial: nn.Module | None,
        advance: Advance,
    ) -> ReaderResult:
        """One round's training, on the simulator as the round before calibrated it."""
        config, calibrating = self.config, self.config.calibration
        done, in_all = self._scout_steps(number - 1)
        settings = brief_settings(config, calibrating.steps_of(number))
        ranges = config.simulator.model_copy(update={"free": calibrating.free})
        simulator = PosedSimulator(Simulator(config.scheme, ranges, self.background(), calibration))
        return train_reader(
            lambda first: self._batches(simulator, _SCOUT + number, settings.batch_size, first),
            reader_architecture(config, pose=True),
            settings,
            folder=folder / f"round-{number}",
            fabric=self.fabric,
            seed=self.seed,
            on_step=lambda step, total, figures: advance(done + step, in_all, figures),
            initial=initial,
            objective=scout_objective,
        )

    def refine(self, folder: Path, advance: Advance) -> StageOutcome:
        """Train the refiner; the witness tells whether it keeps the text."""
        settings, flops, images = self.config.simgan, 0, 0
        files: tuple[str, ...] = ("refiner.safetensors",)
        if not calibrates(self.config):
            witness = self._train_witness(folder / "witness", advance)
            flops, images = witness.flops, witness.images
            files += (f"witness/{READER}",)  # the reader's training begins with it
        size = settings.batch_size

        def synthetic(first: int) -> Iterator[Tensor]:
            return (images[:, :1] for images, _ in self._synthetic(_REFINE, size, first))

        def real(first: int) -> Iterator[Tensor]:
            return (images[:, :1] for images in self._real(size, first))

        recogniser = self._recogniser()
        result = train_refiner(
            synthetic=synthetic,
            real=real,
            folder=folder,
            fabric=self.fabric,
            seed=self.seed,
            settings=settings,
            on_step=advance,
            warn=self.warn,
            label_agreement=partial(label_agreement, recogniser),
            recogniser=recogniser,
        )
        if settings.consistency:
            flops += recognising_flops(self.config)
        return StageOutcome(
            files,
            {**result.figures, "warnings": list(result.alarms)},
            images=result.images + images,
            training_flops=result.flops + flops,
        )

    def read(self, folder: Path, advance: Advance) -> StageOutcome:
        """Train the reader on synthetic images, raw or refined."""
        settings = self.config.reader
        refiner: Refiner | None = None
        if settings.images == "refined":
            refiner = load_refiner(self.run / "refine" / "refiner.safetensors")
            refiner.to(self.fabric.device)
        attention = settings.kind == "attention"
        begins_trained = attention and (calibrates(self.config) or self.config.refine)
        # Where letters stand is known of synthetic images; telling it, too, teaches faster.
        posed = reads_poses(self.config)
        result = train_reader(
            lambda first: self._synthetic(_READ, settings.batch_size, first, refiner, posed=posed),
            reader_architecture(self.config, pose=posed),
            settings,
            folder=folder,
            fabric=self.fabric,
            seed=self.seed,
            on_step=advance,
            initial=self._witness() if begins_trained else None,
            objective=scout_objective if posed else character_objective,
        )
        refining = (
            0
            if refiner is None
            else result.images * count_forward_flops(refiner.settings, *self._size())
        )
        return self._save_reader(folder, result, refining)

    def adapt(self, folder: Path, advance: Advance) -> StageOutcome:
        """Self-train the reader on the real images, beside raw synthetic ones."""
        settings = self.config.adaptation
        reader, architecture = load_reader(self.run / "read" / READER)
        result = adapt_reader(
            reader,
            architecture,
            lambda first: self._real(settings.batch_size, first),
            lambda first: self._synthetic(_ADAPT, settings.synthetic_batch_size, first),
            settings,
            folder=folder,
            fabric=self.fabric,
            seed=self.seed,
            on_step=advance,
            absent=self.config.scheme.absent,
        )
        return self._save_reader(folder, result, 0)

    # What stages share.

    def images(self) -> GreyImages:
        """All captchas of the run, (N, H, W) ``uint8``, in content order."""
        return self.captchas()[1]

    def captchas(self) -> tuple[list[str], GreyImages]:
        """Names and images, as `load_images` gives them; read once."""
        if self._stored is None:
            self._stored = load_images(CaptchaStore(self.run / "store"), self.config.scheme)
        return self._stored

    def background(self) -> Background:
        """What the background stage found."""
        return Background.load(self.run / "background" / "background.npz")

    def calibration(self) -> Calibration | None:
        """What the calibrate stage found; None where there is none."""
        if not calibrates(self.config):
            return None
        return Calibration.load(self.run / "calibrate" / CALIBRATION)

    def simulator(self, calibration: Calibration | None = None) -> CaptchaSimulator:
        """The configured simulator, as a calibration found it or uncalibrated."""
        config = self.config
        if config.generator == "original":
            return OriginalSimulator(config.scheme, config.original_simulator, self.background())
        return Simulator(config.scheme, config.simulator, self.background(), calibration)

    def _synthetic(
        self,
        stream: int,
        size: int,
        first: int,
        refiner: Refiner | None = None,
        *,
        posed: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        simulator = self.simulator(self.calibration())
        if posed:
            assert isinstance(simulator, Simulator)
            simulator = PosedSimulator(simulator)
        for normalised, ids in self._batches(simulator, stream, size, first):
            if refiner is not None:
                with torch.no_grad(), self.fabric.autocast():
                    refined = refiner(normalised[:, :1].to(self.fabric.device)).float()
                normalised[:, :1] = refined.cpu()
            yield normalised, ids

    def _batches(
        self, simulator: CaptchaSimulator, stream: int, size: int, first: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        background = self.background()
        for images, targets in synthetic_batches(
            simulator,
            share(self.fabric, size),
            self.seed,
            stream=stream,
            first=first,
            workers=self.config.workers,
            rank=self.fabric.global_rank,
            processes=self.fabric.world_size,
        ):
            yield torch.from_numpy(background.normalise(images)), targets

    def _real(self, size: int, first: int) -> Iterator[Tensor]:
        background = self.background()
        rank, processes = self.fabric.global_rank, self.fabric.world_size
        for images in real_batches(
            self.images(), size, self.seed, first, rank=rank, processes=processes
        ):
            yield torch.from_numpy(background.normalise(images))

    def _train_witness(self, folder: Path, advance: Advance) -> ReaderResult:
        settings = brief_settings(self.config, self.config.witness_steps)
        result = train_reader(
            lambda first: self._synthetic(_WITNESS, settings.batch_size, first),
            reader_architecture(self.config),
            settings,
            folder=folder,
            fabric=self.fabric,
            seed=self.seed,
            on_step=advance,
        )
        if self.fabric.is_global_zero:
            save_reader(folder / READER, result.reader, reader_architecture(self.config))
        self.fabric.barrier()  # all read what the first one wrote
        return result

    def _witness(self) -> nn.Module:
        """A reader of raw images: it tells whether refining keeps the text."""
        folder = Path("calibrate") if calibrates(self.config) else Path("refine") / "witness"
        return load_reader(self.run / folder / READER)[0]

    def _recogniser(self) -> Recogniser:
        """What the witness reads of ink (B, 1, H, W): logits (B, L, K)."""
        device = self.fabric.device
        witness = self._witness().requires_grad_(False).to(device)
        mask = torch.from_numpy(self.background().normalise(self.images()[:1]))[:, 1:].to(device)

        def read(ink: Tensor) -> Tensor:
            return logits_of(witness(torch.cat([ink, mask.expand(len(ink), -1, -1, -1)], 1)))

        return read

    def _size(self) -> tuple[int, int]:
        return self.config.scheme.height, self.config.scheme.width

    def _save_reader(self, folder: Path, result: ReaderResult, extra_flops: int) -> StageOutcome:
        architecture = reader_architecture(self.config)
        if self.fabric.is_global_zero:
            save_reader(folder / READER, without_pose(result.reader, architecture), architecture)
        multiply_adds = count_flops(architecture, 1, backward=False) / 2
        return StageOutcome(
            (READER,),
            {**result.figures, "reading_mmac": round(multiply_adds / 1e6, 1)},
            images=result.images,
            training_flops=result.flops + extra_flops,
        )
