"""Templates of the report and of the web pages, and their number formats."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from simgan_captcha.inference.readings import Reading
from simgan_captcha.scheme import length_in_words

_UNSURE = 0.5
"""Characters with a lower confidence are underlined."""


def page_template(name: str) -> Template:
    """A template by its path in this package; its values are escaped."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("simgan_captcha", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(
        share=lambda value: f"{value:.1%}".replace("%", "\u00a0%"),
        duration=duration,
        count=lambda value: f"{value:,.0f}",
        tflop=lambda flops: f"{flops / 1e12:,.2f}",
        length_in_words=length_in_words,
    )
    return environment


def duration(seconds: float) -> str:
    """Seconds as text, such as ``1 h 5 min`` or ``3.2 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


def marked_characters(reading: Reading) -> list[tuple[str, bool]]:
    """Each character of a reading, and whether its confidence is low."""
    return [
        (character, confidence < _UNSURE)
        for character, confidence in zip(reading.text, reading.character_confidence, strict=True)
    ]
