import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simgan_captcha.errors import RunError
from simgan_captcha.inference.readings import Reading, load_readings, save_readings

SHARES = st.floats(0, 1)
# Parquet's text is UTF-8, which lone surrogates are not; the store refuses such names.
CHARACTERS = st.characters(exclude_categories=["Cs"])


def of_characters(name: str, confidence: float, characters: list[tuple[str, float]]) -> Reading:
    text = "".join(character for character, _ in characters)
    return Reading(name, text, confidence, tuple(share for _, share in characters))


READINGS = st.builds(
    of_characters,
    name=st.text(CHARACTERS),
    confidence=SHARES,
    characters=st.lists(st.tuples(CHARACTERS, SHARES), max_size=8),
)


@given(readings=st.lists(READINGS, max_size=20))
def test_readings_are_loaded_exactly_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, readings: list[Reading]
) -> None:
    path = tmp_path_factory.mktemp("readings") / "readings.parquet"
    save_readings(path, readings)
    assert load_readings(path) == readings


def test_the_same_readings_are_the_same_file(tmp_path: Path) -> None:
    readings = [Reading("a", "x1", 0.3, (0.5, 0.6)), Reading("b", "y2", math.pi / 4, (1.0, 0.0))]
    for name in "ab":
        save_readings(tmp_path / name, readings)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_columns_for_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "readings.parquet"
    save_readings(path, [Reading("a", "x1", 0.3, (0.5, 0.6))])
    assert pq.read_table(path).to_pylist() == [
        {"name": "a", "text": "x1", "confidence": 0.3, "character_confidence": [0.5, 0.6]}
    ]


def test_missing_readings_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected readings at .*found none; finish"):
        load_readings(tmp_path / "readings.parquet")


@pytest.mark.parametrize(
    ("text", "confidence", "shares", "why"),
    [
        ("xy", 1.5, (0.5, 0.5), r"a confidence of 1\.5, not in \[0, 1\]"),
        ("xy", math.nan, (0.5, 0.5), "a confidence of nan"),
        ("xy", 0.5, (0.5, -0.1), r"a confidence of -0\.1"),
        ("xy", 0.5, (0.5, None), "a confidence of None"),
        ("xyz", 0.5, (0.5, 0.5), "'xyz' lacks a confidence for each character"),
    ],
)
def test_impossible_readings_are_damage(
    tmp_path: Path, text: str, confidence: float, shares: tuple[float, ...], why: str
) -> None:
    save_readings(tmp_path / "r", [Reading("a", text, confidence, shares)])
    with pytest.raises(RunError, match=why):
        load_readings(tmp_path / "r")


@given(data=st.binary(max_size=300))
def test_damaged_readings_are_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "readings.parquet"
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"damaged.*delete it"):
        load_readings(path)


@given(cut=st.integers(0, 5000))
def test_truncated_readings_are_an_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "readings.parquet"
    save_readings(path, [Reading(f"name {n}", "ab12", 0.5, (0.9,) * 4) for n in range(50)])
    path.write_bytes(path.read_bytes()[: min(cut, path.stat().st_size - 1)])
    with pytest.raises(RunError, match=r"damaged.*delete it"):
        load_readings(path)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"something": ["else"]}),
        pa.table({"name": ["a"], "text": ["b"], "confidence": ["high"]}),
        pa.table(
            {
                "name": pa.array([None], pa.string()),
                "text": pa.array([None], pa.string()),
                "confidence": pa.array([None], pa.float64()),
                "character_confidence": pa.array([None], pa.list_(pa.float64())),
            }
        ),
    ],
    ids=["other columns", "other types", "holes"],
)
def test_other_parquet_files_are_an_error(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "readings.parquet")
    with pytest.raises(RunError, match=r"damaged.*delete it"):
        load_readings(tmp_path / "readings.parquet")
