"""Bulk labelling on a real Ray cluster of three nodes, with workers and nodes that are killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from simgan_captcha import Reader
from simgan_captcha.errors import UsageError
from simgan_captcha.inference.on_ray import label_on_ray
from tests.commands import COMMAND
from tests.inference.labelling.test_labelling import assert_labelled, many_inputs, wait_for_parts

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
head = {"num_cpus": 1, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
lost = cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
if sys.stdin.readline():
    cluster.remove_node(lost, allow_graceful=False)  # kills its processes
    print("removed", flush=True)
    cluster.add_node(num_cpus=1)
    print("added", flush=True)
    sys.stdin.read()
cluster.shutdown()
"""
WORKER = "ray::MapWorker"


@dataclass
class RunningCluster:
    """A cluster of three nodes, one of which can be replaced."""

    address: str
    process: "subprocess.Popen[str]"

    def replace_a_node(self) -> None:
        """Kill a node, then add another one."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("replace\n")
        self.process.stdin.flush()
        assert [self.process.stdout.readline() for _ in range(2)] == ["removed\n", "added\n"]


@pytest.fixture
def cluster() -> Iterator[RunningCluster]:
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the cluster did not start"
        try:
            yield RunningCluster(address, process)
        finally:
            process.stdin.close()
            process.wait(60)


def workers() -> list[int]:
    """Processes of labellers; Ray gives them this name."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "cmdline").read_text().startswith(WORKER):
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="no /proc that shows which workers to kill; run on Linux"
)
def test_killed_workers_and_nodes_cause_no_losses_or_duplicates(
    model: Path, tmp_path: Path, cluster: RunningCluster
) -> None:
    inputs, out = many_inputs(tmp_path / "in", 24), tmp_path / "out"
    # A relative folder, as workers start in another one.
    command = [*COMMAND, "label", str(model), "in", "out", "--engine", "ray"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_ADDRESS": cluster.address},
    ) as process:
        wait_for_parts(out, 2, process)
        killed = workers()
        assert killed
        os.kill(killed[0], signal.SIGKILL)
        cluster.replace_a_node()
        assert process.poll() is None  # the node is lost in the middle of the work
        said, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert f"{24 * 8 * 34} images in 24 parts" in said
    assert_labelled(out, Reader(model), inputs)


def test_a_missing_ray_is_an_error_with_an_action(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"simgan-captcha\[dist\]"):
        next(label_on_ray([], str(tmp_path)))
