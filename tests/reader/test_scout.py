from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from simgan_captcha.calibrate import Floats, Poses, calibrate
from simgan_captcha.reader.network import AttentionReader, ReaderArchitecture, build_reader
from simgan_captcha.reader.reading import BATCH, load_reader, save_reader
from simgan_captcha.reader.scout import (
    POSE,
    PosedSimulator,
    pose_targets,
    scout_images,
    scout_objective,
)
from simgan_captcha.reader.training import LabelledStream, ReaderSettings, train_reader
from simgan_captcha.scheme import HACKMIT_2017
from simgan_captcha.simulator import DrawParameters, Simulator, SimulatorSettings
from simgan_captcha.streams import synthetic_batches
from tests.drawing import plain
from tests.reader.training_case import cpu, quiet, same_weights
from tests.small_run import SCHEME, shaded

CLASSES = len(SCHEME.alphabet)
DRAWING = SimulatorSettings(
    fonts=("caladea-bold", "roboto-black"),
    size=(18, 20),
    horizontal=(-0.3, 0.3),
    vertical=(0.3, 0.7),
    jpeg_quality=(90, 95),
)
ARCHITECTURE = ReaderArchitecture(24, 48, 2, CLASSES, channels=(8, 8, 16, 16, 32), pose=True)
SETTINGS = ReaderSettings(
    channels=ARCHITECTURE.channels,
    batch_size=32,
    steps=400,
    learning_rate=1e-2,
    ema_decay=0.95,
    checkpoint_every=1000,
)


def drawn(count: int, seed: int = 1, **changes: Any) -> tuple[Simulator, DrawParameters]:
    simulator = Simulator(SCHEME, DRAWING.model_copy(update=changes), shaded())
    return simulator, simulator.draw_parameters(np.random.default_rng(seed), count)


# Targets and what they mean.


class Knowing(nn.Module):
    """Says of the image that is marked n what stands at n in a list."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert len(images) <= BATCH
        return self.outputs[images[:, 0, 0, 0].long()]


def test_what_a_perfect_scout_says_is_what_was_drawn() -> None:
    simulator = Simulator(HACKMIT_2017, SimulatorSettings(), plain())
    parameters = simulator.draw_parameters(np.random.default_rng(0), BATCH + 50)
    targets = pose_targets(parameters, HACKMIT_2017)
    assert targets.shape == (BATCH + 50, 4, 1 + POSE)
    assert targets.dtype == np.float32
    assert np.abs(targets[..., 1:]).max() < 1.1
    classes = np.eye(36, dtype=np.float32)[parameters.ids]
    known = torch.from_numpy(np.concatenate([classes * 20, targets[..., 1:]], -1))

    marked = np.zeros((BATCH + 50, 2, 50, 100), np.float32)
    marked[:, 0, 0, 0] = np.arange(BATCH + 50)
    poses = scout_images(Knowing(known).train(), marked, HACKMIT_2017)
    np.testing.assert_allclose(poses.probabilities, classes, atol=1e-6)
    for name in ("x", "y", "rotation"):
        said, meant = getattr(poses, name), getattr(parameters, name)
        np.testing.assert_allclose(said, meant, atol=1e-4)
        assert said.dtype == np.float32


def test_a_posed_simulator_draws_what_its_simulator_draws() -> None:
    simulator, parameters = drawn(20)
    images, targets = PosedSimulator(simulator).batch(np.random.default_rng(1), 20)
    np.testing.assert_array_equal(images, simulator.render(parameters))
    np.testing.assert_array_equal(targets, pose_targets(parameters, SCHEME))
    np.testing.assert_array_equal(targets[..., 0], parameters.ids)


def perfect_outputs(targets: Floats) -> tuple[Tensor, Tensor]:
    logits = 20 * nn.functional.one_hot(torch.from_numpy(targets[..., 0]).long(), CLASSES)
    told = torch.from_numpy(targets)
    return torch.cat([logits.float(), told[..., 1:]], -1), told


def test_perfection_costs_nothing() -> None:
    outputs, targets = perfect_outputs(pose_targets(drawn(50)[1], SCHEME))
    loss, figures = scout_objective(outputs, targets)
    assert 0 <= loss.item() < 1e-6
    assert figures["accuracy"].item() == 1
    assert figures["turn_error_degrees"].item() == 0


@pytest.mark.parametrize("number", range(POSE))
def test_a_wrong_pose_costs_and_is_told_in_degrees(number: int) -> None:
    outputs, targets = perfect_outputs(pose_targets(drawn(50)[1], SCHEME))
    outputs[..., CLASSES + number] += torch.tensor([0.2, -0.2])  # one slot each way
    loss, figures = scout_objective(outputs, targets)
    assert loss.item() == pytest.approx(0.1, abs=1e-5)
    assert figures["loss"].item() < 1e-6
    assert figures["turn_error_degrees"].item() == pytest.approx(9 * (number == 2), abs=1e-4)


def test_a_wrong_class_costs_and_counts() -> None:
    outputs, targets = perfect_outputs(pose_targets(drawn(50)[1], SCHEME))
    outputs[:, 0, :CLASSES] = outputs[:, 0, :CLASSES].roll(1, -1)
    loss, figures = scout_objective(outputs.bfloat16(), targets)
    assert loss.item() == pytest.approx(10, abs=0.1)
    assert figures["accuracy"].item() == 0.5
    assert all(torch.isfinite(figure) for figure in figures.values())


# The network.


def test_poses_stand_behind_the_logits_of_the_same_reader() -> None:
    scout = build_reader(ARCHITECTURE).eval()
    reader = build_reader(replace(ARCHITECTURE, pose=False)).eval()
    weights = scout.state_dict()
    reader.load_state_dict({name: weights[name] for name in reader.state_dict()})
    images = torch.rand(3, 2, 24, 48) * 2 - 1
    outputs = scout(images)
    assert outputs.shape == (3, 2, CLASSES + POSE)
    torch.testing.assert_close(outputs[..., :CLASSES], reader(images))
    assert isinstance(reader, AttentionReader)
    assert reader.pose is None


# A scout that has learned.


@dataclass(frozen=True)
class Learned:
    scout: nn.Module
    figures: dict[str, float]


def stream(simulator: PosedSimulator) -> LabelledStream:
    background = shaded()

    def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, targets in synthetic_batches(simulator, 32, 1, stream=1, first=first):
            yield torch.from_numpy(background.normalise(images)), targets

    return batches


def train_scout(
    folder: Path, steps: int, on_step: Callable[[int, int, dict[str, float]], None] = quiet
) -> Learned:
    result = train_reader(
        stream(PosedSimulator(drawn(1)[0])),
        ARCHITECTURE,
        SETTINGS.model_copy(update={"steps": steps}),
        folder=folder,
        fabric=cpu(),
        seed=1,
        on_step=on_step,
        objective=scout_objective,
    )
    return Learned(result.reader, result.figures)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    return train_scout(tmp_path_factory.mktemp("scout"), SETTINGS.steps)


def look(scout: nn.Module, simulator: Simulator, parameters: DrawParameters) -> Poses:
    normalised = simulator.background.normalise(simulator.render(parameters))
    return scout_images(scout, normalised, SCHEME)


def error(said: npt.NDArray[Any], meant: npt.NDArray[Any]) -> float:
    return float(np.abs(said - meant).mean())


def test_a_scout_learns_classes_places_and_turns(learned: Learned) -> None:
    simulator, parameters = drawn(500, seed=2)
    poses = look(learned.scout, simulator, parameters)
    assert (poses.probabilities.argmax(-1) == parameters.ids).mean() > 0.9
    for name in ("x", "y"):
        said, meant = getattr(poses, name), getattr(parameters, name)
        guess = np.median(meant, axis=0, keepdims=True)
        assert error(said, meant) < 0.5 * error(guess, meant), name
    # Turns of letters this small are hard to see.
    assert np.corrcoef(poses.rotation.flat, parameters.rotation.flat)[0, 1] > 0.4
    assert learned.figures.keys() >= {"loss", "accuracy", "turn_error_degrees"}
    assert all(np.isfinite(value) for value in learned.figures.values())


def test_what_it_says_of_narrower_images_calibrates(learned: Learned) -> None:
    turns = []
    for rotation in ((-30.0, -10.0), (10.0, 30.0)):
        simulator, parameters = drawn(
            250, seed=3, rotation=rotation, horizontal=(0.0, 0.2), vertical=(0.4, 0.5)
        )
        images = simulator.background.normalise(simulator.render(parameters))
        found = calibrate(images, scout_images(learned.scout, images, SCHEME), seed=0)
        assert found.found.all()
        share = (0.05, 0.5, 0.95)
        x, y = np.quantile(parameters.x, share, axis=0).T, np.quantile(parameters.y, share)
        np.testing.assert_allclose(found.x[:, [5, 50, 95]], x, atol=1.5)
        np.testing.assert_allclose(found.y[[5, 50, 95]], y, atol=1.5)
        turns.append(found.rotation[50])
    assert turns[0] + 4 < turns[1]


def test_a_reader_begins_with_what_the_scout_learned(learned: Learned, tmp_path: Path) -> None:
    save_reader(tmp_path / "scout.safetensors", learned.scout, ARCHITECTURE)
    scout, architecture = load_reader(tmp_path / "scout.safetensors")
    assert architecture == ARCHITECTURE
    assert same_weights(scout, learned.scout)

    simulator, parameters = drawn(200, seed=4)
    images = torch.from_numpy(simulator.background.normalise(simulator.render(parameters)))

    def ids(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield images[:32], torch.from_numpy(parameters.ids[:32])

    reader = train_reader(
        ids,
        replace(ARCHITECTURE, pose=False),
        SETTINGS.model_copy(update={"steps": 1, "learning_rate": 1e-9}),
        folder=tmp_path,
        fabric=cpu(),
        seed=1,
        on_step=quiet,
        initial=scout,
    ).reader
    with torch.inference_mode():
        logits = reader(images)
    assert logits.shape == (200, 2, CLASSES)
    assert (logits.argmax(-1).numpy() == parameters.ids).mean() > 0.9
