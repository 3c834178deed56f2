"""The verdict of an audit in sentences, for the HTML page, Markdown and the terminal."""

from collections.abc import Mapping
from typing import Any

from simgan_captcha.shown import one_line

_MEANING = {
    "high": "The image keeps no program out. Do not rely on it alone: limit tries, and change it "
    "as the findings advise.",
    "medium": "A program gets in after a few tries. Limit tries, and change the image as the "
    "findings advise.",
    "low": "This reader reads few texts. With more images, more training or some labels, another "
    "reader may read more.",
}
_BUT_BROKEN = (
    "It still counts as broken: a program may try as often as it likes, and one text in a hundred "
    "is enough. Limit tries."
)
_BY = {
    "judged": "as judged by labels",
    "estimated": "as estimated without labels",
    "names or metadata": "as given by names or metadata",
}


def verdict_sentences(figures: Mapping[str, Any]) -> list[str]:
    """Sentences about the share of correctly read texts, the speed, and their meaning."""
    verdict, speed = figures["verdict"], figures["speed"]
    sentences = [
        f"{verdict['share']:.1%} of texts are read, {_BY[verdict['by']]}.",
        f"One core of the machine that audited ({speed['machine']}) reads "
        f"{rate_in_words(speed['texts_per_hour'])} texts per hour, about "
        f"{rate_in_words(verdict['falling_per_hour'])} correctly.",
        _MEANING[verdict["severity"]],
    ]
    if verdict["severity"] == "low" and figures["broken"]:
        sentences.append(_BUT_BROKEN)
    return sentences


def rate_in_words(per_hour: float) -> str:
    """Format a rate with two significant digits, because a measurement is not more precise.

    Example:
        >>> rate_in_words(2_791_417), rate_in_words(4.2)
        ('2,800,000', '4')
    """
    digits = max(0, len(f"{per_hour:.0f}") - 2)
    return f"{round(per_hour / 10**digits) * 10**digits:,}"


def effect_in_words(effect: float | None) -> str:
    """Format the effect of a fix for a table."""
    if effect is None:
        return "not measured"
    return f"{effect:.1%}" if effect >= 0.0005 else f"1 in {1 / effect:,.0f}"


def reader_in_words(row: Mapping[str, Any]) -> str:
    """Describe the result of a stock reader, or the reason why there is none."""
    if row["skipped"] is not None:
        return f"left out: {row['skipped']}"
    agrees = row["agrees"]
    return (
        f"agrees with the run on {agrees['share']:.1%} of {row['images']} real images "
        f"({agrees['low']:.1%} to {agrees['high']:.1%})"
    )


def labels_in_words(figures: Mapping[str, Any]) -> str:
    """State what an attacker gains by a few labels, as the lesson of the run measured it."""
    lesson = figures["labels"]
    if lesson is None:
        return (
            "This was not measured. An attacker may solve some images by hand and learn from them. "
            "Teach the run with some labels (simgan-captcha teach RUN --ask 30), then audit again."
        )
    labels, validated = lesson["labels"], lesson["cross_validated"]
    parts = []
    if lesson["after"] is not None:
        parts.append(
            f"{lesson['after']['accuracy']:.1%} instead of {lesson['before']['accuracy']:.1%} of "
            "texts are read, as estimated"
        )
    if validated is not None:
        parts.append(
            f"{validated} instead of {lesson['right_before']} of the labelled images are read "
            "correctly, each by a reader that did not learn its label"
        )
    found = "; ".join(parts) or "too few for a measurement"
    used = "" if lesson["better"] else ". An attacker would keep the reader without labels"
    return f"With {labels} label{'s' if labels > 1 else ''}: {found}{used}."


def audit_in_words(figures: Mapping[str, Any]) -> list[str]:
    """Describe an audit in lines for a terminal."""
    verdict = figures["verdict"]
    lines = [
        f"{verdict['share']:.1%} of captchas are read, {_BY[verdict['by']]}",
        "synthetic images with one feature changed:",
    ]
    lines += [
        f"{change['name']:<20} {change['as_it_is']['share']:>6.1%} before fine-tuning, "
        f"{change['learned_on']['share']:>6.1%} after {figures['steps_of_each']} steps"
        for change in figures["changes"]
    ]
    lines += [f"reader {row['name']}: {reader_in_words(row)}" for row in figures["readers"]]
    lines += [
        # Names of metadata come from files, so they need escaping.
        f"finding ({one['severity']}): {one_line(one['name'])}. {one['fix']}"
        for one in figures["findings"]
    ]
    if figures["labels"] is not None:
        lines.append(f"labels: {labels_in_words(figures)}")
    speed = f"{rate_in_words(figures['speed']['texts_per_hour'])} texts per hour on one core"
    return [*lines, f"severity: {verdict['severity']}; {speed}"]
