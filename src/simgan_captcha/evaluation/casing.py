"""Upper and lower case as one, for alphabets or people that do not tell them apart."""

from simgan_captcha.scheme import Scheme


def in_one_case(text: str, scheme: Scheme) -> str:
    """The text with one character for both cases: that of the alphabet, else of `alike`.

    Example:
        >>> in_one_case("aB1", Scheme(alphabet="Abc", length=3, width=60, height=30))
        'Ab1'
    """
    cased = {c.lower(): c for c in reversed(scheme.alphabet + "".join(scheme.alike))}
    return "".join(cased.get(c.lower(), c) for c in text)
