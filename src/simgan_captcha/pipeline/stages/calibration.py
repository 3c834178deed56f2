"""The stage that fits the simulator to the real images, round by round.

In each round the bootstrap recognizer trains on the simulator, calibrated by the round before, and
predicts texts and poses of real images. Glyphs and poses are fitted to these predictions. The first
successful round and the last one also fit the rendering. From the second round on, a round in which
the recognizer reads nearly all characters of real images with confidence is the last one.
"""

from dataclasses import replace
from pathlib import Path

from torch import nn

from simgan_captcha.atomic import write_bytes
from simgan_captcha.calibration.bootstrap import PosedSimulator, posed_objective, predict_poses
from simgan_captcha.calibration.calibrate import calibrate as make_calibration
from simgan_captcha.calibration.calibrate import glyph_sheet
from simgan_captcha.calibration.glyph_fit import SURE, GlyphFit
from simgan_captcha.calibration.look import ShapeSearch
from simgan_captcha.calibration.rendering_fit import RenderingFit, fit_rendering, start_rendering
from simgan_captcha.calibration.summary import summarise
from simgan_captcha.data.images import encode_png
from simgan_captcha.errors import TooLittleReadError
from simgan_captcha.pipeline.cost import pose_prediction_flops, recognizer_architecture
from simgan_captcha.pipeline.estimate import FAILURE
from simgan_captcha.pipeline.manifest import StageOutcome
from simgan_captcha.pipeline.run_data import RunData
from simgan_captcha.pipeline.run_folder import CALIBRATION, READER
from simgan_captcha.recognizer.decode import save_recognizer
from simgan_captcha.recognizer.train import TrainedRecognizer, TrainingSession, train_recognizer
from simgan_captcha.simulator.calibrated import UNKNOWN_CLUTTER, Calibration
from simgan_captcha.simulator.simulator import Shares, Simulator
from simgan_captcha.types import Floats, OnStep

_FEWEST = 2
"""Least number of rounds: only in the second are images drawn with calibrated glyphs."""
_NEARLY_ALL = 0.95
"""Share of confident characters from which on a further round has little to correct."""

_SHARES = Shares(uncalibrated=0.3)
"""Shares for the bootstrap recognizer. More images are uncalibrated than later, because early
calibrations are less reliable than the last one."""

_STREAM = 100  # random stream of synthetic images, plus the number of the round


def calibrate(data: RunData, folder: Path, advance: OnStep) -> StageOutcome:
    """Train the bootstrap recognizer and fit the simulator in each round.

    If there are several processes, all of them train and the first one fits.
    """
    rounds = _Rounds(data, folder, advance)
    for number in range(1, data.config.calibration.rounds + 1):
        rounds.train(number)
        if data.fabric.is_global_zero:
            rounds.fit(number)
        rounds.calibration, rounds.done = data.fabric.broadcast((rounds.calibration, rounds.done))
        if rounds.done:
            break
    return rounds.outcome() if data.fabric.is_global_zero else StageOutcome(())


class _Rounds:
    """The state of calibration from round to round."""

    def __init__(self, data: RunData, folder: Path, advance: OnStep) -> None:
        self.data, self.folder, self.advance = data, folder, advance
        self.settings, self.background = data.config.calibration, data.background()
        # The distilled recognizer would hand on the generalist's mistakes.
        self.bootstrap: nn.Module | None = None
        self.trained: TrainedRecognizer | None = None
        self.found: GlyphFit | None = None
        self.rendered: RenderingFit | None = None
        self.calibration: Calibration | None = None
        self.glyphs: Floats | None = None
        self.formed = False  # whether calibrated letters have forms
        self.done = False  # whether the latest round is the last one
        self.failure = ""  # why nothing was calibrated
        self.warnings: list[str] = []
        self.flops = self.seen = 0

    def steps(self, rounds: int) -> tuple[int, int]:
        """Training steps of the first rounds, and of all."""
        return sum(self.settings.steps_of_rounds[:rounds]), sum(self.settings.steps_of_rounds)

    def train(self, number: int) -> None:
        """Train the bootstrap recognizer on the simulator as the last round calibrated it."""
        data, config = self.data, self.data.config
        done, total = self.steps(number - 1)
        settings = config.brief_training(self.settings.steps_of_rounds[number - 1])
        simulator = PosedSimulator(
            Simulator(
                config.scheme, config.simulator, self.background, self.calibration, shares=_SHARES
            )
        )
        self.trained = train_recognizer(
            lambda first: data.batches(simulator, _STREAM + number, settings.batch_size, first),
            recognizer_architecture(config, pose=True),
            settings,
            TrainingSession(
                self.folder / f"round-{number}",
                data.fabric,
                data.seed,
                lambda step, _, figures: self.advance(done + step, total, figures),
            ),
            initial=self.bootstrap,
            objective=posed_objective,
        )
        self.bootstrap = self.trained.reader
        self.flops += self.trained.flops
        self.seen += self.trained.images

    def fit(self, number: int) -> None:
        """Fit glyphs, poses and rendering to the predictions, and save them."""
        of_round = self.fit_glyphs(number)
        found = self.found
        assert found is not None
        if self.rendered is None:
            rendering, clutter = start_rendering(self.background), UNKNOWN_CLUTTER
        else:
            rendering, clutter = self.rendered.values, self.rendered.clutter
        try:
            self.calibration = make_calibration(
                found.glyphs, found.poses, found.kept, found.settled, rendering, clutter
            )
        except TooLittleReadError as error:
            if number == self.settings.rounds:
                if not self.data.config.begins_pretrained:
                    raise
                self.failure = str(error)
                return
            self.done = False
            # The next round trains with the given ranges, or with an earlier calibration.
            early = f"round {number} of {self.settings.rounds} read too little with confidence"
            self.warnings.append(
                f"{early} to calibrate with; the bootstrap recognizer was trained further"
            )
            self.data.warn(self.warnings[-1])
            return
        self.glyphs, self.formed = found.glyphs, bool(self.calibration.formed.any())
        self.warnings += of_round
        if self.rendered is None or self.done:
            self.fit_rendering(number)
        self.save()

    def fit_glyphs(self, number: int) -> list[str]:
        """Fit glyphs and poses; describe recovered and renamed glyphs in words."""
        config, settings = self.data.config, self.settings
        images = self.data.images[: settings.images]
        normalised = self.background.normalise(images)
        assert self.bootstrap is not None

        def on_epoch(epoch: int, epochs: int, misfit: float) -> None:
            left = float(epochs - epoch)
            self.advance(*self.steps(number), {"glyph_epochs_left": left, "misfit": misfit})

        search = ShapeSearch(
            normalised,
            config.scheme,
            config.simulator,
            self.data.seed,
            # Later rounds begin with the glyphs of the round before.
            epochs=settings.epochs if self.glyphs is None else max(2, settings.epochs // 2),
            on_epoch=on_epoch,
        )
        predicted = predict_poses(self.bootstrap, normalised, config.scheme)
        confident = float((predicted.probabilities.max(-1) > SURE).mean())
        enough = number >= _FEWEST and confident > _NEARLY_ALL
        self.done = enough or number == settings.rounds
        self.found, warnings = search.find(predicted, self.glyphs, formed=self.formed)
        self.flops += pose_prediction_flops(config, len(images))
        self.seen += len(images)
        return warnings

    def fit_rendering(self, number: int) -> None:
        """Fit ink, blur, codec and clutter to the statistics of real images."""
        config, settings = self.data.config, self.settings
        assert self.calibration is not None

        def on_evaluation(done: int, total: int) -> None:
            left = float(total - done)
            self.advance(*self.steps(number), {"rendering_candidates_left": left})

        self.rendered = fit_rendering(
            self.data.images[: min(settings.images, settings.rendering_images)],
            self.background,
            config.scheme,
            self.calibration,
            self.data.seed,
            # A repeated fit starts from values that nearly fit.
            evaluations=settings.rendering_evaluations // (1 if self.rendered is None else 2),
            on_evaluation=on_evaluation,
        )
        self.calibration = replace(
            self.calibration, rendering=self.rendered.values, clutter=self.rendered.clutter
        )

    def save(self) -> None:
        """Save the calibration so far; later rounds replace it."""
        assert self.calibration is not None
        assert self.bootstrap is not None
        self.calibration.save(self.folder / CALIBRATION)
        sheet = glyph_sheet(self.calibration.glyphs)
        write_bytes(self.folder / "glyphs.png", encode_png(sheet))
        architecture = recognizer_architecture(self.data.config, pose=True)
        save_recognizer(self.folder / READER, self.bootstrap, architecture)

    def outcome(self) -> StageOutcome:
        """The result after the last round."""
        config = self.data.config
        if self.failure:
            warning = f"the run goes on with the generalist alone: {self.failure}"
            self.data.warn(warning)
            result = {FAILURE: self.failure, "warnings": [*self.warnings, warning]}
            return StageOutcome((), result, images=self.seen, training_flops=self.flops)
        assert self.trained is not None
        assert self.found is not None
        assert self.calibration is not None
        assert self.rendered is not None
        summary = summarise(
            self.found,
            self.calibration,
            self.rendered,
            config.scheme.alphabet,
            config.simulator,
            self.data.seed,
        )
        # Rounds may give the same warnings.
        summary["warnings"] = list(dict.fromkeys([*self.warnings, *summary["warnings"]]))
        for warning in summary["warnings"]:
            self.data.warn(warning)
        return StageOutcome(
            (CALIBRATION, READER),
            {**self.trained.figures, **summary},
            images=self.seen,
            training_flops=self.flops,
        )
