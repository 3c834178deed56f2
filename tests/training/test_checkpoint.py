import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from simgan_captcha.errors import RunError
from simgan_captcha.training.checkpoint import (
    load_training_state,
    load_weights,
    save_training_state,
    save_weights,
    set_aside_if_damaged,
)


def make_training(seed: int, optimizer: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))
    if optimizer == "adam":
        return network, torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.5, 0.99))
    return network, torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, draws: torch.Generator) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(2, 1, 5, 5, generator=draws)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_resumed_training_gives_the_same_bits(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new folder" / "state.safetensors"
    network, optimizer = make_training(1, kind)
    draws = torch.Generator().manual_seed(1)
    train(network, optimizer, draws)
    save_training_state(
        path,
        modules={"network": network},
        optimizers={"optimizer": optimizer},
        tensors={"draws": draws.get_state()},
        numbers={"step": 3, "loss": 0.1 + 0.2},
    )
    train(network, optimizer, draws)

    again, its_optimizer = make_training(2, kind)
    tensors, numbers = load_training_state(
        path, modules={"network": again}, optimizers={"optimizer": its_optimizer}
    )
    assert numbers == {"step": 3, "loss": 0.1 + 0.2}
    assert its_optimizer.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    draws.set_state(tensors["draws"])
    train(again, its_optimizer, draws)
    for name, expected in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], expected), name


def test_weights_are_loaded_with_their_description(tmp_path: Path) -> None:
    path = tmp_path / "recognizer.safetensors"
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "tied": shared, "t": shared.T, "half": torch.ones(2).bfloat16()}
    save_weights(path, tensors, {"alphabet": "äb", "sizes": [1, 2]})
    loaded, description = load_weights(path)
    assert description == {"alphabet": "äb", "sizes": [1, 2]}
    assert json.loads(path.with_suffix(".json").read_text()) == description
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_same_content_gives_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_weights(tmp_path / name, {"w": torch.ones(2), "v": torch.zeros(3)}, {"x": 1, "y": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected weights at .*none\.safetensors, found no file"):
        load_weights(tmp_path / "none.safetensors")


def test_foreign_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(RunError, match="describe itself"):
        load_weights(tmp_path / "foreign.safetensors")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"w": torch.ones(16)}, {"network": "Refiner"})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RunError, match=r"w\.safetensors, got a damaged one"):
        load_weights(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.binary(max_size=200))
def test_a_hostile_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x00" * 64)
    with pytest.raises(RunError, match="expected"):
        load_weights(path)


def test_a_file_of_rubbish_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x04pickle me" * 20)
    with pytest.raises(RunError, match="damaged"):
        load_weights(tmp_path / "w.safetensors")


def test_state_of_other_networks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    network, optimizer = make_training(1, "adam")
    save_training_state(
        path,
        modules={"network": network},
        optimizers={"optimizer": optimizer},
        tensors={},
        numbers={},
    )
    wider = nn.Conv2d(1, 9, 3)
    with pytest.raises(RunError, match="does not fit"):
        load_training_state(
            path,
            modules={"network": wider},
            optimizers={"optimizer": torch.optim.Adam(wider.parameters())},
        )
    with pytest.raises(RunError, match="does not fit"):
        load_training_state(path, modules={"other": network}, optimizers={"optimizer": optimizer})
    save_weights(path, network.state_dict(), {"network": "Conv2d"})
    with pytest.raises(RunError, match="does not fit"):
        load_training_state(path, modules={"network": network}, optimizers={"optimizer": optimizer})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_changed_bit_is_seen(tmp_path: Path, at: float, bit: int) -> None:
    """The bit is anywhere except in the key of the checksum."""
    path = tmp_path / "w.safetensors"
    save_weights(path, {"w": torch.arange(64.0), "b": torch.ones(2, 3)}, {"network": "Refiner"})
    data = bytearray(path.read_bytes())
    place, word = int(at * len(data)), data.index(b"sha256")
    if place in range(word, word + 6):
        return
    data[place] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(RunError, match="expected"):
        load_weights(path)


def test_weights_without_a_checksum_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata={"description": json.dumps({"x": 1})})
    with pytest.raises(RunError, match="its checksum does not fit"):
        load_weights(path)


@pytest.mark.parametrize("damage", ["flip", "halve", "empty", "rubbish", None])
def test_a_damaged_state_is_set_aside(tmp_path: Path, damage: str | None) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_weights(path, {"w": torch.arange(64.0)}, {"numbers": {}})
    data = path.read_bytes()
    changed = {
        "flip": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "halve": data[: len(data) // 2],
        "empty": b"",
        "rubbish": b"\xff" * 100,
        None: data,
    }[damage]
    path.write_bytes(changed)
    assert set_aside_if_damaged(path) == (damage is not None)
    left = path.with_name("checkpoint.safetensors.damaged") if damage else path
    assert left.read_bytes() == changed
    assert not set_aside_if_damaged(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "description", ["[" * 100_000, '{"a": ' * 900 + "1" + "}" * 900, "[1]", "1", "null", ""]
)
def test_a_description_of_any_shape_is_refused(tmp_path: Path, description: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "w.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata={"description": description})
    with pytest.raises(RunError, match="expected"):
        load_weights(path)
