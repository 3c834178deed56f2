"""The report's section on how a run was made: command, configuration, versions and results."""

import json
import shlex
from pathlib import Path

from simgan_captcha.config.of_scheme import scheme_settings
from simgan_captcha.documents import Json
from simgan_captcha.errors import ConfigError
from simgan_captcha.pipeline.stages.stage import Stage
from simgan_captcha.report.inputs import as_mapping, as_number, as_texts, first_text
from simgan_captcha.scheme import check_scheme

Manifests = dict[Stage, Json]
"""Manifests of the finished stages."""


def provenance(folder: Path, run: Json, manifests: Manifests) -> Json:
    """Command, seed, versions, machines, configuration and results, for `report.html`."""
    versions = {
        str(name): str(version)
        for manifest in manifests.values()
        for name, version in as_mapping(manifest.get("versions")).items()
    }
    seed = as_number(run.get("seed"))
    machines = (first_text(manifest.get("machine")) for manifest in manifests.values())
    return {
        "machines": list(dict.fromkeys(machine for machine in machines if machine)),
        "versions": versions,
        "seed": None if seed is None else int(seed),
        "command": _command(folder, run),
        "configuration": json.dumps(run, indent=2, ensure_ascii=False),
        "results": {
            stage.title: json.dumps(manifest["result"], indent=2, ensure_ascii=False)
            for stage, manifest in manifests.items()
            if manifest.get("result")
        },
    }


def _command(folder: Path, run: Json) -> str:
    """The command that repeats the run in a new folder."""
    options = [
        part
        for key in ("challenges", "user", "preset", "seed")
        if isinstance(run.get(key), str | int)
        for part in (f"--{key}", str(run[key]))
    ]
    changes = [*_given_scheme(run), *as_texts(run.get("settings"))]
    settings = [part for setting in changes for part in ("--set", setting)]
    name = folder.resolve().name
    return shlex.join(["simgan-captcha", "run", name, *options, *settings])


def _given_scheme(run: Json) -> list[str]:
    """The settings of the scheme file that the run was started with."""
    try:
        return scheme_settings(check_scheme(as_mapping(run.get("given_scheme"))))
    except ConfigError:
        return []
