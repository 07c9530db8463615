"""Small generated data sets."""

from __future__ import annotations

import json
import random
from pathlib import Path

PEOPLE = ("Anna", "Ben", "Carl", "Dora")
CITIES = ("Paris", "Rome", "Oslo")


def make_rows(count: int, unanswerable: int = 0, long: int = 0) -> list[dict]:
    """Flat rows, all contexts distinct; the first ``long`` have many windows, the last ``unanswerable`` no answer."""
    rows = []
    for number in range(count):
        person, other = PEOPLE[number % 4], PEOPLE[(number + 1) % 4]
        city, elsewhere = CITIES[number % 3], CITIES[(number + 1) % 3]
        filler = "The baker works at the city . " * (25 if number < long else number % 3)
        context = f"{number} . {filler}{person} lives in {city} . {other} lives in {elsewhere} ."
        answer = {"text": [city], "answer_start": [context.index(city)]}
        asked = person
        if number >= count - unanswerable:
            asked, answer = PEOPLE[(number + 2) % 4], {"text": [], "answer_start": []}
        rows.append({"id": f"q{number}", "question": f"Where lives {asked} ?", "context": context, "answers": answer})
    return rows


def mixed_rows(count: int, unanswerable: int = 0, long: int = 0) -> list[dict]:
    """The rows of `make_rows`, shuffled, so that long and unanswerable rows and ids are in no order.

    Answers have one, three or four words.
    """
    rows = make_rows(count, unanswerable, long)
    for number, row in enumerate(rows):
        for city in row["answers"]["text"]:
            text = (city, f"lives in {city}", f"{PEOPLE[number % 4]} lives in {city}")[number // 3 % 3]
            row["answers"] = {"text": [text], "answer_start": [row["context"].index(text)]}
    random.Random(0).shuffle(rows)
    return rows


def write_json(path: Path, rows: list[dict]) -> str:
    path.write_text(json.dumps({"data": rows}))
    return str(path)
