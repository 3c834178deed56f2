import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha.config.settings import PRESETS, Preset, RunConfig, load_config, resolve_config
from simgan_captcha.errors import ConfigError
from simgan_captcha.pipeline.cost import plan_in_words, planned_training_flops


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_resolve_and_survive_json(preset: Preset) -> None:
    config = resolve_config(preset)
    for mode in ("json", "python"):
        assert load_config(config.model_dump(mode=mode)) == config
    assert load_config(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_presets_differ_and_are_left_alone_by_assignments() -> None:
    assert len({resolve_config(preset).model_dump_json() for preset in PRESETS}) == len(PRESETS)
    before = json.dumps(PRESETS)
    resolve_config("quick", ["simgan.refiner.features=4", "simgan.steps=1", "threads=1"])
    assert json.dumps(PRESETS) == before


@pytest.mark.parametrize(
    ("preset", "budget", "at_most"), [("quick", 75e12, 105e12), ("cpu", 75e12, 165e12)]
)
def test_presets_for_a_laptop_keep_to_their_budget(
    preset: str, budget: float, at_most: float
) -> None:
    """The second where the simulator is needed, too, and a reader is sure of little.

    The plan has all rounds of the distillation. A run whose rounds end earlier takes less.
    """
    config = resolve_config(preset)
    assert 0.5 * budget < planned_training_flops(config) <= budget
    assert budget < planned_training_flops(config, unsure=1.0) <= at_most
    said = plan_in_words(config)
    alone = config.model_copy(update={"pretrained": False})
    least = min(planned_training_flops(config), planned_training_flops(alone))
    assert f" {least / 1e12:.1f} TFLOP" in said
    assert f"up to {planned_training_flops(config, unsure=1.0) / 1e12:.1f}" in said


def test_a_plan_without_the_generalist_is_that_of_the_simulator() -> None:
    config = resolve_config("quick", ["pretrained=false"])
    assert 10e12 < planned_training_flops(config) <= 20e12
    assert planned_training_flops(config, unsure=1.0) <= 35e12
    none = config.adaptation.model_copy(update={"steps": 0})
    assert "up to" not in plan_in_words(config.model_copy(update={"adaptation": none}))


def test_the_original_preset_is_the_system_of_2017() -> None:
    config = resolve_config("original")
    assert (config.encoding, config.generator, config.recognizer.kind) == (
        "binary",
        "original",
        "original",
    )
    assert config.recognizer.images == "refined"
    assert config.refines
    assert not config.simgan.refiner.global_skip
    assert not config.adaptation.steps


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("recognizer.steps=7", "recognizer.steps", 7),
        (" recognizer.steps = 7 ", "recognizer.steps", 7),
        ("recognizer.learning_rate=1e-3", "recognizer.learning_rate", 1e-3),
        ("recognizer.channels=[4,4,4,4,8]", "recognizer.channels", (4, 4, 4, 4, 8)),
        ("recognizer.images=refined", "recognizer.images", "refined"),
        ('recognizer.images="refined"', "recognizer.images", "refined"),
        ("batches=null", "batches", None),
        ("scheme.alphabet=abc=1", "scheme.alphabet", "abc=1"),
        ("simgan.refiner.features=3", "simgan.refiner.features", 3),
        ("adaptation.confidence=0.5", "adaptation.confidence", 0.5),
        ('simulator.fonts=["roboto-black"]', "simulator.fonts", ("roboto-black",)),
        ("simulator.rotation=[-5, 5]", "simulator.rotation", (-5.0, 5.0)),
        ('recognizer={"steps": 9}', "recognizer.steps", 9),
    ],
)
def test_assignments(assignment: str, path: str, value: object) -> None:
    found: Any = resolve_config("cpu", [assignment])
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_the_last_assignment_wins_and_presets_give_way() -> None:
    assert (
        resolve_config("quick", ["recognizer.steps=1", "recognizer.steps=2"]).recognizer.steps == 2
    )
    changed = resolve_config("quick", ["simgan.refiner.features=4"]).simgan
    assert changed.refiner.features == 4
    assert changed.refiner.blocks == resolve_config("quick").simgan.refiner.blocks


@pytest.mark.parametrize(
    ("assignment", "nearest"),
    [
        ("recognizer.step=1", "recognizer.steps"),
        ("recognizer.lerning_rate=1", "recognizer.learning_rate"),
        ("simgan.discriminator.width=1", "simgan.discriminator.widths"),
        ("adaptaton.steps=1", "adaptation"),
        ("thread=1", "threads"),
        ("simgan.refiner.feature=1", "simgan.refiner.features"),
        ("scheme.alfabet=abc", "scheme.alphabet"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(assignment: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {nearest}"):
        resolve_config("quick", [assignment])


def test_a_key_like_no_other_points_to_the_documentation() -> None:
    with pytest.raises(ConfigError, match=r"'zzzzzz'; see docs/configuration\.md"):
        resolve_config("quick", ["zzzzzz=1"])


@pytest.mark.parametrize(
    ("assignment", "key"),
    [
        ("recognizer.steps=0", "recognizer.steps"),
        ("recognizer.steps=many", "recognizer.steps"),
        ("recognizer.steps=1.5", "recognizer.steps"),
        ("recognizer.steps=null", "recognizer.steps"),
        ("recognizer.learning_rate=2", "recognizer.learning_rate"),
        ("recognizer.learning_rate=NaN", "recognizer.learning_rate"),
        ("recognizer.images=blurred", "recognizer.images"),
        ("recognizer.channels=[1,2]", "recognizer.channels"),
        ("recognizer.channels=[4,4,4,4,6]", "recognizer.channels"),
        ("adaptation.confidence=1.1", "adaptation.confidence"),
        ("simgan.refiner.blocks=-1", "simgan.refiner.blocks"),
        ("simgan.history_capacity=2", "simgan"),
        ("scheme.alphabet=aba", "scheme.alphabet"),
        ("scheme.width=1", "scheme.width"),
        ("simulator.rotation=[5,-5]", "simulator"),
        ("precision=16-true", "precision"),
        ("threads=-1", "threads"),
        ("recognizer=5", "recognizer"),
        ("recognizer=[1]", "recognizer"),
    ],
)
def test_a_bad_value_is_one_line_with_the_key_and_the_value(assignment: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config("quick", [assignment])
    message = str(caught.value)
    assert message.startswith(f"{key}")
    assert "; got " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "assignment", ["recognizer.steps", "recognizer", "", "=", "=5", "..=1", "a.=1"]
)
def test_what_is_no_assignment_is_refused(assignment: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        resolve_config("quick", [assignment])


def test_a_value_has_nothing_below_it() -> None:
    with pytest.raises(ConfigError, match=r"recognizer\.steps is a value and has no 'much'"):
        resolve_config("quick", ["recognizer.steps.much=1"])


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="quick, cpu, paper, original; got 'fast'"):
        resolve_config("fast")


@given(assignment=st.text(max_size=40) | st.from_regex(r"recognizer\.[a-z_]+=.*", fullmatch=True))
def test_any_text_is_a_configuration_or_a_clear_error(assignment: str) -> None:
    try:
        config = resolve_config("quick", [assignment])
    except ConfigError:
        return
    assert isinstance(config, RunConfig)


def test_flops_of_what_is_left_out_are_not_planned() -> None:
    def planned(*assignments: str) -> int:
        return planned_training_flops(resolve_config("quick", ["pretrained=false", *assignments]))

    parts = map(planned, ("adaptation.steps=0", "recognizer.steps=1"))
    assert all(0 < part < planned() for part in parts)
    refined = planned("recognizer.images=refined")
    assert refined > planned("recognizer.images=refined", "simgan.steps=1") > planned()


def test_discriminators_of_features_need_a_network_with_features() -> None:
    with pytest.raises(ConfigError, match=r"simgan\.features needs recognizer\.kind=attention"):
        resolve_config("original", ["simgan.features=1"])
    assert resolve_config("quick", ["simgan.features=1"]).simgan.features == 1


@pytest.mark.parametrize("key", ["wavy_baseline", "multiple_fonts"])
def test_what_only_a_layout_draws_is_refused_without(key: str) -> None:
    said = f"scheme.{key}=true"
    with pytest.raises(ConfigError, match=rf"scheme.{key} needs letters that are laid out"):
        resolve_config("quick", [said])
    for layout in ("simulator.layout={}", "scheme.length=[3,4]"):
        assert getattr(resolve_config("quick", [said, layout]).scheme, key)


def test_workers_draw_ahead_for_a_gpu_alone() -> None:
    """On a CPU, the training itself uses all cores."""
    config = resolve_config("quick")
    assert [config.drawing_processes(device) for device in ("cpu", "cuda")] == [0, 1]
    config = resolve_config("quick", ["workers=3"])
    assert [config.drawing_processes(device) for device in ("cpu", "cuda")] == [3, 3]
    with pytest.raises(ConfigError, match="workers"):
        resolve_config("quick", ["workers=-1"])
