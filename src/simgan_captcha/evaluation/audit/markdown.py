"""An audit as Markdown, for an issue or a repository. Only the HTML page has pictures."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simgan_captcha.evaluation.audit.words import (
    effect_in_words,
    labels_in_words,
    rate_in_words,
    reader_in_words,
    verdict_sentences,
)


def audit_markdown(name: str, figures: Mapping[str, Any]) -> str:
    """Write the whole report as Markdown.

    Args:
        name: Name of the run.
        figures: Figures of the audit, see `figures.audit_figures`.
    """
    verdict, cost = figures["verdict"], figures["cost"]
    images = cost["unlabelled_images"]
    parts = [
        f"# How weak is this captcha? {escaped(name)}",
        f"**Severity: {verdict['severity']}.** "
        + " ".join(map(escaped, verdict_sentences(figures))),
        "Severity is high if at least 30 % of texts are read, medium from 10 %, else low. It took "
        f"no label, {f'{images:,} images, ' if images is not None else ''}"
        f"{cost['training_tflop']:.1f} TFLOP of training and {cost['seconds'] / 60:.0f} minutes.",
        "## What to do, most effective first",
        *_findings(figures),
        "## Readers that cost nothing",
        "There are no labels here, so texts are compared with those that the run read. Readers "
        "that learned independently rarely make the same mistake in a whole text.",
        table(
            ("Reader", "Result", "Texts per hour on one core"),
            [
                (row["name"], reader_in_words(row), _rate(row["texts_per_hour"]))
                for row in figures["readers"]
            ],
        ),
        "## What labels would gain",
        escaped(labels_in_words(figures)),
        "## What would cost a reader most",
        f"One feature is changed at a time, in {figures['drawn_of_each']:,} drawn images each; "
        f"fine-tuning took {figures['steps_of_each']:,} steps. Samples are on the page, audit.html:"
        " check whether people can still read them.",
        table(
            ("Change", "Before fine-tuning", "After fine-tuning", "95 % interval"),
            [
                (
                    f"{change['name']}: {change['what']}",
                    f"{change['as_it_is']['share']:.1%}",
                    f"{change['learned_on']['share']:.1%}",
                    f"{change['learned_on']['low']:.1%} to {change['learned_on']['high']:.1%}",
                )
                for change in figures["changes"]
            ],
        ),
        "## What no image shows",
        "Check these by hand. The audit sends nothing to any server.",
        "\n".join(
            f"- [ ] **{escaped(check['question'])}** {escaped(check['why'])}"
            for check in figures["checklist"]
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _findings(figures: Mapping[str, Any]) -> list[str]:
    looked = figures["looked_at"]
    about = " ".join(
        [f"{looked['images']:,} of {looked['of']:,} images were inspected.", *looked["notes"]]
    )
    if not figures["findings"]:
        return [f"Nothing was found that a change of the image would fix. {escaped(about)}"]
    rows = [
        (
            str(number),
            one["severity"],
            f"{one['name']}. {one['evidence']}",
            one["fix"],
            effect_in_words(one["effect"]),
        )
        for number, one in enumerate(figures["findings"], 1)
    ]
    heads = ("", "Severity", "Finding", "Fix", "Texts it takes from an attacker")
    return [escaped(about), table(heads, rows)]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table with escaped cells."""
    lines = [heads, ["---"] * len(heads)]
    body = [[escaped(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [*lines, *body])


def escaped(text: str) -> str:
    """Escape Markdown, HTML and line feeds in a text from an unknown source.

    Example:
        >>> escaped("a|b <i>*c*")
        'a\\\\|b &lt;i>\\\\*c\\\\*'
    """
    plain = "".join(c if c.isprintable() else " " for c in text)
    marked = re.sub(r"([\\`*_{}\[\]|#~])", r"\\\1", plain)
    return marked.replace("&", "&amp;").replace("<", "&lt;")


def _rate(per_hour: float | None) -> str:
    return "" if per_hour is None else rate_in_words(per_hour)
