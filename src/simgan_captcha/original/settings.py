"""The preset ``original``, which is the system of 2017."""

from typing import Any

ORIGINAL: dict[str, Any] = {
    "calibrate": False,
    "encoding": "binary",
    "lines": "average",
    "generator": "original",
    "simgan": {
        "refiner": {"global_skip": False},
        "batch_size": 512,
        "steps": 1000,
        "pretrain_refiner_steps": 100,
        "pretrain_discriminator_steps": 100,
        "refiner_updates": 4,
        "history_capacity": 51200,
    },
    "recognizer": {"kind": "original", "images": "refined", "batch_size": 128, "steps": 20000},
    "adaptation": {"steps": 0},
}
"""The system of 2017 without its bugs: its generator, encoding and networks."""
