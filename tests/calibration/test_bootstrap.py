from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from simgan_captcha.calibration.bootstrap import (
    MIDDLES_WEIGHT,
    PosedSimulator,
    pose_targets,
    posed_objective,
    predict_poses,
    without_pose,
)
from simgan_captcha.calibration.calibrate import calibrate
from simgan_captcha.calibration.drawing.poses import Poses
from simgan_captcha.calibration.glyph_fit import fit_glyphs
from simgan_captcha.calibration.rendering_fit import start_rendering
from simgan_captcha.recognizer.decode import BATCH, load_recognizer, save_recognizer
from simgan_captcha.recognizer.network import (
    MAP_STRIDE,
    AttentionRecognizer,
    PosedOutput,
    RecognizerArchitecture,
    build_recognizer,
    map_size,
)
from simgan_captcha.recognizer.settings import RecognizerSettings
from simgan_captcha.recognizer.train import TrainingSession, train_recognizer
from simgan_captcha.scheme import HACKMIT_2017, Scheme
from simgan_captcha.simulator.settings import SimulatorSettings
from simgan_captcha.simulator.simulator import DrawParameters, Simulator
from simgan_captcha.training.streams import LabelledStream, synthetic_batches
from simgan_captcha.types import Floats
from tests.drawing import plain
from tests.recognizer.training_case import cpu, quiet, same_weights
from tests.small_run import SCHEME, shaded

CLASSES = len(SCHEME.alphabet)
POSITIONS = 6 * 12
DRAWING = SimulatorSettings(
    fonts=("caladea-bold", "roboto-black"),
    size=(18, 20),
    horizontal=(-0.3, 0.3),
    vertical=(0.3, 0.7),
    jpeg_quality=(90, 95),
)
ARCHITECTURE = RecognizerArchitecture(24, 48, 2, CLASSES, channels=(8, 8, 16, 16, 32), pose=True)
SETTINGS = RecognizerSettings(
    channels=ARCHITECTURE.channels,
    batch_size=32,
    steps=800,
    learning_rate=1e-2,
    ema_decay=0.95,
    checkpoint_every=1000,
)


def drawn(count: int, seed: int = 1, **changes: Any) -> tuple[Simulator, DrawParameters]:
    simulator = Simulator(SCHEME, DRAWING.model_copy(update=changes), shaded())
    return simulator, simulator.draw_parameters(np.random.default_rng(seed), count)


# Targets and their meaning.


class Knowing(nn.Module):
    """A bootstrap recognizer that returns entry n of a list for the image with mark n."""

    def __init__(self, outputs: PosedOutput) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: Tensor) -> PosedOutput:
        assert not self.training
        assert len(images) <= BATCH
        marks = images[:, 0, 0, 0].long()
        return PosedOutput(*(output[marks] for output in self.outputs))


def test_perfect_predictions_are_the_drawn_poses() -> None:
    simulator = Simulator(HACKMIT_2017, SimulatorSettings(), plain())
    parameters = simulator.draw_parameters(np.random.default_rng(0), BATCH + 50)
    targets = pose_targets(parameters, HACKMIT_2017)
    assert targets.shape == (BATCH + 50, 4, 5)
    assert targets.dtype == np.float32
    assert np.abs(targets[..., 1:4]).max() < 1.1
    classes = np.eye(36, dtype=np.float32)[parameters.ids]
    known = PosedOutput(
        torch.from_numpy(classes * 20),
        torch.from_numpy(targets[..., 1:4]),
        torch.zeros(BATCH + 50, 1, 37),
        torch.zeros(BATCH + 50, 1),
    )

    marked = np.zeros((BATCH + 50, 2, 50, 100), np.float32)
    marked[:, 0, 0, 0] = np.arange(BATCH + 50)
    poses = predict_poses(Knowing(known).train(), marked, HACKMIT_2017)
    np.testing.assert_allclose(poses.probabilities, classes, atol=1e-6)
    for name in ("x", "y", "rotation"):
        said, meant = getattr(poses, name), getattr(parameters, name)
        np.testing.assert_allclose(said, meant, atol=1e-4)
        assert said.dtype == np.float32


def test_a_posed_simulator_draws_the_same_images() -> None:
    simulator, parameters = drawn(20)
    images, targets = PosedSimulator(simulator).batch(np.random.default_rng(1), 20)
    np.testing.assert_array_equal(images, simulator.render(parameters))
    np.testing.assert_array_equal(targets, pose_targets(parameters, SCHEME))
    np.testing.assert_array_equal(targets[..., 0], parameters.ids)


def test_both_coordinates_have_the_same_unit() -> None:
    _, parameters = drawn(3)
    wide = HACKMIT_2017.model_copy(update={"alphabet": SCHEME.alphabet, "length": 2, "height": 30})
    moved = replace(parameters, x=parameters.x + 5, y=parameters.y + 5)
    apart = pose_targets(moved, wide) - pose_targets(parameters, wide)
    np.testing.assert_allclose(apart[..., 1:3], 5 / (wide.width / 2), atol=1e-6)


def test_a_centre_has_its_position_on_the_map() -> None:
    _, parameters = drawn(3)
    x = np.array([[0, 47.9], [3.9, 4], [24, -1]], np.float32)
    y = np.array([[0, 23.9], [3.9, 4], [12, 12]], np.float32)
    assert MAP_STRIDE == 4
    assert map_size(SCHEME.height, SCHEME.width) == (6, 12)
    positions = pose_targets(replace(parameters, x=x, y=y), SCHEME)[..., 4]
    np.testing.assert_array_equal(positions, [[0, 71], [0, 13], [3 * 12 + 6, -1]])


def perfect_outputs(targets: Floats) -> tuple[PosedOutput, Tensor]:
    """The outputs of a perfect bootstrap recognizer for drawn images."""
    truth = torch.from_numpy(targets)
    ids, positions = truth[..., 0].long(), truth[..., 4].long()
    logits = 20 * nn.functional.one_hot(ids, CLASSES).float()
    none = nn.functional.one_hot(torch.tensor(CLASSES), CLASSES + 1)
    middles = none.repeat(len(targets), POSITIONS, 1)
    for n, slot in np.ndindex(*ids.shape):  # a later letter covers an earlier one
        middles[n, positions[n, slot]] = nn.functional.one_hot(ids[n, slot], CLASSES + 1)
    _, columns = map_size(SCHEME.height, SCHEME.width)
    assert (positions >= 0).all()
    before = (positions % columns)[..., None] - torch.arange(columns)
    count = ((before < 0).float() + 0.5 * (before == 0)).sum(1)
    return PosedOutput(logits, truth[..., 1:4].clone(), 20.0 * middles, count), truth


def test_perfect_predictions_have_no_loss() -> None:
    outputs, targets = perfect_outputs(pose_targets(drawn(50)[1], SCHEME))
    loss, figures = posed_objective(outputs, targets)
    assert 0 <= loss.item() < 1e-6
    assert figures["accuracy"].item() == 1
    assert figures["turn_error_degrees"].item() == 0


@pytest.mark.parametrize("number", range(3))
def test_a_wrong_pose_has_a_loss_and_an_error_in_degrees(number: int) -> None:
    outputs, targets = perfect_outputs(pose_targets(drawn(50)[1], SCHEME))
    outputs.pose[..., number] += torch.tensor([0.2, -0.2])  # one slot in each direction
    loss, figures = posed_objective(outputs, targets)
    assert loss.item() == pytest.approx(0.1, abs=1e-5)
    assert figures["loss"].item() < 1e-6
    assert figures["turn_error_degrees"].item() == pytest.approx(9 * (number == 2), abs=1e-4)


def test_a_wrong_class_has_a_loss_and_lowers_accuracy() -> None:
    outputs, targets = perfect_outputs(pose_targets(drawn(50)[1], SCHEME))
    outputs.logits[:, 0] = outputs.logits[:, 0].roll(1, -1)
    loss, figures = posed_objective(
        PosedOutput(*(output.bfloat16() for output in outputs)), targets
    )
    assert loss.item() == pytest.approx(10, abs=0.1)
    assert figures["accuracy"].item() == 0.5
    assert all(torch.isfinite(figure) for figure in figures.values())


def test_missed_centres_weigh_as_much_as_empty_positions() -> None:
    """There are many more empty positions than letters."""
    targets = pose_targets(drawn(50)[1], SCHEME)
    outputs, truth = perfect_outputs(targets)
    blind = outputs.middles.clone()
    blind[..., :] = 0
    blind[..., CLASSES] = 20  # nothing anywhere
    loss, figures = posed_objective(outputs._replace(middles=blind), truth)
    assert loss.item() == pytest.approx(MIDDLES_WEIGHT * 20 / 2, rel=0.1)
    assert figures["accuracy"].item() == 1


def test_a_count_that_is_one_too_high_has_a_loss_of_one() -> None:
    outputs, truth = perfect_outputs(pose_targets(drawn(50)[1], SCHEME))
    loss, _ = posed_objective(outputs._replace(counts=outputs.counts + 1), truth)
    assert loss.item() == pytest.approx(1, abs=1e-4)


def test_letters_outside_the_image_have_no_centre() -> None:
    _, parameters = drawn(20)
    away = pose_targets(replace(parameters, x=parameters.x + 100), SCHEME)
    assert (away[..., 4] == -1).all()
    outputs, truth = perfect_outputs(pose_targets(parameters, SCHEME))
    empty = torch.zeros_like(outputs.middles)
    empty[..., CLASSES] = 20
    truth = torch.cat([truth[..., :4], torch.from_numpy(away[..., 4:])], -1)
    nobody = outputs._replace(middles=empty, counts=torch.zeros_like(outputs.counts))
    assert posed_objective(nobody, truth)[0].item() < 1e-6
    assert posed_objective(outputs, truth)[0].item() > 0.1


# The network.


def test_a_bootstrap_recognizer_has_more_outputs_than_a_recognizer() -> None:
    bootstrap = build_recognizer(ARCHITECTURE).eval()
    reader = without_pose(bootstrap.train(), replace(ARCHITECTURE, pose=False))
    assert not reader.training
    bootstrap.eval()
    images = torch.rand(3, 2, 24, 48) * 2 - 1
    outputs = bootstrap(images)
    assert isinstance(outputs, PosedOutput)
    assert outputs.logits.shape == (3, 2, CLASSES)
    assert outputs.pose.shape == (3, 2, 3)
    assert outputs.middles.shape == (3, POSITIONS, CLASSES + 1)
    torch.testing.assert_close(outputs.logits, reader(images))
    assert isinstance(reader, AttentionRecognizer)
    assert reader.pose is None


# A trained bootstrap recognizer.


@dataclass(frozen=True)
class Learned:
    bootstrap: nn.Module
    figures: dict[str, float]


def stream(simulator: PosedSimulator) -> LabelledStream:
    background = shaded()

    def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in synthetic_batches(simulator, 32, 1, stream=1, first=first):
            yield torch.from_numpy(background.normalise(images)), targets

    return batches


def train_bootstrap(
    folder: Path, steps: int, on_step: Callable[[int, int, dict[str, float]], None] = quiet
) -> Learned:
    result = train_recognizer(
        stream(PosedSimulator(drawn(1)[0])),
        ARCHITECTURE,
        SETTINGS.model_copy(update={"steps": steps}),
        TrainingSession(folder, cpu(), 1, on_step),
        objective=posed_objective,
    )
    return Learned(result.reader, result.figures)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    return train_bootstrap(tmp_path_factory.mktemp("bootstrap"), SETTINGS.steps)


def look(bootstrap: nn.Module, simulator: Simulator, parameters: DrawParameters) -> Poses:
    normalised = simulator.background.normalise(simulator.render(parameters))
    return predict_poses(bootstrap, normalised, SCHEME)


def error(said: npt.NDArray[Any], meant: npt.NDArray[Any]) -> float:
    return float(np.abs(said - meant).mean())


def test_a_bootstrap_recognizer_learns_classes_and_poses(learned: Learned) -> None:
    simulator, parameters = drawn(500, seed=2)
    poses = look(learned.bootstrap, simulator, parameters)
    assert (poses.probabilities.argmax(-1) == parameters.ids).mean() > 0.9
    for name in ("x", "y"):
        said, meant = getattr(poses, name), getattr(parameters, name)
        guess = np.median(meant, axis=0, keepdims=True)
        assert error(said, meant) < 0.5 * error(guess, meant), name
    assert np.corrcoef(poses.rotation.flat, parameters.rotation.flat)[0, 1] > 0.7
    assert learned.figures.keys() >= {"loss", "accuracy", "turn_error_degrees"}
    assert all(np.isfinite(value) for value in learned.figures.values())


def test_predictions_for_narrower_images_calibrate(learned: Learned) -> None:
    turns = []
    for rotation in ((-30.0, -10.0), (10.0, 30.0)):
        simulator, parameters = drawn(
            250, seed=3, rotation=rotation, horizontal=(0.0, 0.2), vertical=(0.4, 0.5)
        )
        images = simulator.background.normalise(simulator.render(parameters))
        poses = predict_poses(learned.bootstrap, images, SCHEME)
        fit = fit_glyphs(images, poses, seed=0, epochs=8)
        rendering = start_rendering(simulator.background)
        found = calibrate(fit.glyphs, fit.poses, fit.kept, fit.settled, rendering)
        assert found.found.all()
        share = (0.05, 0.5, 0.95)
        for number, meant in enumerate((parameters.x, parameters.y)):
            said, true = (np.quantile(v, share, axis=0) for v in (found.poses[..., number], meant))
            np.testing.assert_allclose(said, true, atol=1.5)
        turns.append(np.median(found.poses[..., 2]))
    assert turns[0] + 4 < turns[1]


def test_a_recognizer_starts_from_the_bootstrap_weights(learned: Learned, tmp_path: Path) -> None:
    save_recognizer(tmp_path / "bootstrap.safetensors", learned.bootstrap, ARCHITECTURE)
    bootstrap, architecture = load_recognizer(tmp_path / "bootstrap.safetensors")
    assert architecture == ARCHITECTURE
    assert same_weights(bootstrap, learned.bootstrap)

    simulator, parameters = drawn(200, seed=4)
    images = torch.from_numpy(simulator.background.normalise(simulator.render(parameters)))

    def ids(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield images[:32], torch.from_numpy(parameters.ids[:32])

    reader = train_recognizer(
        ids,
        replace(ARCHITECTURE, pose=False),
        SETTINGS.model_copy(update={"steps": 1, "learning_rate": 1e-9}),
        TrainingSession(tmp_path, cpu(), 1, quiet),
        initial=bootstrap,
    ).reader
    with torch.inference_mode():
        logits = reader(images)
    assert logits.shape == (200, 2, CLASSES)
    assert (logits.argmax(-1).numpy() == parameters.ids).mean() > 0.9


def test_empty_slots_have_no_pose_to_learn() -> None:
    scheme = Scheme(alphabet="abc1", length=(1, 3), width=60, height=24)
    simulator = Simulator(
        scheme, SimulatorSettings(fonts=("roboto-black",), size=(12, 12)), plain(60, 24)
    )
    _, targets = PosedSimulator(simulator).batch(np.random.default_rng(1), 40)
    blank = targets[..., 0] == scheme.blank
    assert 0 < blank.sum() < blank.size
    assert np.isnan(targets[blank][:, 1:4]).all()
    assert (targets[blank][:, 4] == -1).all()
    assert np.isfinite(targets[~blank]).all()

    rows, columns = map_size(24, 60)
    logits = torch.zeros(40, 3, 5, requires_grad=True)
    pose = torch.full((40, 3, 3), 0.3, requires_grad=True)
    middles = torch.zeros(40, rows * columns, 6, requires_grad=True)
    count = torch.zeros(40, columns)
    loss, figures = posed_objective(
        PosedOutput(logits, pose, middles, count), torch.from_numpy(np.asarray(targets))
    )
    loss.backward()
    assert logits.grad is not None
    assert pose.grad is not None
    assert middles.grad is not None
    for gradient in (logits.grad, pose.grad, middles.grad):
        assert torch.isfinite(gradient).all()
    assert not pose.grad[torch.from_numpy(blank)].any()
    assert pose.grad[torch.from_numpy(~blank)].abs().min() > 0
    error = np.abs(0.3 - targets[~blank][:, 3]).mean() * 45
    assert figures["turn_error_degrees"].item() == pytest.approx(error, rel=1e-3)
