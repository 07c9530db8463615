"""What must be equal on all hosts of a run is compared, and a difference is said with the hosts that have it."""

from __future__ import annotations

from qa_lightning.checks.hosts import OWN_FLAGS, described_data, described_flags, described_model, host_differences
from tests.helpers import commands


def data(questions: int, windows: int, key: str = "0123456789abcdef") -> dict[str, str]:
    return described_data({"train": {"questions": questions, "windows": windows, "features": key}})


def test_equal_hosts_have_no_differences() -> None:
    assert host_differences(["a", "b"], [data(5, 6), data(5, 6)], "mend it") == []


def test_a_difference_names_what_differs_on_which_host_and_the_fix() -> None:
    assert host_differences(["a", "b"], [data(1000, 1020), data(900, 1)], "mend it") == [
        "the training data: 1,000 questions in 1,020 windows (fingerprint 01234567) on a, 900 questions in 1 window "
        "(fingerprint 01234567) on b; mend it"
    ]


def test_other_texts_in_the_same_number_are_a_difference() -> None:
    (line,) = host_differences(["a", "b"], [data(5, 6), data(5, 6, "fedcba987")], "mend it")
    assert line.count("5 questions in 6 windows") == 2


def test_what_one_host_alone_has_is_a_difference() -> None:
    assert host_differences(["a", "b"], [{"numpy": "2.0"}, {}], "mend it") == ["numpy: 2.0 on a, missing on b; mend it"]


def test_hosts_with_equal_values_are_named_together_and_not_all_of_many() -> None:
    hosts = [f"h{number}" for number in range(9) for _ in range(2)]
    described = [{"x": "1" if host == "h3" else "2"} for host in hosts]
    assert host_differences(hosts, described, "mend it") == ["x: 2 on h0, h1, h2, h4 and 4 more, 1 on h3; mend it"]


def test_a_host_with_two_values_is_told_by_its_processes() -> None:
    assert host_differences(["a", "a", "b"], [{"x": "1"}, {"x": "2"}, {"x": "1"}], "mend it") == [
        "x: 1 on process 0 (a), process 2 (b), 2 on process 1 (a); mend it"
    ]


def test_who_does_not_tell_is_not_compared() -> None:
    assert host_differences(["a", "a", "b"], [{"x": "1"}, None, {"x": "1"}], "mend it") == []


def test_folders_and_files_may_differ_and_settings_may_not() -> None:
    given = {"data.cache_dir": "/a", "data.dataset": "/a/b.json", "trainer.default_root_dir": "c", "model.dropout": 0.1}
    given |= {"model.teacher": "/a/model", "data.prepare_workers": 3}
    assert described_flags(given) == {"--model.dropout": "0.1"}


def test_every_flag_that_may_differ_exists(capsys) -> None:
    known = commands.printed_config([], capsys)
    names = {f"{group}.{name}" for group, values in known.items() if isinstance(values, dict) for name in values}
    unlisted = {"config", "data.model_name"}  # the file itself, and what is linked to another flag
    assert OWN_FLAGS - unlisted <= names | known.keys()


def test_where_a_model_came_from_may_differ_and_its_settings_may_not() -> None:
    config = {"_name_or_path": "/a", "transformers_version": "5.3.0", "hidden_dropout_prob": 0.1}
    assert described_model(config) == {"hidden_dropout_prob in the model's config.json": "0.1"}
