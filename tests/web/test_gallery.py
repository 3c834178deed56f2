from pathlib import Path

import httpx
import pytest

from simgan_captcha.data.batch import Captcha
from simgan_captcha.data.store import CaptchaStore
from simgan_captcha.errors import RunError
from simgan_captcha.inference.readings import Reading, save_readings
from simgan_captcha.pipeline.run_folder import READINGS
from simgan_captcha.web.gallery import PAGE_SIZE, Gallery, captcha_key
from tests.web.serving import asking, serving
from tests.web.test_read_api import a_problem


def reading(name: str, text: str, confidence: float) -> Reading:
    return Reading(name, text, confidence, (confidence, 1.0))


def write(run: Path, readings: list[Reading]) -> Gallery:
    save_readings(run / READINGS, readings)
    return Gallery(run)


def test_all_readings_are_on_exactly_one_page_in_each_order(tmp_path: Path) -> None:
    count = 2 * PAGE_SIZE + 7
    gallery = write(tmp_path, [reading(f"{n}", "ab", n * 7 % count / count) for n in range(count)])
    for order in ("least", "most", "random"):
        pages = [gallery.page(number, order, None) for number in (1, 2, 3)]
        assert [(page.number, page.pages, page.found) for page in pages] == [
            (number, 3, count) for number in (1, 2, 3)
        ]
        assert [page.first for page in pages] == [1, 1 + PAGE_SIZE, 1 + 2 * PAGE_SIZE]
        shown = [each for page in pages for each in page.readings]
        assert len({each.name for each in shown}) == len(shown) == count
        sure = [each.confidence for each in shown]
        if order == "random":
            assert sure != sorted(sure)
            assert sure != sorted(sure)[::-1]
        else:
            assert sure == sorted(sure, reverse=order == "most")


def test_a_character_filters_and_pages_end(tmp_path: Path) -> None:
    gallery = write(tmp_path, [reading("1", "ab", 0.5), reading("2", "bb", 0.4)])
    assert [each.name for each in gallery.page(1, "least", "a").readings] == ["1"]
    assert [each.name for each in gallery.page(1, "least", "b").readings] == ["2", "1"]
    nothing = gallery.page(9, "least", "c")
    assert (nothing.number, nothing.pages, nothing.found, nothing.readings) == (1, 1, 0, [])
    assert gallery.page(99, "least", None).number == 1


def test_questions_leave_out_what_was_answered(tmp_path: Path) -> None:
    gallery = write(tmp_path, [reading(f"{n}", "ab", n / 100) for n in range(PAGE_SIZE + 5)])
    first = gallery.questions(set(), None)
    assert (first.found, first.pages, len(first.readings)) == (PAGE_SIZE + 5, 1, PAGE_SIZE)
    answered = {each.name for each in first.readings}
    second = gallery.questions(answered, None)
    assert second.found == len(second.readings) == 5
    assert not answered & {each.name for each in second.readings}
    assert gallery.questions(set(), "c").found == 0


def test_new_readings_are_shown(tmp_path: Path) -> None:
    gallery = write(tmp_path, [reading("1", "ab", 0.5)])
    assert gallery.reading(captcha_key("1")) == reading("1", "ab", 0.5)
    write(tmp_path, [reading("2", "bb", 0.4)])
    assert gallery.reading(captcha_key("1")) is None
    assert gallery.page(1, "least", None).readings == [reading("2", "bb", 0.4)]
    (tmp_path / READINGS).write_bytes(b"damaged")
    with pytest.raises(RunError, match="damaged"):
        gallery.page(1, "least", None)
    write(tmp_path, [Reading("2", "bb", 0.4, (0.4,))])
    with pytest.raises(RunError, match="a confidence for each character"):
        gallery.page(1, "least", None)


def test_captchas_are_served_as_they_were_received(
    client: httpx.Client, captchas: dict[str, bytes]
) -> None:
    for name, image in list(captchas.items())[:5]:
        reply = client.get(f"/api/captchas/{captcha_key(name)}")
        assert reply.content == image
        assert reply.headers["content-type"] == "image/jpeg"
    for key in ("0" * 64, "..", "x" * 1000, "%2e%2e%2frun.json"):
        assert client.get(f"/api/captchas/{key}").status_code == 404


def test_captchas_of_hostile_names_are_shown_and_corrected(tmp_path: Path, run: Path) -> None:
    image = next(iter(CaptchaStore(run / "store").in_content_order().images))
    names = ["../../x", "a\0b", "x" * 10_000, "🙂", "<script>alert(1)</script>", '"', "a\r\nb"]
    CaptchaStore(run / "store").add("hostile", [Captcha(name, image) for name in names])
    save_readings(run / READINGS, [reading(name, "ab", 0.5) for name in names])
    with serving(run) as address, asking(address) as client:
        page = client.get("/review")
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        for name in names:
            key = captcha_key(name)
            assert f'data-key="{key}"' in page.text
            assert client.get(f"/api/captchas/{key}").content == image
            assert client.put(f"/api/corrections/{key}", json={"text": "1c"}).status_code == 200
        assert client.get("/review?order=least").text.count('data-correction="1c"') == len(names)


def test_queries_out_of_range_are_problems(client: httpx.Client) -> None:
    for query in ("page=0", "page=x", "page=99999999999", "order=x", "character=ab"):
        a_problem(client.get(f"/review?{query}"), 422)
    assert client.get("/review?character=%3Cx").status_code == 422
    assert client.get("/review?page=999999&character=%22").status_code == 200


def test_a_damaged_store_or_correction_file_is_reported_with_the_rest(run: Path) -> None:
    (run / "review").mkdir()
    (run / "review" / "corrections.json").write_text("{")
    part = next((run / "store").glob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with serving(run) as address, asking(address) as client:
        page = client.get("/review")
        assert page.status_code == 200
        assert "repair it or move it away" in page.text
        assert 'class="card"' in page.text
        a_problem(client.get(f"/api/captchas/{'0' * 64}"), 503, "damaged")
        (run / READINGS).unlink()
        assert "no readings yet" in client.get("/review").text
