"""The configuration of a run: a frozen model for each stage, presets, and ``--set key=value``."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from simgan_captcha.calibration.settings import CalibrationSettings
from simgan_captcha.config.of_scheme import scheme_values
from simgan_captcha.data.settings import DownloadSettings, Lines
from simgan_captcha.errors import ConfigError
from simgan_captcha.generalist.characters import CHARACTERS, MOST_CHARACTERS
from simgan_captcha.generalist.specialization.settings import (
    DistillationSettings,
    SpecializationSettings,
)
from simgan_captcha.original.settings import ORIGINAL
from simgan_captcha.recognizer.settings import AdaptationSettings, RecognizerSettings
from simgan_captcha.scheme import HACKMIT_2017, Scheme
from simgan_captcha.shown import did_you_mean
from simgan_captcha.simgan import SimGANSettings
from simgan_captcha.simulator.settings import SimulatorSettings, layout_of

Preset = Literal["quick", "cpu", "paper", "original"]


class RunConfig(BaseModel):
    """All settings of a run. Together with the images and the seed, they determine its result."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    scheme: Scheme = HACKMIT_2017
    """The captcha family."""
    batches: int | None = Field(default=None, ge=1)
    """Number of challenge batches to load; by default all of a folder, or 20 of a URL."""
    download: DownloadSettings = DownloadSettings()
    """Rate, retries and redirects of downloads, and whether subfolders are searched."""
    encoding: Literal["relative", "binary"] = "relative"
    """Encoding of images for networks, see `background.Background`."""
    lines: Lines = "contrast"
    """Method that finds shared lines: ``contrast``, ``average`` or ``and``, see `background`."""
    line_removal_width: int = Field(default=0, ge=0, le=50)
    """Width in pixels of lines that differ between images and are removed by morphology; 0 removes
    none."""
    pretrained: bool = True
    """Whether the run begins with the pretrained generalist, if it knows the alphabet. Without it,
    everything is learned from the simulator."""
    specialization: SpecializationSettings = SpecializationSettings()
    """Self-training of the generalist on the images of the run."""
    distillation: DistillationSettings = DistillationSettings()
    """Training of the recognizer on readings of the specialized generalist."""
    generator: Literal["fonts", "original"] = "fonts"
    """Simulator that draws the synthetic images."""
    simulator: SimulatorSettings = SimulatorSettings()
    """Ranges of the ``fonts`` simulator."""
    calibrate: bool = True
    """Whether the ``fonts`` simulator is fitted to the real images first."""
    calibration: CalibrationSettings = CalibrationSettings()
    """Calibration, and training of the bootstrap recognizer that it needs."""
    label_check_steps: int = Field(default=600, ge=1)
    """Number of training steps of a recognizer that checks whether refining preserves the text. It
    trains on raw images. After a calibration, the bootstrap recognizer checks this instead."""
    simgan: SimGANSettings = SimGANSettings()
    """Networks and training of the refiner."""
    recognizer: RecognizerSettings = RecognizerSettings()
    """Network and supervised training of the recognizer."""
    adaptation: AdaptationSettings = AdaptationSettings()
    """Self-training on the real images."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Precision of the computation. ``auto`` is bf16-mixed if the hardware supports bf16, and
    32-true otherwise."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Number of threads of torch; 0 uses one for each core."""
    workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"
    """Number of processes that draw synthetic images ahead. With 0, the training process draws them
    itself. ``auto`` is 0 on a CPU, whose cores the training uses, and 1 on a GPU."""

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        if self.generator == "original" and self.scheme.blank is not None:
            raise ValueError(
                "generator=original draws texts of one length; give one scheme.length, or use "
                "generator=fonts"
            )
        said = [key for key in ("wavy_baseline", "multiple_fonts") if getattr(self.scheme, key)]
        if said and layout_of(self.scheme, self.simulator) is None:
            raise ValueError(
                f"scheme.{said[0]} needs letters that are laid out, not drawn slot by slot; set "
                "simulator.layout={} or leave it out"
            )
        if self.simgan.refiner.channels != 1:
            raise ValueError("simgan.refiner.channels: captchas have 1 channel, ink")
        if (
            self.simgan.features
            and self.recognizer.kind != "attention"
            and not self.begins_pretrained
        ):
            raise ValueError("simgan.features needs recognizer.kind=attention, or pretrained=true")
        return self

    @property
    def begins_pretrained(self) -> bool:
        """Whether the run begins with the generalist.

        This needs ``pretrained`` and a scheme that the generalist can read. It excludes the
        generator of 2017.
        """
        scheme = self.scheme
        known = set(scheme.alphabet) <= set(CHARACTERS) and scheme.max_length <= MOST_CHARACTERS
        return self.pretrained and known and self.generator == "fonts"

    @property
    def calibrates(self) -> bool:
        """Whether the run has a calibration; the generator of 2017 cannot be calibrated."""
        return self.calibrate and self.generator == "fonts"

    @property
    def refines(self) -> bool:
        """Whether a refiner is trained, because the recognizer learns from its images."""
        return self.recognizer.images == "refined"

    @property
    def reads_poses(self) -> bool:
        """Whether the recognizer is trained with a pose head, as the bootstrap recognizer is."""
        return self.calibrates and self.recognizer.kind == "attention"

    def drawing_processes(self, device: str) -> int:
        """The number of processes that draw ahead for a training on this kind of device."""
        return int(device != "cpu") if self.workers == "auto" else self.workers

    def brief_training(self, steps: int) -> RecognizerSettings:
        """Settings of a training on raw images with this number of steps."""
        return self.recognizer.model_copy(update={"steps": steps, "images": "raw"})

    def dump(self, *keys: str) -> dict[str, Any]:
        """The values of some keys as JSON."""
        return self.model_dump(mode="json", include=set(keys))


_SMALL_SIMGAN = {
    "checkpoint_every": 50,
    "refiner": {"features": 16, "blocks": 2, "downscale": 2},
    "discriminator": {"widths": [48, 32, 32, 32]},
}

PRESETS: dict[Preset, dict[str, Any]] = {
    "quick": {
        "calibration": {"steps": 300},
        "simgan": {
            **_SMALL_SIMGAN,
            # After so few steps, the refiner still overshoots: with 1 it kept a quarter of texts.
            "regularization": 5,
            "pretrain_discriminator_steps": 50,
            "steps": 100,
            "picture_every": 50,
        },
        "recognizer": {"steps": 600},
        "adaptation": {"steps": 800, "enough": 0.95},
    },
    "cpu": {
        "simgan": {**_SMALL_SIMGAN, "steps": 250, "picture_every": 50},
        "recognizer": {"steps": 5000},
        "adaptation": {"steps": 2200},
    },
    # The networks of arXiv:1612.07828 at full resolution; for a GPU.
    "paper": {
        "pretrained": False,
        "calibrate": False,
        "simgan": {
            "refiner": {"global_skip": False},
            "batch_size": 512,
            "steps": 1000,
            "pretrain_refiner_steps": 1000,
            "pretrain_discriminator_steps": 200,
            "refiner_updates": 4,
            "history_capacity": 51200,
        },
        "recognizer": {"images": "refined", "steps": 12000},
        "adaptation": {"steps": 0},
    },
    "original": ORIGINAL,
}
"""Changes of the defaults by each preset."""


def resolve_config(
    preset: str, assignments: Sequence[str] = (), scheme: Scheme | None = None
) -> RunConfig:
    """Build the configuration of a preset with some changed values.

    Args:
        preset: One of `PRESETS`.
        assignments: Changes such as ``recognizer.steps=100``. A value is JSON, or otherwise plain
            text.
        scheme: Captcha family other than the HackMIT puzzle, see `scheme_values`.

    Raises:
        ConfigError: A preset or key is unknown (the message names the nearest one), or a value is
            invalid.

    Example:
        >>> resolve_config("quick", ["recognizer.steps=7"]).recognizer.steps
        7
    """
    if preset not in PRESETS:
        raise ConfigError(f"expected a preset of {', '.join(PRESETS)}; got {preset!r}")
    # The default scheme is included, so that a single one of its values can be changed.
    values: dict[str, Any] = {"scheme": HACKMIT_2017.model_dump()}
    values |= json.loads(json.dumps(PRESETS[preset]))
    if scheme is not None:
        for key, value in scheme_values(scheme).items():
            _assign(values, key, value)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"expected key=value after --set, got {assignment!r}")
        _assign(values, key.strip(), _parse(text.strip()))
    return load_config(values)


def load_config(values: Mapping[str, Any]) -> RunConfig:
    """Build a configuration from plain values, as `RunConfig.model_dump` returns them.

    Raises:
        ConfigError: A key is unknown, or a value is out of range.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(_unknown_key(key)) from None
        message = first["msg"].removeprefix("Value error, ")
        if not key:
            raise ConfigError(message) from None
        raise ConfigError(f"{key}: {message}; got {first['input']!r}") from None


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(parents[: depth + 1])} is a value and has no {last!r}")
    values[last] = value


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _unknown_key(key: str) -> str:
    hint = did_you_mean(key, _keys(RunConfig), "see docs/configuration.md for all of them")
    return f"expected a known configuration key, got {key!r}; {hint}"


def _keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _keys(field.annotation, f"{prefix}{name}.")
    return keys
