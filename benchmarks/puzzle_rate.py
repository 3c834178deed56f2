"""Measures the puzzle server's time for a challenge and a submission, against plain PIL drawing.

    python benchmarks/puzzle_rate.py

A challenge is 1,000 captchas as JSON. Plain drawing renders and rotates each letter again for each
captcha. It also draws the stripes and lines each time. It gives the same pixels, and writes no
JSON. A submission is 15,000 solutions, 10,000 of them right. The three measurements alternate, five
times. Times are CPU times of this process, which uses one thread. Other work on the machine
therefore has little effect. Writes benchmarks/results/puzzle_rate.json.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from PIL import Image, ImageChops, ImageDraw, ImageFont
from record import RESULTS, provenance

from simgan_captcha.atomic import write_json
from simgan_captcha.puzzle import MOST_SOLUTIONS
from simgan_captcha.puzzle.answers import answer
from simgan_captcha.puzzle.app import BATCH_SIZE, drawn_batch
from simgan_captcha.puzzle.artwork import (
    DEFAULT_FONT,
    FONT_SIZE,
    HEIGHT,
    INK,
    JPEG_QUALITY,
    LINE_WIDTH,
    SLOT_WIDTH,
    WIDTH,
    Artist,
    background_plan,
    letter_plan,
)
from simgan_captcha.puzzle.submission import NEEDED, Passed, check

USER = "marty"


def main() -> None:
    began = provenance()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=BATCH_SIZE, help="in a challenge")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    names = [f"{number:032x}" for number in range(max(options.images, MOST_SOLUTIONS))]
    artist = Artist()
    face = ImageFont.truetype(DEFAULT_FONT, FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    for name in names[:20]:
        assert draw_plainly(face, name).tobytes() == artist.draw(USER, name).tobytes()
    solutions = [
        {"name": name, "solution": answer(USER, name) if number < NEEDED else "????"}
        for number, name in enumerate(names[:MOST_SOLUTIONS])
    ]
    body = json.dumps({"solutions": solutions}).encode()

    def challenge() -> None:
        assert b"".join(drawn_batch(artist, USER, options.images)).endswith(b"]}")

    def plain_drawing() -> None:
        for name in names[: options.images]:
            draw_plainly(face, name).save(io.BytesIO(), "JPEG", quality=JPEG_QUALITY)

    def submission() -> None:
        assert isinstance(check(USER, body, b"key"), Passed)

    seconds: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for work in (challenge, plain_drawing, submission):
            seconds.setdefault(work.__name__, []).append(cpu_seconds(work))
    medians = {name: round(median(each), 4) for name, each in seconds.items()}
    result = {
        **began,
        "unit": "seconds of one core, median of the repeats",
        "images": options.images,
        "solutions": len(solutions),
        **medians,
        "ratio": round(median(seconds["plain_drawing"]) / median(seconds["challenge"]), 2),
        "repeats": {name: [round(one, 4) for one in each] for name, each in seconds.items()},
        "training_flops": 0,
    }
    write_json(options.out / "puzzle_rate.json", result)
    print(f"challenge of {options.images} captchas  {medians['challenge']:>8} s")
    print(f"the same by plain PIL drawing  {medians['plain_drawing']:>8} s")
    print(f"ratio                          {result['ratio']:>8}")
    print(f"submission of {len(solutions)} solutions {medians['submission']:>8} s")


def draw_plainly(face: ImageFont.FreeTypeFont, name: str) -> Image.Image:
    """Draw one captcha without any cache."""
    image = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    plan = background_plan(USER)
    for stripe, colour in enumerate(plan.colours):
        left = stripe * SLOT_WIDTH
        draw.rectangle((left, 0, left + SLOT_WIDTH - 1, HEIGHT - 1), fill=colour)
    for line in plan.lines:
        draw.line((line.start, line.end), fill=(255, 255, 255), width=LINE_WIDTH)
    for letter in letter_plan(USER, name):
        _, _, right, bottom = face.getbbox(letter.character)
        upright = Image.new("L", (max(1, round(right)), max(1, round(bottom))))
        ImageDraw.Draw(upright).text((0, 0), letter.character, font=face, fill=255)
        mask = upright.rotate(letter.angle, expand=True)
        ink = ImageChops.multiply(mask, Image.new("L", mask.size, INK))
        image.paste(Image.merge("RGB", (ink, ink, ink)), (letter.x, letter.y), mask)
    return image


def cpu_seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
