"""Questions in groups: by what, with which scores, and the costliest first."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from qa_lightning.pages.report import ErrorReport
from qa_lightning.pages.slices import MAX_GROUPS, Labels, slices
from tests.helpers.scored import Asked, scored

CONTEXT = "Anna lives in Paris . Ben works in the city of Oslo ."


def labels_of(*asked: Asked, **settings) -> dict[str, list[str]]:
    found = scored(list(asked), **settings)
    labels = Labels(found)
    for question in found.questions():
        labels.add(question)
    return labels.take()


def asking(question: str) -> Asked:
    return Asked(CONTEXT, ("Paris",), (("Paris", 1.0),), question=question)


def test_question_words() -> None:
    asked = ("Who lives ?", "In whose city ?", "how many live ?", "How MUCH is it ?", "how old ?", "In what city ?")
    assert labels_of(*map(asking, asked), asking("Name it"))["question word"] == [
        *("who", "who", "how many, how much", "how many, how much", "how", "what", "other")
    ]


def test_in_other_languages_it_is_the_first_word() -> None:
    asked = ["Wo wohnt Anna ?", "Wer wohnt in Rom ?", "Wo arbeitet Ben ?"]
    assert labels_of(*map(asking, asked))["question word"] == ["wo", "wer", "wo"]


def test_properties_of_answers_and_contexts() -> None:
    long = "in the city " * 60 + "Paris"
    found = labels_of(
        Asked(CONTEXT, ("city of Oslo", "Oslo"), (("Oslo", 1.0),)),
        Asked(CONTEXT, (CONTEXT,), (("Oslo", 1.0),)),
        Asked(long, ("Paris",), (("Paris", 1.0),), title=""),
        Asked(CONTEXT, (), (("Oslo", 1.0),)),
        Asked("Anna £ lives in € Paris", ("€ Paris",), (("Anna", 1.0),)),
        Asked("Anna £ lives in Paris", ("Paris",), (("Anna", 1.0),)),
    )
    assert found["answer length"] == ["1 word", "more than 10", "1 word", "no answer", "2 words", "1 word"]
    assert found["place of the answer"] == [
        *("third quarter", "first quarter", "last quarter", "no answer", "third quarter", "last quarter")
    ]
    assert found["context length"][1:3] == ["up to 100 words", "151 to 200"]
    assert found["number of windows"][1:3] == ["1 window", "4 windows or more"]
    assert found["unknown characters"] == ["none"] * 4 + ["in a gold answer", "elsewhere in the context"]
    assert found["article"] == ["Cities", "Cities", "", "Cities", "Cities", "Cities"]


def test_languages() -> None:
    german = "Anna wohnt in der schönen Stadt Paris und arbeitet dort jeden Tag mit ihrem Bruder ."
    english = "Anna lives in the beautiful city of Paris and works there as a baker with her brother ."
    asked = [Asked(text, ("Paris",), (("Paris", 1.0),)) for text in (german, english)]
    more = [
        Asked(f"{text} {number}", ("Paris",), (("Paris", 1.0),)) for text in (german, english) for number in range(4)
    ]
    assert labels_of(*asked, *more)["language"] == ["German", "English", *["German"] * 4, *["English"] * 4]


def test_the_cost_is_what_f1_would_gain_if_the_group_did_as_the_others() -> None:
    f1 = np.array([0.0, 0.5, 1.0, 1.0, 1.0, 0.5])
    labels = {"kind": ["a", "a", "b", "b", "b", "b"], "same": ["x"] * 6}
    (found,) = slices(labels, f1 == 1, f1, np.array(list("uvwxyz"), object))
    first, second = found.groups
    assert (first.name, first.f1.mean, first.exact.mean, first.f1.count) == ("a", 25, 0, 2)
    mended = f1.copy()
    mended[:2] = f1[2:].mean()
    assert first.cost == pytest.approx(100 * (mended.mean() - f1.mean()))
    assert second.cost < 0


def test_the_slice_that_costs_most_comes_first_and_questions_without_a_label_do_not_count() -> None:
    f1 = np.tile([0.0, 1.0], 20)
    labels = {"noise": ["a", "a", "b", "b"] * 10, "cause": ["bad", "good"] * 20, "partly": ["", "x", "", "y"] * 10}
    found = slices(labels, f1, f1, np.array([str(number) for number in range(40)], object))
    assert found[0].name == "cause"
    assert found[0].groups[0].name == "bad"
    partly = next(one for one in found if one.name == "partly")
    assert sum(group.f1.count for group in partly.groups) == 20


def test_a_cost_is_a_share_of_all_questions_also_of_those_without_a_label() -> None:
    f1 = np.ones(1000)
    f1[:50] = 0
    labels = ["bad"] * 50 + ["good"] * 50 + [""] * 900
    (found,) = slices({"article": labels}, f1, f1, np.array([str(number) for number in range(1000)], object))
    assert [(group.name, group.cost) for group in found.groups] == [("bad", 5.0), ("good", -5.0)]
    names = [f"a{number}" for number in range(26) for _ in range(2)] + [""] * 52
    wrong = np.array([float(name != "a3") for name in names])
    (found,) = slices({"article": names}, wrong, wrong, np.array(names, object))
    rest = found.groups[-1]
    assert rest.name == "all others"
    assert rest.cost == pytest.approx(100 * rest.f1.count / 104 * ((50 - rest.f1.count) / (52 - rest.f1.count) - 1))


def test_of_many_groups_the_costliest_and_the_largest_are_listed_and_the_others_together() -> None:
    names = [f"article {number:02d}" for number in range(30) for _ in range(2)] + ["large"] * 50
    f1 = np.array([0.0 if name == "article 07" else 1.0 for name in names])
    (found,) = slices({"article": names}, f1, f1, np.array(names, object))
    listed = [group.name for group in found.groups]
    assert listed[0] == "article 07"
    assert "large" in listed
    assert listed[-1] == "all others"
    assert (len(listed), found.left_out) == (MAX_GROUPS + 1, 31 - MAX_GROUPS)
    assert sum(group.f1.count for group in found.groups) == len(names)


def test_costs_are_those_of_each_group_and_long_labels_take_no_room() -> None:
    """An array of texts of one length would take 4 bytes for each letter of the longest, of each question."""
    f1 = np.random.default_rng(0).random(2000)
    names = [f"{'x' * 50_000 if number % 500 == 0 else ''}{number % 500}" for number in range(2000)]
    tracemalloc.start()
    (found,) = slices({"article": names}, f1, f1, np.array(names, object))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100_000_000
    for group in found.groups[:-1]:
        inside = np.array([name == group.name for name in names])
        assert group.cost == pytest.approx(100 * inside.mean() * (f1[~inside].mean() - f1[inside].mean()))


def test_groups_add_up_to_the_whole_in_a_report() -> None:
    asked = [
        Asked(CONTEXT, ("Paris",), ((("Paris", "Oslo")[number % 2], 1.0),), title=f"t{number % 6}")
        for number in range(24)
    ]
    report = ErrorReport(scored(asked))
    for one in report.slices:
        total = sum(group.f1.mean * group.f1.count for group in one.groups)
        assert total / sum(group.f1.count for group in one.groups) == pytest.approx(report.intervals["f1"].mean)
