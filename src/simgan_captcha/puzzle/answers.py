"""The answer rule of the puzzle, which determines the true text of a captcha."""

from hashlib import md5

from simgan_captcha.scheme import HACKMIT_2017

_ALPHABET = HACKMIT_2017.alphabet
_DIGITS = 4
"""Number of hexadecimal digits of the hash for one character."""


def answer(user: str, name: str) -> str:
    """The text of the captcha ``name`` of ``user``: four of a-z0-9.

    Character i is ``alphabet[int(h[4*i : 4*i+4], 16) % 36]`` with ``h = md5(user + name)`` in
    hexadecimal. Names are not trusted, so every string has an answer, even a lone surrogate.

    Example:
        >>> answer("marty", "0123456789abcdef0123456789abcdef")
        'z39k'
    """
    digest = md5((user + name).encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    return "".join(
        _ALPHABET[int(digest[start : start + _DIGITS], 16) % len(_ALPHABET)]
        for start in range(0, _DIGITS * HACKMIT_2017.max_length, _DIGITS)
    )
