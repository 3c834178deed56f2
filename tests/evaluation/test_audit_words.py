"""What an owner reads of an audit, and the readers that cost nothing."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from markdown_it import MarkdownIt

from simgan_captcha.errors import RunError, UsageError
from simgan_captcha.evaluation.audit.markdown import audit_markdown, escaped
from simgan_captcha.evaluation.audit.stock_readers import check_stock_readers, stock_rows
from simgan_captcha.evaluation.audit.verdict import CHECKLIST
from simgan_captcha.evaluation.audit.words import (
    audit_in_words,
    effect_in_words,
    labels_in_words,
    verdict_sentences,
)
from simgan_captcha.scheme import Scheme

SCHEME = Scheme(alphabet="abco", equivalents=("o0",), length=2, width=48, height=24)


def figures(**others: Any) -> dict[str, Any]:
    share = {"share": 0.5, "low": 0.4, "high": 0.6}
    return {
        "verdict": {
            "severity": "high",
            "share": 0.5,
            "by": "estimated",
            "falling_per_hour": 5000.0,
        },
        "estimate": {"accuracy": 0.5, "low": 0.4, "high": 0.6},
        "broken": True,
        "labels": None,
        "speed": {"texts_per_hour": 10_000.0, "machine": "a machine", "images": 10, "cores": 1},
        "findings": [
            {
                "name": "Metadata differ (a|b)",
                "severity": "low",
                "evidence": "as '<script>*x*'\n# no heading",
                "fix": "Write none.",
                "effect": None,
            }
        ],
        "looked_at": {"images": 9, "of": 10, "notes": ["1 was left out."]},
        "readers": [
            {
                "name": "ddddocr",
                "images": 200,
                "agrees": share,
                "texts_per_hour": 1234.0,
                "skipped": None,
            },
            {
                "name": "generalist",
                "images": 0,
                "agrees": None,
                "texts_per_hour": None,
                "skipped": "no weights",
            },
        ],
        "cost": {"unlabelled_images": 240, "training_tflop": 1.25, "seconds": 600.0},
        "changes": [
            {"name": "as it is", "what": "unchanged", "as_it_is": share, "learned_on": share}
        ],
        "checklist": [{"question": check.question, "why": check.why} for check in CHECKLIST],
        "drawn_of_each": 100,
        "steps_of_each": 5,
        **others,
    }


def test_markdown_renders_as_headings_tables_and_a_checklist() -> None:
    text = audit_markdown("my *run*", figures())
    tokens = MarkdownIt().enable("table").parse(text)
    headings = [
        tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"
    ]
    assert headings == [
        r"How weak is this captcha? my \*run\*",
        "What to do, most effective first",
        "Readers that cost nothing",
        "What labels would gain",
        "What would cost a reader most",
        "What no image shows",
    ]
    html = MarkdownIt().enable("table").render(text)
    assert html.count("<table>") == 3
    assert html.count("<li>") == len(CHECKLIST)
    assert "<script>" not in html
    assert "Metadata differ (a|b). as '&lt;script&gt;*x*' # no heading" in html
    assert "agrees with the run on 50.0% of 200 real images (40.0% to 60.0%)" in html
    assert "left out: no weights" in html
    assert "1 was left out." in html


def test_without_findings_it_says_so() -> None:
    assert "Nothing was found" in audit_markdown("run", figures(findings=[]))


@pytest.mark.parametrize("text", ["a|b", "<b>", "`x`", "[a](b)", "a\nb", "1 & 2", "~~x~~", "\\"])
def test_what_others_wrote_stays_text(text: str) -> None:
    html = MarkdownIt().enable(["table", "strikethrough"]).render(f"x {escaped(text)}")
    shown = text.replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert html == f"<p>x {shown}</p>\n"


def test_verdict_in_sentences() -> None:
    said = " ".join(verdict_sentences(figures()))
    assert said.startswith("50.0% of texts are read, as estimated without labels. One core of the")
    assert "reads 10,000 texts per hour, about 5,000 correctly" in said
    low = {"severity": "low", "share": 0.05, "by": "judged", "falling_per_hour": 500.0}
    said = " ".join(verdict_sentences(figures(verdict=low)))
    assert "as judged by labels" in said
    assert "one text in a hundred is enough" in said
    said = " ".join(verdict_sentences(figures(verdict=low, broken=False)))
    assert "one text in a hundred" not in said


def test_lines_for_a_terminal_hold_no_escapes() -> None:
    finding = {**figures()["findings"][0], "name": "a\x1b[31mfield"}
    lines = audit_in_words(figures(findings=[finding]))
    assert r"finding (low): a\x1b[31mfield. Write none." in lines
    assert lines[-1] == "severity: high; 10,000 texts per hour on one core"


def test_the_share_of_a_judgement_is_the_one_in_the_terminal() -> None:
    judged = {"severity": "low", "share": 0.05, "by": "judged", "falling_per_hour": 500.0}
    first, *_ = audit_in_words(figures(verdict=judged))
    assert first.startswith("5.0% of captchas are read, as judged by labels")


def test_what_labels_gain_in_words() -> None:
    lesson = {
        "labels": 30,
        "right_before": 20,
        "cross_validated": 26,
        "before": {"accuracy": 0.6},
        "after": {"accuracy": 0.85},
        "better": True,
    }
    taught = figures(labels=lesson)
    said = labels_in_words(taught)
    assert said.startswith(
        "With 30 labels: 85.0% instead of 60.0% of texts are read, as estimated; 26"
    )
    assert "26 instead of 20 of the labelled images" in said
    assert said in audit_markdown("run", taught)
    assert f"labels: {said}" in audit_in_words(taught)
    few = {**lesson, "labels": 1, "after": None, "cross_validated": None, "better": False}
    assert labels_in_words(figures(labels=few)) == (
        "With 1 label: too few for a measurement. An attacker would keep the reader without labels."
    )
    assert "simgan-captcha teach RUN --ask 30" in audit_markdown("run", figures())


def test_effects_in_words() -> None:
    assert effect_in_words(None) == "not measured"
    assert (effect_in_words(0.123), effect_in_words(0.0001)) == ("12.3%", "1 in 10,000")


def stock_module(texts: dict[bytes, str]) -> ModuleType:
    """A module named as the stock reader is, whose answers are known."""

    class DdddOcr:
        def __init__(self, show_ad: bool) -> None: ...

        def classification(self, data: bytes) -> str:
            return texts[data]

    return SimpleNamespace(DdddOcr=DdddOcr)  # type: ignore[return-value]


def test_a_stock_reader_is_compared_within_the_alphabet(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {b"1": "AB", b"2": "c-0", b"3": "ca"}  # and it fails on the fourth
    monkeypatch.setitem(sys.modules, "ddddocr", stock_module(said))
    images = [(f"i{n}", str(n).encode()) for n in range(1, 5)]
    texts = {"i1": "ab", "i2": "co", "i3": "cb", "i4": "ab"}
    rows = {row.name: row for row in stock_rows(["ddddocr"], images, texts, SCHEME)}
    row = rows["ddddocr"]
    assert row.agrees is not None
    assert (row.images, row.agrees[0], row.skipped) == (4, 0.5, None)


def test_a_stock_reader_that_is_missing_is_left_out_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ddddocr", None)  # as if it were not installed
    rows = {row.name: row for row in stock_rows(["ddddocr"], [("i", b"1")], {"i": "ab"}, SCHEME)}
    assert rows["ddddocr"].agrees is None
    assert "run pip install ddddocr" in (rows["ddddocr"].skipped or "")


def test_the_generalist_has_a_row_always(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise RunError("this installation has none")

    monkeypatch.setattr("simgan_captcha.generalist.reader._session", missing)
    (row,) = stock_rows([], [("i", b"1")], {"i": "ab"}, SCHEME)
    assert row.name == "generalist"
    assert row.skipped == "this version of the package comes without its weights"


def test_unknown_stock_readers_are_refused() -> None:
    with pytest.raises(UsageError, match="expected --with ddddocr, got 'tesseract'"):
        check_stock_readers(["tesseract"])
