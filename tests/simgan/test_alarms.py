import pytest

from simgan_captcha.simgan import (
    discriminator_has_won,
    refiner_is_identity,
    refining_destroys_labels,
)
from simgan_captcha.simgan.alarms import ALARMS, WINDOW

HEALTHY = {
    "discriminator_loss": 0.6,
    "discriminator_accuracy": 0.65,
    "adversarial_loss": 0.8,
    "change": 0.05,
    "label_agreement": 0.97,
}
# The original project's logged losses.
WON = {
    "discriminator_loss": 1e-10,
    "discriminator_accuracy": 1.0,
    "adversarial_loss": 27.0,
    "change": 0.1,
}
IDENTITY = HEALTHY | {"change": 0.0004}


@pytest.mark.parametrize("name", list(ALARMS))
def test_silent_while_all_is_well_and_before_anything_is_known(name: str) -> None:
    assert ALARMS[name]([HEALTHY] * WINDOW) is None
    assert ALARMS[name]([]) is None


def test_won_discriminator_is_named_with_its_numbers() -> None:
    sentence = discriminator_has_won([HEALTHY] * 10 + [WON] * WINDOW)
    assert sentence is not None
    for part in ("discriminator has won", "1e-10", "100.0%", "27", "value range", "lower"):
        assert part in sentence


@pytest.mark.parametrize(
    "change",
    [{"discriminator_loss": 0.1}, {"discriminator_accuracy": 0.9}, {"adversarial_loss": 1.0}],
)
def test_strong_discriminator_alone_is_no_alarm(change: dict[str, float]) -> None:
    assert discriminator_has_won([WON | change] * WINDOW) is None


def test_identity_is_named() -> None:
    sentence = refiner_is_identity([IDENTITY] * WINDOW)
    assert sentence is not None
    assert "identity" in sentence
    assert "0.0004" in sentence
    assert "Lower regularization" in sentence


def test_only_when_it_lasts() -> None:
    for alarm, row in ((discriminator_has_won, WON), (refiner_is_identity, IDENTITY)):
        assert alarm([row] * (WINDOW - 1)) is None
        assert alarm([HEALTHY] * (WINDOW // 2) + [row] * (WINDOW // 2)) is None


def test_destroyed_labels_are_named_by_the_latest_measurement() -> None:
    without = {"change": 0.1}
    sentence = refining_destroys_labels([HEALTHY, {"label_agreement": 0.412}, without])
    assert sentence is not None
    assert "41.2%" in sentence
    assert "80%" in sentence
    assert "Raise regularization" in sentence
    assert refining_destroys_labels([{"label_agreement": 0.4}, HEALTHY]) is None
    assert refining_destroys_labels([without] * WINDOW) is None
