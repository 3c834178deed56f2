import json
from dataclasses import replace

import pytest
import torch

from simgan_captcha.errors import ConfigError
from simgan_captcha.recognizer.network import (
    AttentionRecognizer,
    RecognizerArchitecture,
    build_recognizer,
)
from simgan_captcha.recognizer.train import count_flops

HACKMIT = RecognizerArchitecture(50, 100, 4, 36)
SEED = replace(HACKMIT, kind="original")


@pytest.mark.parametrize(
    ("height", "width", "length", "classes"),
    [(50, 100, 4, 36), (24, 48, 2, 4), (8, 8, 1, 2), (31, 257, 9, 62), (64, 48, 6, 10)],
)
def test_any_size_gives_one_distribution_per_slot(
    height: int, width: int, length: int, classes: int
) -> None:
    architecture = RecognizerArchitecture(height, width, length, classes, channels=(4, 4, 4, 4, 8))
    images = torch.rand(3, 2, height, width) * 2 - 1
    assert build_recognizer(architecture)(images).shape == (3, length, classes)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (50, 100), (60, 160)])
def test_the_original_network_reads_large_enough_images(height: int, width: int) -> None:
    reader = build_recognizer(RecognizerArchitecture(height, width, 4, 36, "original")).eval()
    assert reader(torch.zeros(2, 2, height, width)).shape == (2, 4, 36)


@pytest.mark.parametrize(("height", "width"), [(47, 100), (100, 47), (24, 48), (8, 8)])
def test_the_original_network_refuses_small_images_that_attention_reads(
    height: int, width: int
) -> None:
    with pytest.raises(ConfigError, match=rf"at least 48x48.*got {width}x{height}.*attention"):
        build_recognizer(RecognizerArchitecture(height, width, 4, 36, "original"))
    reader = build_recognizer(RecognizerArchitecture(height, width, 4, 36)).eval()
    assert reader(torch.zeros(1, 2, height, width)).shape == (1, 4, 36)


def test_an_unknown_kind_is_refused() -> None:
    architecture = RecognizerArchitecture.from_description(
        {**HACKMIT.describe(), "kind": "transformer"}
    )
    with pytest.raises(ConfigError, match="attention or original, got 'transformer'"):
        build_recognizer(architecture)


def test_cost_of_reading_one_captcha() -> None:
    default = count_flops(HACKMIT, 1, backward=False) / 2e6
    seed = count_flops(SEED, 1, backward=False) / 2e6
    assert default == pytest.approx(25.9, abs=0.2)
    assert seed == pytest.approx(333, abs=2)


def test_description_survives_json() -> None:
    architecture = RecognizerArchitecture(24, 48, 2, 4, channels=(4, 4, 4, 4, 8))
    described = json.loads(json.dumps(architecture.describe()))
    assert RecognizerArchitecture.from_description(described) == architecture


def test_only_attention_uses_the_line_mask() -> None:
    images = torch.rand(2, 2, 50, 100) * 2 - 1
    other = images.clone()
    other[:, 1] *= -1
    for architecture, same in ((SEED, True), (HACKMIT, False)):
        reader = build_recognizer(architecture).eval()
        assert torch.equal(reader(images), reader(other)) is same


def test_every_weight_is_learned() -> None:
    reader = build_recognizer(RecognizerArchitecture(24, 48, 2, 4, channels=(4, 4, 4, 4, 8)))
    logits = reader(torch.rand(4, 2, 24, 48) * 2 - 1)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.arange(8) % 4)
    names, parameters = zip(*reader.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
        assert gradient.abs().max() > 0, name


def test_attention_without_keys_equals_attention() -> None:
    torch.manual_seed(1)
    reader = build_recognizer(RecognizerArchitecture(24, 48, 2, 4, channels=(4, 4, 4, 4, 8)))
    assert isinstance(reader, AttentionRecognizer)
    positions = 6 * 12
    placed, count = torch.randn(3, positions, 8), torch.rand(3, 12) * 2
    weights = reader._attend(placed, count)

    def split(vectors: torch.Tensor) -> torch.Tensor:
        return torch.stack(vectors.chunk(reader.heads, -1), 1)

    codes = reader.counting.codes(count).repeat(1, 6, 1)
    leaning = reader.counting.leaning(count).repeat(1, 1, 1, 6)
    expected = torch.nn.functional.scaled_dot_product_attention(
        split(reader.query.expand(3, -1, -1)),
        split(reader.key(placed + codes)),
        split(reader.value(placed)),
        attn_mask=leaning,
    )
    slots = reader._gather(weights, placed)
    torch.testing.assert_close(slots, expected.transpose(1, 2).flatten(2))


def test_a_slot_attends_anywhere_on_the_map() -> None:
    reader = build_recognizer(RecognizerArchitecture(24, 96, 4, 4, channels=(4, 4, 4, 4, 8))).eval()
    images = (torch.rand(64, 2, 24, 96) * 2 - 1).requires_grad_()
    for slot in range(4):
        (gradient,) = torch.autograd.grad(reader(images)[:, slot].sum(), images)
        assert (gradient.abs().sum((0, 1, 2)).reshape(4, 24).amax(1) > 0).all()


def test_slots_use_the_predictions_at_attended_positions() -> None:
    reader = build_recognizer(RecognizerArchitecture(24, 48, 2, 4, channels=(4, 4, 4, 4, 8))).eval()
    assert isinstance(reader, AttentionRecognizer)
    images = torch.rand(3, 2, 24, 48) * 2 - 1
    rows, columns = 6, 12
    left = torch.zeros(1, rows * columns, 5)
    left.view(rows, columns, 5)[:, : columns // 2, 2] = 20  # class 2 in the left half
    left.view(rows, columns, 5)[:, columns // 2 :, 4] = 20  # no character in the right half
    with torch.no_grad():
        reader.counting.narrowness.fill_(5)  # the first slot attends left, the second right
        reader.middles.register_forward_hook(lambda *_: left.expand(3, -1, -1))
        told = reader(images)
        assert (told[:, 0].argmax(-1) == 2).all()
        assert (told[:, 0, 2] > told[:, 1, 2] + 2).all()
