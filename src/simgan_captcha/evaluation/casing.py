"""Comparison of texts without regard to upper and lower case."""

from simgan_captcha.scheme import Scheme


def in_one_case(text: str, scheme: Scheme) -> str:
    """Replace each letter by its case in the alphabet, or otherwise by its case in `equivalents`.

    Example:
        >>> in_one_case("aB1", Scheme(alphabet="Abc", length=3, width=60, height=30))
        'Ab1'
    """
    cased = {c.lower(): c for c in reversed(scheme.alphabet + "".join(scheme.equivalents))}
    return "".join(cased.get(c.lower(), c) for c in text)
