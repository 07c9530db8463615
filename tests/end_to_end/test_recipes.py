"""The benchmark of recipes: real runs of small models on articles, their figures, the page's table and its picture."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from tests.helpers import commands
from tests.helpers.data import make_rows
from tests.helpers.paths import ROOT

FLAGS = (
    *("--data.max_length", "48", "--data.doc_stride", "12", "--data.max_question_length", "12"),
    *("--model.learning_rate", "2e-3", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2"),
)


@pytest.fixture
def bench(monkeypatch):
    """The modules of the benchmark and its picture, with two recipes: a teacher and its student."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bench_recipes
    import figures
    import plot_recipes

    one = bench_recipes.Recipe(FLAGS, large=True)
    other = bench_recipes.Recipe(FLAGS, "2.0", teacher="large")
    monkeypatch.setattr(bench_recipes, "RECIPES", {"large": one, "v2-small-data": other})
    asked: list[str] = []

    def ours(*words: str) -> None:
        asked.append(words[0])
        assert getattr(commands, words[0])(list(words[1:])) == 0

    monkeypatch.setattr(bench_recipes, "ours", ours)
    return SimpleNamespace(recipes=bench_recipes, plot=plot_recipes, figures=figures, asked=asked)


def articles(count: int, unanswerable: int) -> dict:
    """A file as SQuAD's, with articles of three questions."""
    rows = make_rows(3 * count, unanswerable)
    listed: list[dict] = [{"title": f"t{number:02}", "paragraphs": []} for number in range(count)]
    for number, row in enumerate(rows):
        texts, starts = row["answers"].values()
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        asked = {"id": row["id"], "question": row["question"], "answers": answers, "is_impossible": not answers}
        listed[number % count]["paragraphs"].append({"context": row["context"], "qas": [asked]})
    return {"version": "2.0", "data": listed}


def test_recipes_are_run_once_and_scored_on_articles_that_they_were_not_trained_on(
    bench, tmp_path, model_folder, monkeypatch, capsys
) -> None:
    for version, names in bench.recipes.FILES.items():
        for name, count in zip(names, (16, 6, 16), strict=True):
            content = articles(count, 9 if version == "2.0" else 0)
            (tmp_path / name).write_text(json.dumps(content))
    output = tmp_path / "recipes.json"
    words = ["bench_recipes.py", "--data", str(tmp_path), "--small", model_folder, "--large", model_folder]
    words += ["--runs", str(tmp_path / "runs"), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", words)
    bench.recipes.main()
    assert bench.asked == ["train", "evaluate"] * 2
    first = json.loads(output.read_text())["runs"]
    bench.recipes.main()
    assert bench.asked == ["train", "evaluate"] * 2
    assert json.loads(output.read_text())["runs"] == first
    assert "v2-small-data: minutes 0." in capsys.readouterr().out

    titles = {}
    for part in ("train", "third"):
        listed = json.loads((tmp_path / "runs" / f"v2.0-{part}.json").read_text())["data"]
        titles[part] = {article["title"] for article in listed}
    assert titles["third"] == {"t03", "t11"}
    assert titles["train"] == {f"t{number:02}" for number in range(16)} - titles["third"]

    one, other = first
    assert (one["variant"], one["model"], one["version"]) == ("large", "MPNet", "1.1")
    assert [len(run["f1_by_minute"]) for run in first] == [2, 2]
    assert one["f1_by_minute"][-1][0] < one["minutes"]
    assert one["f1"] == pytest.approx(max(f1 for _, f1 in one["f1_by_minute"]), abs=1e-3)
    third = tmp_path / "runs" / "v1.1-third.json"
    answers = json.loads((tmp_path / "runs" / "large-42" / "third" / "predictions.json").read_text())
    saved = tmp_path / "answers.json"
    saved.write_text(json.dumps(answers))
    capsys.readouterr()
    assert commands.evaluate(["--predictions", str(saved), "--data", str(third)]) == 0
    assert f"f1             {one['third_f1']:.4f}" in capsys.readouterr().out
    assert json.loads(
        (tmp_path / "runs" / "v2-small-data-42" / "lightning_logs" / "version_0" / "run.json").read_text()
    )[0]["teacher"]["name"].endswith("model")
    assert other["third_ece"][1] <= other["third_ece"][0] <= other["third_ece"][2] + 1e-9

    alone = dict(bench.recipes.RECIPES) | {"ensemble": bench.recipes.Recipe(FLAGS, of="large")}
    monkeypatch.setattr(bench.recipes, "RECIPES", alone)
    together = tmp_path / "together.json"
    monkeypatch.setattr(sys, "argv", [*words[:-1], str(together), "--only", "ensemble", "--seeds", "42", "42"])
    bench.recipes.main()
    assert bench.asked[-2:] == ["evaluate", "evaluate"]
    (found,) = json.loads(together.read_text())["runs"]
    assert found["models"] == 2
    for name in ("em", "f1", "third_em", "third_f1"):  # of one model twice are its own
        assert found[name] == pytest.approx(one[name], abs=1e-4)

    before = bench.figures.Result.read(ROOT / "benchmarks" / "results" / "recipes-before.json")
    drawn = bench.plot.drawn(bench.figures.Result.read(output), before)
    drawn.savefig(tmp_path / "recipes.png")
    assert [axis.get_title() for axis in drawn.axes] == ["SQuAD v1.1", "SQuAD v2.0"]
    for run, axis in zip(first, drawn.axes, strict=True):
        line = axis.get_lines()[1]
        assert list(line.get_xdata())[-1] == pytest.approx(run["minutes"])
        assert list(line.get_ydata())[-1] == pytest.approx(run["f1"])
        assert len(line.get_xdata()) == 3


def test_the_page_has_a_row_for_each_recipe(bench, tmp_path) -> None:
    import contents

    run = {"variant": "large", "round": 1, "version": "1.1", "model": "MPNet", "minutes": 19.1, "em": 60.0, "f1": 72.58}
    run |= {"third_em": 61.5, "third_f1": 73.25, "third_ece": [3.31, 2.8, 7.04], "third_at_90": [12.0, 4.6, 24.8]}
    head = {"command": "c", "machine": "m", "versions": {}, "date": "2026-01-01"}
    (tmp_path / "recipes.json").write_text(json.dumps({**head, "runs": [run]}))
    other = {"variant": "large", "round": 1, "em": 62.0, "f1": 73.1, "third_em": 60.5, "third_f1": 73.0}
    (tmp_path / "recipes-seeds.json").write_text(json.dumps({**head, "runs": [other]}))
    earlier = {
        "transcribed": "t",
        "figures": {"2.0 MiniLM: small_data, 4 epochs": {"minutes": 52, "em": 51.5, "f1": 54.55}},
    }
    (tmp_path / "recipes-before.json").write_text(json.dumps({**head, **earlier}))
    row, last = contents.recipes(bench.figures.Results(tmp_path)).splitlines()[2:]
    assert last == "| before, on more articles: small_data, 4 epochs | MiniLM, v2.0 | 52 | 51.5 / 54.55 | | | |"
    assert row.startswith(
        "| `small_data_base`, 1,400 steps | MPNet, v1.1 | 19 | 61.0 / 72.84 (2 seeds, F1 72.58 to 73.1) | "
    )
    assert "| 61.0 / 73.13 (2 seeds, F1 73.0 to 73.25) | " in row
    assert row.endswith("| 3.3% (2.8 to 7.0) | 12.0% (4.6 to 24.8) |")


def test_the_page_has_a_row_for_each_recipe_beside_fast_cpu(bench, tmp_path) -> None:
    import contents

    run = {"variant": "ensemble", "round": 1, "em": 57.4322, "f1": 69.1754, "third_em": 58.5, "third_f1": 71.25}
    run |= {"third_ece": [8.9062, 6.47, 12.503], "third_auroc": [75.0, 70.04, 80.06]}
    run |= {"third_at_90": [20.04, 10.5, 30.01]}
    head = {"command": "c", "machine": "m", "versions": {}, "date": "2026-01-01"}
    (tmp_path / "recipes-more.json").write_text(json.dumps({**head, "runs": [run]}))
    (row,) = contents.more_recipes(bench.figures.Results(tmp_path)).splitlines()[2:]
    assert row.startswith("| three models of `fast_cpu` together")
    assert row.endswith(
        "| 57.43 / 69.18 | 58.5 / 71.25 | 8.9% (6.5 to 12.5) | 75.0% (70.0 to 80.1) | 20.0% (10.5 to 30.0) |"
    )


def test_the_page_has_a_row_for_each_share_of_the_windows_without_an_answer(bench, tmp_path) -> None:
    import contents

    runs = [
        {"variant": f"long-{kept}", "round": 1, "em": 33.4322, "f1": 44.1754 + step}
        | {"third_em": 36.1239, "third_f1": 50.6644, "third_ece": [8.9062, 6.47, 12.503]}
        for step, kept in enumerate(("1", "0.1"))
    ]
    head = {"command": "c", "machine": "m", "versions": {}, "date": "2026-01-01"}
    (tmp_path / "recipes-long.json").write_text(json.dumps({**head, "runs": runs}))
    rows = contents.long_contexts(bench.figures.Results(tmp_path)).splitlines()[2:]
    assert rows == [
        "| `1` | 33.43 / 44.18 | 36.12 / 50.66 | 8.9% (6.5 to 12.5) |",
        "| `0.1` | 33.43 / 45.18 | 36.12 / 50.66 | 8.9% (6.5 to 12.5) |",
    ]


def test_answers_stand_at_their_places_in_joined_paragraphs(bench, tmp_path) -> None:
    recipe = bench.recipes.Recipe((), paragraphs=3, share=0.5)
    data = articles(20, 0)
    names = bench.recipes.FILES["1.1"]
    for name in names:
        (tmp_path / name).write_text(json.dumps(data))
    options = SimpleNamespace(data=tmp_path, runs=tmp_path / "runs")
    train, validation, third = (
        json.loads(path.read_text())["data"] for path in bench.recipes.articles(recipe, options)
    )
    assert [len(part) for part in (train, validation, third)] == [9, 20, 3]  # half of 17 that are no third part
    assert not {one["title"] for one in train} & {one["title"] for one in third}
    for article in (*train, *validation, *third):
        (joined,) = article["paragraphs"]  # of three
        assert joined["context"].count("\n\n") == 2
        assert len(joined["qas"]) == 3
        for question in joined["qas"]:
            for answer in question["answers"]:
                assert joined["context"][answer["answer_start"] :].startswith(answer["text"])
