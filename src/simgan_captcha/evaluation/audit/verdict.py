"""How severe it is that texts are read, what each finding asks for, and what no image shows."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

HIGH, MEDIUM = 0.30, 0.10
"""Shares of texts that fall, from which on a verdict is of that severity."""


class Severity(enum.StrEnum):
    """How urgent it is, the least first."""

    low = "low"
    medium = "medium"
    high = "high"

    def reaches(self, other: "Severity") -> bool:
        """Whether this one is at least as severe as another."""
        order = list(Severity)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Finding:
    """A weakness, how it shows, and what to do about it."""

    name: str
    severity: Severity
    evidence: str
    """A sentence with the figures that it rests on."""
    fix: str
    """What the owner should change."""
    effect: float | None = None
    """Share of texts, in [0, 1], that the fix takes from an attacker; None where nothing was
    measured."""


def severity_of(share: float) -> Severity:
    """Severity by the share of texts that fall, in [0, 1].

    Example:
        >>> [str(severity_of(share)) for share in (0.3, 0.1, 0.09)]
        ['high', 'medium', 'low']
    """
    if share >= HIGH:
        return Severity.high
    return Severity.medium if share >= MEDIUM else Severity.low


def most_effective_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings with a measured effect by its size, then the others by severity."""
    order = list(Severity)
    return sorted(
        findings,
        key=lambda one: (one.effect is None, -(one.effect or 0), -order.index(one.severity)),
    )


CHANGE_FIXES = {
    "turned further": "Turn every letter by up to 30 degrees more, each by its own angle.",
    "waved": "Bend every text along a wave of its own.",
    "closer": "Move the letters a quarter closer together, so that they touch or overlap.",
    "many fonts": "Draw every letter in a font of its own, from many fonts.",
    "sizes vary": "Draw every letter up to a third larger or smaller.",
    "fainter": "Draw the letters at half their contrast.",
    "noise": "Add grain of 25 grey levels over the whole image.",
    "coarse JPEG": "Save the image as JPEG of quality 15.",
    "lines": "Draw lines through the text, as strong as its strokes.",
    "more lines": "Draw more lines through the text, as strong as its strokes.",
}
"""What to do, by the name of a change of `measure.changes` that makes reading harder."""


def change_finding(name: str, what: str, points: float, now: float, then: float) -> Finding:
    """A change that costs even a reader which has been fine-tuned on it.

    Args:
        name: Of the change.
        what: It does, in words.
        points: Share that is lost at least, by the intervals of both measurements.
        now: Share of drawn images read right without it, after as much fine-tuning.
        then: The same with it.
    """
    return Finding(
        f"Would cost readers: {what}",
        severity_of(now - then),
        f"Of drawn images {now:.1%} are read as they are and {then:.1%} with this change, each "
        f"after fine-tuning; at least {100 * points:.1f} points are lost by both intervals.",
        CHANGE_FIXES[name],
        effect=now - then,
    )


@dataclass(frozen=True)
class Check:
    """Something no image shows, which the owner checks by hand."""

    question: str
    why: str


CHECKLIST = (
    Check(
        "Is a text accepted twice?",
        "Each captcha must be spent by its first answer, right or wrong; else one that was read "
        "once opens the door for as long as it is valid.",
    ),
    Check(
        "Is an empty or a missing answer refused?",
        "Also after the session has expired, when the stored text may be empty, too.",
    ),
    Check(
        "Is there a limit on tries?",
        "For each address, account and session. Without one, a share of one percent is enough.",
    ),
    Check(
        "Does a wrong answer lead to a new text?",
        "With the same text in a new drawing, an attacker reads it several times and votes.",
    ),
    Check(
        "Does the text stay on the server?",
        "Not in the page, a cookie, a hidden field, the image's address or a reversible token.",
    ),
    Check(
        "Does a captcha expire within minutes?",
        "Else images are gathered first and solved elsewhere.",
    ),
    Check(
        "Is the text drawn from a secure random source?",
        "A generator seeded by the clock can be repeated by somebody else.",
    ),
    Check(
        "Is the audio version as strong as the image?",
        "Attackers take the weaker of the two.",
    ),
    Check(
        "Is the request behind the captcha protected by itself?",
        "Calling it without the page, or with another method, must not pass without an answer.",
    ),
)
"""To be checked by the owner; the audit never sends anything to a server."""
