"""Texts of synthetic captchas: random characters, pseudo-words and sums."""

from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Literal

import numpy as np

from simgan_captcha.scheme import SIGNS

TextKind = Literal["random", "word", "sum"]

_CONFUSABLE = "0O1Il2Z5S8B6Gg9qoijuvUV"
"""Characters that many sites leave out."""
_ALPHABETS = (
    (digits, 4.0),
    (ascii_lowercase, 2.0),
    (ascii_uppercase, 2.0),
    (digits + ascii_lowercase, 3.0),
    (digits + ascii_uppercase, 3.0),
    (ascii_lowercase + ascii_uppercase, 1.5),
    (digits + ascii_lowercase + ascii_uppercase, 4.0),
    (digits + ascii_lowercase + ascii_uppercase + SIGNS, 1.0),
)
_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxyz"


@dataclass(frozen=True)
class TextStyle:
    """What the texts of one family have in common."""

    kind: TextKind
    alphabet: str
    shares: tuple[float, ...]
    """Relative frequency of each character of the alphabet; they sum to 1."""
    lengths: tuple[int, int]
    """Fewest and most characters."""
    upper: bool = False
    """Whether pseudo-words are in capitals."""


def draw_text_style(generator: np.random.Generator) -> TextStyle:
    """A family's alphabet, letter frequencies and lengths."""
    weights = np.array([weight for _, weight in _ALPHABETS])
    alphabet = _ALPHABETS[generator.choice(len(_ALPHABETS), p=weights / weights.sum())][0]
    if generator.random() < 0.3:
        left = "".join(c for c in alphabet if c not in _CONFUSABLE or generator.random() < 0.3)
        alphabet = left if len(left) > 3 else alphabet
    elif generator.random() < 0.1:
        chosen = generator.permutation(list(alphabet))[: generator.integers(4, 20)]
        alphabet = "".join(sorted(chosen))
    shares = np.ones(len(alphabet))
    if generator.random() < 0.3:
        # Uneven frequencies: a symmetric Dirichlet distribution of concentration 2.
        shares = generator.gamma(2.0, size=len(alphabet)) + 1e-3
    shares /= shares.sum()
    usual = int(generator.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], p=_LENGTH_SHARES))
    spread = int(generator.integers(1, 4)) if generator.random() < 0.3 else 0
    roll = generator.random()
    kind: TextKind = "sum" if roll < 0.08 else "word" if roll < 0.16 else "random"
    return TextStyle(
        kind,
        alphabet,
        tuple(shares.tolist()),
        (usual, min(10, usual + spread)),
        upper=bool(generator.random() < 0.4),
    )


_LENGTH_SHARES = (0.04, 0.05, 0.08, 0.32, 0.23, 0.14, 0.06, 0.04, 0.02, 0.02)


def draw_text(style: TextStyle, generator: np.random.Generator) -> str:
    """One text."""
    if style.kind == "sum":
        return _sum(generator)
    length = int(generator.integers(style.lengths[0], style.lengths[1] + 1))
    if style.kind == "word":
        letters = "".join(
            generator.choice(list(_VOWELS if at % 2 else _CONSONANTS)) for at in range(length)
        )
        return letters.upper() if style.upper else letters
    return "".join(generator.choice(list(style.alphabet), size=length, p=style.shares).tolist())


def _sum(generator: np.random.Generator) -> str:
    # 1 to 19 and 0 to 19, as sites ask: small numbers, the tens rarer.
    first, second = generator.integers(1, 20), generator.integers(0, 20)
    if generator.random() < 0.5:
        first, second = first % 10, second % 10
    sign = generator.choice(list("+++--*×/÷"))
    return f"{first}{sign}{second}{generator.choice(['', '', '=', '=?'])}"
