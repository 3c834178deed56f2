"""The settings of preset ``original``."""

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
    "reader": {"kind": "original", "images": "refined", "batch_size": 128, "steps": 20000},
    "adaptation": {"steps": 0},
}
"""The 2017 project's system with its faults mended: its generator, encoding and networks."""
