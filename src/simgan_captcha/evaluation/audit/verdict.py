"""Severity of weaknesses, findings with fixes, and a checklist for the owner."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

HIGH, MEDIUM = 0.30, 0.10
"""Shares of correctly read texts from which the severity is high or medium."""


class Severity(enum.StrEnum):
    """Severity of a weakness, in ascending order."""

    low = "low"
    medium = "medium"
    high = "high"

    def reaches(self, other: "Severity") -> bool:
        """Whether this severity is at least the other one."""
        order = list(Severity)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True)
class Finding:
    """A weakness with its evidence and a fix."""

    name: str
    severity: Severity
    evidence: str
    """A sentence with the measured figures."""
    fix: str
    """A sentence about the change that the owner should make."""
    effect: float | None = None
    """Share of texts, in [0, 1], that an attacker can no longer read after the fix; None if it was
    not measured."""


def severity_of(share: float) -> Severity:
    """Severity for a share of correctly read texts, in [0, 1].

    Example:
        >>> [str(severity_of(share)) for share in (0.3, 0.1, 0.09)]
        ['high', 'medium', 'low']
    """
    if share >= HIGH:
        return Severity.high
    return Severity.medium if share >= MEDIUM else Severity.low


def most_effective_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings with a measured effect by its size, followed by the others by severity."""
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
"""Fixes by the names of changes in `measure.changes` that make reading harder."""


def change_finding(name: str, what: str, points: float, now: float, then: float) -> Finding:
    """Make a finding for a change that makes even a fine-tuned reader worse.

    Args:
        name: Name of the change.
        what: Description of the change.
        points: Smallest loss of accuracy that the intervals of both measurements allow.
        now: Share of drawn images that are read correctly without the change, after the same
            fine-tuning.
        then: The same share with the change.
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
    """A question about the captcha that images cannot answer, for the owner to check."""

    question: str
    why: str


CHECKLIST = (
    Check(
        "Is a text accepted twice?",
        "The first answer, right or wrong, must use up a captcha. Otherwise one solved text works "
        "until it expires.",
    ),
    Check(
        "Is an empty or a missing answer refused?",
        "This also holds after the session has expired, when the stored text may be empty.",
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
        "Otherwise attackers collect images first and solve them elsewhere.",
    ),
    Check(
        "Is the text drawn from a secure random source?",
        "A generator seeded by the clock can be repeated by others.",
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
"""Questions for the owner. The audit never sends anything to a server."""
