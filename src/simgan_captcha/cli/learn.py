"""The commands init and run."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simgan_captcha.addresses import is_url, server_and_user, without_password
from simgan_captcha.cli.app import (
    AsJson,
    Quiet,
    Recursive,
    RunFolder,
    Settings,
    app,
    parse_length,
    warn,
)
from simgan_captcha.errors import UsageError
from simgan_captcha.extras import needing

if TYPE_CHECKING:
    from simgan_captcha.pipeline.run_folder import Request

DEFAULT_USER = "rickyhan"
"""User of the puzzle if neither the command nor the address names one."""


@app.command()
@needing("learn", "simgan-captcha run")
def run(
    run: RunFolder,
    challenges: Annotated[
        str | None,
        typer.Option(
            help="Folder of challenge batches, or a URL: a server, its .../challenge address, "
            "or an address with {n}. Not needed to continue a run.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder or zip file of unlabelled images, instead of --challenges."),
    ] = None,
    scheme: Annotated[
        Path | None,
        typer.Option(help="Scheme file (TOML) that init wrote.", show_default=False),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(help="User of the puzzle; by default the URL's, or rickyhan."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="quick, cpu, paper or original; by default cpu.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Random seed of everything that is drawn; by default 1.", min=0, max=2**31 - 1
        ),
    ] = None,
    settings: Settings = None,
    recursive: Recursive = False,
    quiet: Quiet = False,
) -> None:
    """Learn from unlabelled captchas and read them all.

    To continue a run, give only its folder. Other options change the run. A new preset starts with
    its own settings. Only the stages that depend on a change are repeated.
    """
    from simgan_captcha.pipeline.run_folder import RUN, Request, read_run
    from simgan_captcha.scheme import load_scheme

    earlier = Request.of_record(read_run(run)) if (run / RUN).exists() else None
    place = _place(run, challenges, images, earlier)
    changes = (*(["download.recursive=true"] if recursive else []), *(settings or []))
    request = Request(
        place,
        _user(place, user, earlier),
        preset or (earlier.preset if earlier else "cpu"),
        seed if seed is not None else (earlier.seed if earlier else 1),
        load_scheme(scheme) if scheme else (earlier.scheme if earlier else None),
        changes,
    )
    if earlier is not None:
        kept = kept_settings(earlier, preset, replaces_scheme=scheme is not None)
        request = replace(request, settings=later_settings(kept, changes))
    train(run, request, quiet=quiet)


def _place(
    run: Path, challenges: str | None, images: Path | None, earlier: "Request | None"
) -> str:
    """The folder or address that a run learns from."""
    if challenges and images:
        raise UsageError("expected --challenges or --images, got both; give one")
    place = challenges or (str(images) if images else earlier.challenges if earlier else None)
    if place is None:
        raise UsageError(
            f"expected --challenges FOLDER-or-URL, or --images FOLDER, for the new run {run}"
        )
    # A run records the home folder as ~.
    return place if is_url(place) else str(Path(place).expanduser().resolve())


def _user(place: str, user: str | None, earlier: "Request | None") -> str | None:
    """The user of the puzzle; None for a folder, unless an earlier run has a user."""
    named = None
    if is_url(place):
        server, named = server_and_user(place)
        if named is not None and user not in (None, named):
            shown = without_password(place)
            raise UsageError(
                f"expected the captchas of {user!r}, {shown} are those of {named!r}; "
                f"give --user {named}, or the server's address alone, {without_password(server)}"
            )
    known = earlier.user if earlier else None
    return named or user or known or (DEFAULT_USER if is_url(place) else None)


def kept_settings(
    earlier: "Request", preset: str | None, *, replaces_scheme: bool = False
) -> list[str]:
    """The settings of an earlier request that a new request keeps.

    A new preset starts with its own values, and keeps only settings of the captchas. A new scheme
    replaces the settings of the earlier scheme.
    """
    from simgan_captcha.config.of_scheme import OF_THE_SCHEME

    same_preset = preset in (None, earlier.preset)
    return [
        setting
        for setting in earlier.settings
        if (same_preset or setting.startswith(OF_THE_SCHEME))
        and not (replaces_scheme and setting.startswith(OF_THE_SCHEME))
    ]


def later_settings(earlier: Sequence[str], later: Sequence[str]) -> tuple[str, ...]:
    """Merge settings. Each key occurs once with its latest value, so a repeated command is safe."""
    latest: dict[str, str] = {}
    for setting in [*earlier, *later]:
        key = setting.partition("=")[0].strip()
        latest.pop(key, None)  # so that the key comes after settings that it overrides
        latest[key] = setting
    return tuple(latest.values())


def train(run: Path, request: "Request", *, quiet: bool) -> Path:
    """Run all stages on all cores, write the report, and return its path."""
    config = request.config()  # finds mistakes before torch is loaded
    import logging

    import torch

    from simgan_captcha.api.learning import complete
    from simgan_captcha.atomic import core_count
    from simgan_captcha.pipeline.progress import StageProgress
    from simgan_captcha.training.parallel import is_rank_zero, local_processes

    torch.set_num_threads(config.threads or max(1, core_count() // local_processes()))
    # Lightning prints the precision, which this package already prints.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with StageProgress(quiet=quiet or not is_rank_zero()) as progress:
        report = complete(run, request, progress)
        progress.say(f"report     {report}")
    return report


@app.command()
@needing("learn", "simgan-captcha init")
def init(
    folder: Annotated[Path, typer.Argument(help="Folder or zip file of unlabelled images.")],
    file: Annotated[Path, typer.Argument(help="Where to write the scheme, as my.toml.")],
    alphabet: Annotated[
        str | None, typer.Option(help="Every character a text may hold.", show_default=False)
    ] = None,
    length: Annotated[
        str | None, typer.Option(help="Characters in a text, as 5 or 4-6.", show_default=False)
    ] = None,
    recursive: Recursive = False,
    as_json: AsJson = False,
) -> None:
    """Inspect images of a new captcha family; write a commented scheme and a contact sheet."""
    from simgan_captcha.api.inspection import inspect
    from simgan_captcha.atomic import write_bytes
    from simgan_captcha.cli.scheme_file import scheme_text

    lengths = parse_length(length) if length else None
    if file.suffix != ".toml":
        raise UsageError(f"expected a file named like my.toml for the scheme, got {file}")
    if file.resolve().parent == folder.resolve():
        raise UsageError(
            f"expected the scheme outside of {folder}, as its contact sheet would lie among the "
            "images; name another place"
        )
    sheet = file.with_suffix(".png")
    for path in (file, sheet):
        if path.exists():
            raise UsageError(
                f"expected a new file, {path} is there already; move it or name another"
            )
    seen = inspect(folder, alphabet=alphabet, length=lengths, recursive=recursive)
    given = [key for key, value in (("alphabet", alphabet), ("length", lengths)) if value]
    text = scheme_text(seen.look, seen.scheme, folder, file.name, given, seen.remarks)
    write_bytes(file, text.encode())
    write_bytes(sheet, seen.sheet)
    for doubt in seen.doubts:
        warn(doubt)
    if as_json:
        scheme = seen.scheme.model_dump(mode="json")
        found = {"scheme": scheme, "doubts": seen.doubts, "remarks": seen.remarks}
        typer.echo(json.dumps(found | {"file": str(file), "contact_sheet": str(sheet)}))
        return
    typer.echo(
        f"{file}: compare alphabet and length with {sheet}, then\n"
        f"simgan-captcha run RUN --scheme {shlex.quote(str(file))} "
        f"--images {shlex.quote(str(folder))} --preset quick{' --recursive' if recursive else ''}"
    )
