"""What goes wrong in adversarial training, seen in the figures and said in words.

Every function takes the latest rows of figures, oldest first, and gives a sentence (what it saw,
with numbers, and what to change) or None. They look at the last `WINDOW` rows and say nothing while
there are fewer, since one bad step is no failure.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

Rows = Sequence[Mapping[str, float]]

WINDOW = 100
"""Adversarial steps looked at."""

WON_DISCRIMINATOR_LOSS = 0.05
"""Nats; below this the discriminator is sure of nearly every patch (undecided: 0.693)."""
WON_ACCURACY = 0.98
"""Fraction of patches told right."""
WON_REFINER_LOSS = 3.0
"""Nats; above this the refiner fools it with less than one patch in twenty."""

IDENTITY_CHANGE = 0.002
"""Mean absolute change per pixel, of a range of 2: a quarter of an 8-bit grey level."""

MIN_LABEL_AGREEMENT = 0.8
"""Fraction of refined images that must still be read as before refining."""


def discriminator_has_won(rows: Rows) -> str | None:
    """Its loss is near zero, its accuracy near one, and the refiner's adversarial loss high.

    Reads ``discriminator_loss``, ``discriminator_accuracy`` and ``adversarial_loss``.
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
    """It changes next to nothing. Reads ``change``: mean absolute change per pixel."""
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
    """The latest ``label_agreement`` is below the bound; rows without one are passed over."""
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
"""Every alarm, by name."""
