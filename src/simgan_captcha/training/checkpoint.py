"""Weights and whole training states as safetensors; nothing is ever unpickled.

One safetensors file holds the tensors. The description holds everything else, as one JSON string in
the header. The file is written whole or not at all, so tensors and description always match. The
same content gives the same bytes. The description contains a SHA-256 of all bytes of the file. A
file with one changed bit is refused. Weights also have a ``.json`` file with a copy of the
description for people; nothing reads it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from simgan_captcha.atomic import write_bytes, write_json
from simgan_captcha.documents import parse_object
from simgan_captcha.errors import RunError

# Only one key, because the order of several keys in the header differs between processes.
_DESCRIPTION = "description"
_CHECKSUM = "sha256"
_BLANK = "0" * 64
"""Placeholder for the checksum while it is computed."""
_IN_FILE = re.compile(rb'\\"sha256\\": \\"([0-9a-f]{64})\\"\}"')
"""The end of the description, a JSON text within JSON."""
_MAX_BYTES = 1 << 32


def save_weights(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights to ``path``, and a copy of the description to ``path.with_suffix(".json")``.

    Args:
        path: File to write; its folder is created.
        tensors: A state dict: tensors of any dtype, on any device.
        description: JSON values that are needed to use the weights.

    Raises:
        TypeError: The description contains a value that JSON cannot hold.
    """
    _write(path, tensors, description)
    write_json(path.with_suffix(".json"), description)


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (on the CPU) and description of `save_weights`; tuples become lists.

    Raises:
        RunError: The file is missing, damaged, or not written by this package.
    """
    try:
        return _parsed(_file_bytes(path))
    except FileNotFoundError:
        raise RunError(
            f"expected weights at {path}, found no file; run the stage that writes it"
        ) from None
    except KeyError:
        raise RunError(
            f"expected {path} to describe itself in its header, it does not; "
            "give a file that simgan-captcha wrote"
        ) from None
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise RunError(
            f"expected a whole safetensors file at {path}, got a damaged one ({error}); "
            "delete it and run the stage that writes it again"
        ) from None


def set_aside_if_damaged(path: Path) -> bool:
    """Rename a damaged training state, and return whether it was damaged.

    Training then starts again. The new name is ``*.damaged``; an earlier file of this name is
    replaced.
    """
    try:
        _parsed(_file_bytes(path))
    except FileNotFoundError:
        return False
    except (KeyError, safetensors.SafetensorError, ValueError):
        path.replace(path.with_name(f"{path.name}.damaged"))
        return True
    return False


def _file_bytes(path: Path) -> bytes:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes")
    return path.read_bytes()


def _parsed(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a file.

    Raises:
        KeyError: The file has no description.
        ValueError, SafetensorError: The file is damaged.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < 8 or start > len(data):
        raise ValueError("it ends within its header")
    metadata = parse_object(data[8:start]).get("__metadata__", {})
    if not isinstance(metadata, dict) or not isinstance(metadata.get(_DESCRIPTION), str):
        raise KeyError(_DESCRIPTION)
    described = parse_object(metadata[_DESCRIPTION])
    if described.pop(_CHECKSUM, None) != _checksum(data, start):
        raise ValueError("its checksum does not fit: some of it has changed")
    # Copies have the memory alignment of new tensors.
    return {name: t.clone() for name, t in safetensors.torch.load(data).items()}, described


def _checksum(data: bytes, start: int) -> str:
    """SHA-256 of a whole file, with zeros in place of the checksum in its header."""
    header = data[:start]
    if found := list(_IN_FILE.finditer(header)):
        first, last = found[-1].span(1)
        header = header[:first] + _BLANK.encode() + header[last:]
    digest = hashlib.sha256(header)
    digest.update(memoryview(data)[start:])
    return digest.hexdigest()


def save_training_state(
    path: Path,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
) -> None:
    """Write everything that is needed to continue a training exactly.

    Args:
        path: File to write; its folder is created.
        modules: Networks by name.
        optimizers: Optimizers by name; their state may hold tensors and JSON values.
        tensors: Other tensors, such as generator states and image buffers.
        numbers: Counters and other JSON values.

    Raises:
        TypeError: ``numbers`` or an optimizer contain a value that safetensors and JSON cannot
            hold.
    """
    flat = {f"tensor/{name}": tensor for name, tensor in tensors.items()}
    for name, module in modules.items():
        flat |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
    described: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, values in state["state"].items():
            plain[str(index)] = {}
            for key, value in values.items():
                if isinstance(value, Tensor):
                    flat[f"optimizer/{name}/{index}/{key}"] = value
                else:
                    plain[str(index)][key] = value
        described[name] = {"param_groups": state["param_groups"], "state": plain}
    _write(
        path,
        flat,
        {"modules": sorted(modules), "optimizers": described, "numbers": dict(numbers)},
    )


def load_training_state(
    path: Path,
    *,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restore modules and optimizers in place.

    Args:
        path: File that `save_training_state` wrote.
        modules: Networks with the same names and shapes as the saved ones.
        optimizers: Optimizers with the same names, over the same parameters in the same order.

    Returns:
        The saved ``tensors`` (on the CPU) and ``numbers``.

    Raises:
        RunError: The file is missing or damaged, or holds the state of other networks. Networks
            may then be half restored; build new ones.
    """
    flat, description = load_weights(path)
    try:
        described: dict[str, Any] = description["optimizers"]
        saved = (description["modules"], sorted(described))
        if saved != (sorted(modules), sorted(optimizers)):
            raise ValueError(f"it holds {saved[0]} and optimizers of {saved[1]}")
        for name, module in modules.items():
            module.load_state_dict(_below(flat, f"module/{name}/"))
        for name, optimizer in optimizers.items():
            tensors = _below(flat, f"optimizer/{name}/")
            optimizer.load_state_dict(_optimizer_state(described[name], tensors, optimizer))
            _align_memory(optimizer)
        return _below(flat, "tensor/"), description["numbers"]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"expected the training state of {sorted(modules)} at {path}, it does not fit "
            f"({error}); delete it to start again, or go back to its configuration"
        ) from error


def _write(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    # Copies, because safetensors refuses tensors that share memory, such as tied weights.
    stored = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    header = {_DESCRIPTION: json.dumps({**description, _CHECKSUM: _BLANK})}
    data = safetensors.torch.save(stored, metadata=header)
    start = 8 + int.from_bytes(data[:8], "little")
    *_, found = _IN_FILE.finditer(data[:start])
    first, last = found.span(1)
    write_bytes(path, data[:first] + _checksum(data, start).encode() + data[last:])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _align_memory(optimizer: Optimizer) -> None:
    """Give moments the memory layout of their parameters, which fused optimizers rely on."""
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _optimizer_state(
    described: dict[str, Any], tensors: Mapping[str, Tensor], optimizer: Optimizer
) -> dict[str, Any]:
    state = {int(index): dict(values) for index, values in described["state"].items()}
    for name, tensor in tensors.items():
        index, key = name.split("/", maxsplit=1)
        state[int(index)][key] = tensor
    groups = described["param_groups"]
    for group, current in zip(groups, optimizer.param_groups, strict=True):
        # JSON turned tuples (betas) into lists.
        group |= {k: tuple(v) for k, v in group.items() if isinstance(current.get(k), tuple)}
    return {"state": state, "param_groups": groups}
