"""Write docs/configuration.md from the configuration's own docstrings: make docs."""

import sys
from pathlib import Path

from pydantic import BaseModel

from simgan_captcha.config.settings import PRESETS, RunConfig

PAGE = Path(__file__).with_name("configuration.md")


def page() -> str:
    """The whole page."""
    lines = [
        "# Configuration",
        "",
        "Written by `make docs` from the docstrings in the code; a test compares them.",
        "",
        "`simgan-captcha run RUN --preset cpu --set recognizer.steps=500 "
        "--set recognizer.images=refined` changes single values of a preset. Values are "
        "JSON (`[20, 28]`, `true`, `0.5`) or plain text.",
        "",
        "| key | default | what it is |",
        "|---|---|---|",
        *rows(RunConfig, ""),
        "",
        "## What the presets change",
        "",
        "| preset | key | value |",
        "|---|---|---|",
    ]
    for preset, changes in PRESETS.items():
        lines += [f"| {preset} | `{key}` | `{value}` |" for key, value in flat(changes, "")]
    return "\n".join([*lines, ""])


def rows(model: type[BaseModel], prefix: str) -> list[str]:
    """A table row for every key below a model."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        about = " ".join((field.description or "").split()).replace("|", "\\|")
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(f"| **`{prefix}{name}`** | | {about} |")
            found += rows(kind, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else f"`{field.default}`"
            found.append(f"| `{prefix}{name}` | {default} | {about} |")
    return found


def flat(values: dict[str, object], prefix: str) -> list[tuple[str, object]]:
    """Nested values as dotted keys."""
    found: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((prefix + key, value))
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
