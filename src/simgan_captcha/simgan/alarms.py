"""Alarms that detect failures of adversarial training in its figures.

Each function takes the latest rows of figures, oldest first. It returns None, or a sentence with
the measured numbers and the setting to change. It considers the last `WINDOW` rows, and returns
None if there are fewer, because one bad step is no failure.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

Rows = Sequence[Mapping[str, float]]

WINDOW = 100
"""Number of adversarial steps that an alarm considers."""

WON_DISCRIMINATOR_LOSS = 0.05
"""Loss in nats below which the discriminator is confident about nearly every patch. An undecided
discriminator has a loss of ln 2 = 0.693."""
WON_ACCURACY = 0.98
"""Fraction of correctly classified patches from which the discriminator has won."""
WON_REFINER_LOSS = 3.0
"""Adversarial loss in nats above which fewer than one refined patch in twenty looks real."""

IDENTITY_CHANGE = 0.002
"""Mean absolute change per pixel, for a range of 2; it is a quarter of an 8-bit grey level."""

MIN_LABEL_AGREEMENT = 0.8
"""Smallest acceptable fraction of images with the same reading before and after refining."""


def discriminator_has_won(rows: Rows) -> str | None:
    """Detect a discriminator with a loss near zero while the adversarial loss is high.

    Its accuracy must also be near one. The function uses the figures ``discriminator_loss``,
    ``discriminator_accuracy`` and ``adversarial_loss``.
    """
    recent = rows[-WINDOW:]
    if len(recent) < WINDOW:
        return None
    loss = fmean(row["discriminator_loss"] for row in recent)
    accuracy = fmean(row["discriminator_accuracy"] for row in recent)
    fooling = fmean(row["adversarial_loss"] for row in recent)
    if loss > WON_DISCRIMINATOR_LOSS or accuracy < WON_ACCURACY or fooling < WON_REFINER_LOSS:
        return None
    return (
        f"the discriminator has won: over the last {WINDOW} steps its loss is {loss:.2g} and it "
        f"tells {accuracy:.1%} of the patches right, the refiner's adversarial loss is "
        f"{fooling:.2g}. Check that synthetic and real images share one value range and one "
        "encoding; then lower discriminator_learning_rate or regularization, or raise "
        "refiner_updates"
    )


def refiner_is_identity(rows: Rows) -> str | None:
    """Detect a refiner that changes almost nothing.

    The function uses the figure ``change``, the mean absolute change per pixel.
    """
    recent = rows[-WINDOW:]
    if len(recent) < WINDOW:
        return None
    change = fmean(row["change"] for row in recent)
    if change > IDENTITY_CHANGE:
        return None
    return (
        f"the refiner has become the identity: over the last {WINDOW} steps it changes a pixel by "
        f"{change:.2g} on average, of a range of 2. Lower regularization, or raise "
        "refiner_learning_rate; if synthetic images look real already, refining is not needed"
    )


def refining_destroys_labels(rows: Rows) -> str | None:
    """Detect a low latest ``label_agreement``; rows without this figure are skipped."""
    measured = [row["label_agreement"] for row in rows if "label_agreement" in row]
    if not measured or measured[-1] >= MIN_LABEL_AGREEMENT:
        return None
    return (
        f"refining destroys the labels: of the images read before and after refining only "
        f"{measured[-1]:.1%} are read the same, expected at least {MIN_LABEL_AGREEMENT:.0%}. "
        "Raise regularization or train fewer steps"
    )


ALARMS: Mapping[str, Callable[[Rows], str | None]] = {
    "discriminator_has_won": discriminator_has_won,
    "refiner_is_identity": refiner_is_identity,
    "refining_destroys_labels": refining_destroys_labels,
}
"""All alarms by name."""
