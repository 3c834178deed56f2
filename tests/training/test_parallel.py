"""Training with several real processes, started by torchrun on loopback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import safetensors.torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.testing import assert_close

from simgan_captcha.errors import ConfigError
from simgan_captcha.inference.readings import load_readings
from simgan_captcha.pipeline.run_folder import READINGS
from simgan_captcha.training.parallel import share
from tests.calibration.test_stage import CALIBRATING
from tests.commands import command, real_command
from tests.recognizer.training_case import cpu
from tests.small_run import SCHEME, draw_captchas, run_arguments, write_challenges
from tests.training.parallel_case import PROCESSES, measure

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two processes."""
    folder = tmp_path_factory.mktemp("together")
    done = subprocess.run(
        [*TORCHRUN, str(PROCESSES), "-m", "tests.training.parallel_case", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The results of one process with the joint batches."""
    return measure(cpu(), tmp_path_factory.mktemp("alone"))


def made(together: Path, rank: int) -> dict[str, Tensor]:
    return safetensors.torch.load_file(together / f"process-{rank}.safetensors")


def test_gradients_and_statistics_are_those_of_the_joint_batch(
    together: Path, alone: dict[str, Tensor]
) -> None:
    wanted = {name: tensor for name, tensor in alone.items() if "/" in name}
    assert sum(name.startswith("gradient") for name in wanted) > 20
    assert any(tensor.abs().max() > 1e-3 for tensor in wanted.values())
    for rank in range(PROCESSES):
        found = made(together, rank)
        for name, tensor in wanted.items():
            assert_close(found[name], tensor, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("what", ["read", "adapted", "refined change"])
def test_two_processes_train_the_same_networks_as_one(
    together: Path, alone: dict[str, Tensor], what: str
) -> None:
    assert alone[what].abs().max() > 1e-3  # training changed the output
    for rank in range(PROCESSES):
        largest = alone[what].abs().max().item()
        assert_close(made(together, rank)[what], alone[what], rtol=0, atol=0.02 * largest)


def test_only_the_first_process_writes(together: Path) -> None:
    stages = {path.parent.name for path in (together / "trained").rglob("checkpoint.safetensors")}
    assert stages == {"read", "adapt", "refine"}
    assert not list((together / "of another process").rglob("*"))


def test_a_batch_must_be_divisible() -> None:
    three = cast(Fabric, SimpleNamespace(world_size=3))
    assert share(three, 30) == 10
    for size in (32, 3):
        with pytest.raises(ConfigError, match=f"each of 3 processes .*got {size}"):
            share(three, size)


# The command.


@pytest.fixture(scope="module")
def challenges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("challenges") / "of-someone"
    write_challenges(folder, draw_captchas(96))
    return folder


def test_the_demo_is_for_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    command("demo", tmp_path / "run").error(2, "expected one process")


def test_a_lost_process_ends_the_run_which_can_be_resumed(tmp_path: Path, challenges: Path) -> None:
    run = tmp_path / "run"
    arguments = run_arguments(run, challenges, "adaptation.steps=400", "recognizer.steps=60")
    started = [*TORCHRUN, str(PROCESSES), "-m", "simgan_captcha", *arguments]
    figures = run / "adapt" / "metrics.jsonl"
    with subprocess.Popen(started, stderr=subprocess.PIPE, text=True) as torchrun:
        while torchrun.poll() is None and not (
            figures.exists() and figures.read_bytes().count(b"\n") > 5
        ):
            time.sleep(0.02)
        assert torchrun.poll() is None, torchrun.communicate()
        os.kill(other_process(torchrun.pid), signal.SIGKILL)
        _, said = torchrun.communicate(timeout=120)
    assert torchrun.returncode != 0
    assert "[rank" not in said  # only torchrun prints a traceback
    assert not (run / READINGS).exists()

    # Two processes continue, or only one.
    finished = subprocess.run(
        [*started, "--set", "adaptation.steps=8"], capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    together = load_readings(run / READINGS)
    assert len(together) == 96
    assert all(len(reading.text) == SCHEME.max_length for reading in together)
    again = real_command("run", run)
    assert again.code == 0, again.err
    assert "adapt      done before" in again.err
    assert load_readings(run / READINGS) == together


def test_one_process_leads_calibration_and_the_others_help(tmp_path: Path) -> None:
    write_challenges(tmp_path / "challenges", draw_captchas(300))
    run = tmp_path / "run"
    arguments = run_arguments(run, tmp_path / "challenges", *CALIBRATING)
    command = [*TORCHRUN, str(PROCESSES), "-m", "simgan_captcha", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert len(load_readings(run / READINGS)) == 300
    rounds = sorted(path.name for path in (run / "calibrate").glob("round-*"))
    assert rounds == ["round-1", "round-2"]


def test_indivisible_batches_are_refused_first(tmp_path: Path, challenges: Path) -> None:
    run = tmp_path / "run"
    arguments = run_arguments(run, challenges, "adaptation.synthetic_batch_size=3")
    command = [*TORCHRUN, str(PROCESSES), "-m", "simgan_captcha", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode != 0
    assert "expected a batch_size that gives each of 2 processes" in done.stderr
    assert not (run / "store").exists()


def other_process(torchrun: int) -> int:
    """The process id of the child of torchrun with rank 1."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environment.read_bytes().split(b"\0")
            parent = int((environment.parent / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == torchrun and b"RANK=1" in variables:
            return int(environment.parent.name)
    raise AssertionError("expected a process of rank 1, found none")
