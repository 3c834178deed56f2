"""Write docs/commands.md from the command line's own help: make docs."""

import sys
from pathlib import Path
from typing import Any

import typer

from simgan_captcha.cli import app
from simgan_captcha.cli.endings import EXIT_CODES

PAGE = Path(__file__).with_name("commands.md")


def page() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "Written by `make docs` from the help in the code; a test compares them.",
        "",
        f"{group.help} {group.epilog} `--help` after a command prints its section.",
        "",
    ]
    for name in group.list_commands(None):
        lines += section(group.commands[name])
    codes = [f"| {code} | {cell(meaning)} |" for code, meaning in EXIT_CODES.items()]
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|", *codes, ""]
    return "\n".join(lines)


def section(command: Any) -> list[str]:
    """Purpose, usage, arguments and options of a command."""
    context = command.context_class(command, info_name=f"simgan-captcha {command.name}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    return [
        f"## {command.name}",
        "",
        command.help,
        "",
        "```",
        usage,
        "```",
        "",
        *table("argument", command.params, context),
        *table("option", command.params, context),
    ]


def table(kind: str, parameters: list[Any], context: Any) -> list[str]:
    """A row for every parameter of a kind, with its help and its default."""
    records = [one.get_help_record(context) for one in parameters if one.param_type_name == kind]
    rows = [f"| `{cell(name)}` | {cell(about)} |" for name, about in records]
    return [f"| {kind} | what it is |", "|---|---|", *rows, ""] if rows else []


def cell(text: str) -> str:
    """A text in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
