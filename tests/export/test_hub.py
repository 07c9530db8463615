"""Models to the Hub: what is sent, what the card says, and what is refused, against a Hub on this machine."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import jinja2
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import close_session
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_lightning import Reader
from qa_lightning.errors import InputError
from qa_lightning.export.card import EXAMPLE, model_card
from qa_lightning.export.hub import push_to_hub
from qa_lightning.models.folder import save_model, weights_digest
from qa_lightning.models.loading import load_model, load_tokenizer
from qa_lightning.models.onnx import OnnxModel
from qa_lightning.models.settings import AnswerSettings
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.families import FAMILIES, save
from tests.helpers.hub_server import TOKEN, HubServer, Refused

# The Hub's client uploads large files through a parameter that its HTTP library would rather have by another name.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "anna/reads-cities"
SETTINGS = AnswerSettings(max_length=48, doc_stride=12, max_question_length=12, max_answer_length=7)
QUESTION = "Where lives Anna ?"
CONTEXT = "Ben works in Rome . " * 12 + "Anna lives in Oslo . " + "The baker works at the city . " * 9


@pytest.fixture(autouse=True)
def _printed_lines() -> None:
    commands.quiet_libraries()


@pytest.fixture(autouse=True)
def _every_value_of_a_card_is_given(monkeypatch) -> None:
    """Jinja shows nothing for a name that it does not know; here it is an error."""
    monkeypatch.setattr(jinja2, "Template", partial(jinja2.Template, undefined=jinja2.StrictUndefined))


@pytest.fixture
def hub(monkeypatch):
    """A Hub that knows one token, which is this machine's, and clients that go to it."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server.hub
        close_session()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder) -> Path:
    """The model folder of a training run."""
    folder = tmp_path_factory.mktemp("run")
    train = write_json(folder / "train.json", make_rows(40, long=2))
    validation = write_json(folder / "validation.json", make_rows(12, long=1))
    flags = {
        "data.dataset": train,
        "data.validation": validation,
        "data.max_length": 48,
        "data.doc_stride": 12,
        "data.max_question_length": 12,
        "model.model_name": model_folder,
        "model.warmup_ratio": 0.1,
        "model.layer_decay": 0.8,
        "model.attention_dropout": 0.0,
        "ema_decay": 0.5,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.accumulate_grad_batches": 2,
        "trainer.default_root_dir": folder,
    }
    assert commands.train([word for name, value in flags.items() for word in (f"--{name}", str(value))]) == 0
    return folder / "lightning_logs" / "version_0" / "model"


@pytest.fixture
def folder(tmp_path, model_folder) -> Path:
    """A model folder without a run."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def card_of(files: dict[str, bytes], folder: Path) -> ModelCard:
    (folder / "card.md").write_bytes(files["README.md"])
    return ModelCard.load(folder / "card.md")


def run_json(model: Path) -> dict:
    return json.loads((model.parent / "run.json").read_text())[-1]


def test_a_trained_model_arrives_whole_in_one_commit_and_answers_as_before(hub, trained, tmp_path, capsys) -> None:
    strangers = ("optimizer.pt", "pytorch_model.bin", "train.log", ".env", "notes.safetensors.txt", "evil.py")
    source = Path(shutil.copytree(trained.parent, tmp_path / "version_0")) / "model"
    for name in strangers:
        (source / name).write_bytes(b"not for others")
    (source / "checkpoints").mkdir()
    (source / "checkpoints" / "last.ckpt").write_bytes(b"nor this")
    assert push_to_hub(str(source), REPO) == 0
    output = capsys.readouterr()

    repo = hub.repos[REPO]
    assert len(repo.commits) == 2
    assert hub.requests.count("commit") == 1
    assert {"preupload", "batch", "put", "verify"} <= set(hub.requests)  # the weights went as a large file
    own = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert repo.files.keys() == own | {"README.md"}
    assert all(repo.files[name] == (trained / name).read_bytes() for name in own)
    assert not (source / "README.md").exists()
    assert f"{hub.url}/{REPO}/commit/{repo.commits[-1]}" in output.out
    assert all(name in output.out for name in (*strangers, "checkpoints/"))
    assert TOKEN not in output.out + output.err
    assert "B/s" not in output.err  # no progress bars into a pipe

    loaded = str(written(tmp_path / "loaded", repo.files))
    before, after = (Reader.load(name).answer([QUESTION], [CONTEXT])[0] for name in (str(trained), loaded))
    assert after == before
    assert not repo.private


def test_the_card_tells_what_the_run_measured(hub, trained, tmp_path) -> None:
    push_to_hub(str(trained), REPO)
    card = card_of(hub.repos[REPO].files, tmp_path)
    scores = run_json(trained)["scores"]
    results = {one.metric_type: one for one in card.data.eval_results}
    assert {name: one.metric_value for name, one in results.items()} == {
        name: pytest.approx(scores[f"best/{name}"], abs=1e-4) for name in ("exact_match", "f1")
    }
    assert {(one.task_type, one.dataset_name, one.dataset_type) for one in results.values()} == {
        ("question-answering", "validation.json", "json")
    }
    assert results["f1"].dataset_args == {"questions": 12}
    assert card.data.model_name == "reads-cities"
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "question-answering")
    assert {"question-answering", "extractive-qa", "qa-lightning"} == set(card.data.tags)
    assert card.data.widget[0].keys() == {"text", "context"}
    assert card.data.get("license") is card.data.get("base_model") is card.data.get("datasets") is None
    row = f"| `validation.json` | 12 | {scores['best/exact_match']:.2f} | {scores['best/f1']:.2f} |"
    for line in (
        row,
        "| training data | `train.json`: 40 questions |",
        "| windows a step | 16 |",
        "| learning rate | 2e-05, AdamW, linear decay after a warm-up of 10% |",
        "| learning rate of a layer, by the one above | 0.8 |",
        "| dropout of attention | 0.0 |",
        "| weights | running mean, of which a step keeps 0.5 |",
        "| windows | 48 tokens, 12 of them shared with the next; questions up to 12 |",
        "| devices | 1 x CPU |",
        "| seed | 42 |",
        f"torch {torch.__version__}",
    ):
        assert line in card.text
    assert str(trained.parents[2]) not in card.content  # a card tells no paths of this machine
    assert "/tmp" not in card.content


def changed_run(trained: Path, folder: Path, record: dict, **flags: dict) -> ModelCard:
    """The card of a run whose record, and flags, say something else too."""
    version = Path(shutil.copytree(trained.parent, folder / "version_0"))
    (version / "run.json").write_text(json.dumps([run_json(trained) | record]))
    config = yaml.safe_load((version / "config.yaml").read_text())
    (version / "config.yaml").write_text(yaml.safe_dump(config | {k: config[k] | v for k, v in flags.items()}))
    return model_card(version / "model", REPO)


def test_names_of_the_hub_are_linked(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"source": "rajpurkar/squad", "kind": "hub"}
    data = {name: split | source for name, split in run_json(trained)["data"].items()}
    record = {"data": data, "base_model": {"name": "bert-base-cased", "hub": True}}
    card = changed_run(trained, tmp_path, record, model={"model_name": "bert-base-cased"})
    assert card.data.base_model == "bert-base-cased"
    assert card.data.datasets == ["rajpurkar/squad"]
    assert {one.dataset_type for one in card.data.eval_results} == {"rajpurkar/squad"}
    assert "[rajpurkar/squad](https://huggingface.co/datasets/rajpurkar/squad)" in card.text
    recorded = {"base_model": {"name": "bert-base-cased", "hub": False}}  # a folder of that name
    recorded["data"] = {name: split | {"kind": "folder"} for name, split in data.items()}
    shutil.rmtree(tmp_path / "version_0")
    card = changed_run(trained, tmp_path, recorded, model={"model_name": "bert-base-cased"})
    assert card.data.get("base_model") is card.data.get("datasets") is None
    assert "a model from a local folder (`bert-base-cased`)" in card.text


def test_what_makes_scores_others_than_they_look_is_said(trained, tmp_path) -> None:
    flags = {"validation": None, "validation_fraction": 0.25, "max_validation_examples": 12, "on_bad_rows": "skip"}
    splits = run_json(trained)["data"]
    record = {"data": splits | {"validation": splits["validation"] | {"held_out": 0.25}}}
    card = changed_run(
        trained, tmp_path, record, data=flags, trainer={"limit_val_batches": 0.5}, model={"mixed_script": True}
    )
    for words in ("(25%) held out", "first 12 questions", "`limit_val_batches` 0.5", "left out", "by ideographs"):
        assert words in card.text


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        (-3.5, "carries the threshold -3.5, found on these questions: there F1 57.06."),
        (0.0, "carries the threshold 0, too."),
    ],
)
def test_scores_of_questions_without_an_answer_name_their_threshold(trained, tmp_path, threshold, words) -> None:
    run = Path(shutil.copytree(trained.parent, tmp_path / "run"))
    config = json.loads((run / "model" / "config.json").read_text())
    config["qa_lightning"] |= {"version_2": True, "null_score_diff_threshold": threshold}
    (run / "model" / "config.json").write_text(json.dumps(config))
    scores = {"best/exact_match": 50.6, "best/f1": 54.37, "best/best_f1": 57.06}
    card = changed_run(run / "model", tmp_path, {"scores": scores})
    assert "| 50.60 | 54.37 |" in card.text
    assert 'EM and F1 are those of the threshold 0 for "no answer".' in card.text
    assert words in card.text
    assert {one.metric_type for one in card.data.eval_results} == {"exact_match", "f1"}


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda run: (run / "run.json").unlink(), "no training run lies beside it"),
        (lambda run: (run / "run.json").write_text("[{"), "cannot be read"),
        (lambda run: (run / "run.json").write_text("[]"), "cannot be read"),
        (lambda run: (run / "config.yaml").write_text("model: ["), "cannot be read"),
        (lambda run: rewrite(run / "run.json", {"scores": {"best/f1": 1.0}}), "cannot be read"),
        (lambda run: rewrite(run / "run.json", {"finished": None}), "did not come to its end"),
        (lambda run: rewrite(run / "run.json", {"weights": "0" * 64}), "not those that the training run"),
    ],
)
def test_a_model_without_a_run_that_measured_it_gets_a_card_without_results(
    trained, tmp_path, break_it, reason
) -> None:
    version = Path(shutil.copytree(trained.parent, tmp_path / "version_0"))
    rewrite(version / "run.json", {"weights": weights_digest(version / "model")})
    assert model_card(version / "model", REPO).data.eval_results
    break_it(version)
    card = model_card(version / "model", REPO)
    assert card.data.eval_results is card.data.get("metrics") is None
    assert "model-index" not in card.content
    assert reason in card.text
    assert "| EM |" not in card.text
    assert "## Training" not in card.text


def rewrite(path: Path, changes: dict) -> None:
    record = json.loads(path.read_text())[-1] | changes
    path.write_text(json.dumps([{name: value for name, value in record.items() if value is not None}]))


def blocks(card: ModelCard, folder: Path, question: str, context: str) -> list[str]:
    """The code of a card, asking the model in ``folder`` something else."""
    code = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    replaced = {f'"{REPO}"': repr(str(folder)), f'"{EXAMPLE["question"]}"': repr(question)}
    replaced[f'"{EXAMPLE["context"]}"'] = repr(context)
    for old, new in replaced.items():
        code = [block.replace(old, new) for block in code]
    return code


@pytest.mark.parametrize("name", ["bert uncased", "roberta", "xlnet", "gpt2, no CLS"])
def test_the_code_on_the_card_gives_the_readers_answer(tmp_path, name) -> None:
    plain = save(FAMILIES[name], tmp_path / "plain")
    model, tokenizer = load_model(plain), load_tokenizer(plain)
    folder = tmp_path / "model"
    answers = set()
    for threshold in (None, 1000.0, -1000.0):
        settings = replace(SETTINGS, version_2=threshold is not None, null_score_diff_threshold=threshold or 0.0)
        save_model(model, tokenizer, settings, folder, model.state_dict())
        expected = Reader.load(str(folder)).answer([QUESTION], [CONTEXT])[0].text
        code = blocks(model_card(folder, REPO), folder, QUESTION, CONTEXT)[-1]
        names: dict = {}
        exec(compile(code, "card", "exec"), names)
        assert len(names["offsets"]) > 3  # windows
        assert names["answer"] == expected
        answers.add(expected)
    assert "" in answers
    assert len(answers) > 1


def test_the_first_code_on_the_card_is_this_packages(trained) -> None:
    code = blocks(model_card(trained, REPO), trained, QUESTION, CONTEXT)[0]
    names: dict = {}
    exec(compile(code, "card", "exec"), names)
    answer = names["answer"]
    assert answer["answer"]
    assert CONTEXT[answer["start"] : answer["end"]] == answer["answer"]


def test_a_readme_in_the_folder_is_its_authors_and_stays_as_it_is(hub, folder, capsys) -> None:
    own = "---\r\nlicense: mit\r\nlanguage: de\r\n---\r\n# Über Städte\r\n".encode()
    (folder / "README.md").write_bytes(own)
    push_to_hub(str(folder), REPO)
    assert hub.repos[REPO].files["README.md"] == own == (folder / "README.md").read_bytes()
    assert "as it is" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"---\nlicense: [\n---\n", b"---\n- a\n---\n", b"\xff\xfe---\n"])
def test_a_readme_that_cannot_be_read_is_named(hub, folder, content) -> None:
    (folder / "README.md").write_bytes(content)
    with pytest.raises(InputError, match=r"README\.md: its metadata.*correct it"):
        push_to_hub(str(folder), REPO)
    assert not hub.requests


def test_shards_go_together_and_what_they_replace_is_taken_away(hub, folder, tmp_path, capsys) -> None:
    push_to_hub(str(folder), REPO)
    hub.repos[REPO].files |= {"added_tokens.json": b"{}", "notes.md": b"mine", "onnx/model.onnx": b"theirs"}
    sharded = tmp_path / "sharded"
    AutoModelForQuestionAnswering.from_pretrained(folder).save_pretrained(sharded, max_shard_size="40KB")
    AutoTokenizer.from_pretrained(folder).save_pretrained(sharded)
    shards = {path.name for path in sharded.glob("*.safetensors")}
    assert len(shards) > 1
    capsys.readouterr()
    push_to_hub(str(sharded), REPO)
    files = hub.repos[REPO].files
    assert shards | {"model.safetensors.index.json", "notes.md", "onnx/model.onnx"} <= files.keys()
    assert not {"model.safetensors", "added_tokens.json"} & files.keys()  # would be loaded before, or with, ours
    assert "replaces, in the repository: model.safetensors, added_tokens.json" in capsys.readouterr().out
    loaded = written(tmp_path / "loaded", {name: content for name, content in files.items() if "/" not in name})
    there, here = (AutoModelForQuestionAnswering.from_pretrained(one).state_dict() for one in (loaded, folder))
    assert all(torch.equal(there[name], here[name]) for name in here)
    sent = hub.requests.count("put")
    push_to_hub(str(sharded), REPO)
    assert hub.requests.count("put") == sent  # what is there already is not sent again


def test_an_onnx_folder_goes_with_its_graph_and_a_card_that_claims_no_scores_for_it(
    hub, trained, tmp_path, monkeypatch
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    version = Path(shutil.copytree(trained.parent, tmp_path / "version_0"))
    folder = Path(shutil.copytree(version / "model", version / "model-onnx"))
    (folder / "model.safetensors").unlink()
    helper, names = onnx.helper, ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "length"]) for name in names]
    outputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", "length"])
        for name in ("start_logits", "end_logits")
    ]
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["start_logits"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Neg", ["start_logits"], ["end_logits"]),
    ]
    graph = helper.make_graph(nodes, "ids", inputs, outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    (folder / "model.onnx.data").write_bytes(b"weights")
    push_to_hub(str(folder), REPO)
    files = hub.repos[REPO].files
    assert all(files[name] == (folder / name).read_bytes() for name in ("model.onnx", "model.onnx.data", "config.json"))
    card = card_of(files, tmp_path)
    assert card.data.eval_results is None
    assert card.data.library_name == "onnx"
    assert "the ONNX model was not measured" in card.text

    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: name)
    code = blocks(card, folder, QUESTION, CONTEXT)[-1]
    spaces: dict = {}
    exec(compile(code, "card", "exec"), spaces)
    reader = Reader(OnnxModel.load(folder), load_tokenizer(str(folder)))
    assert spaces["answer"] == reader.answer([QUESTION], [CONTEXT])[0].text


def refusal(folder: Path | str, repo: str = REPO, private: bool = False) -> str:
    with pytest.raises(InputError) as caught:
        push_to_hub(str(folder), repo, private)
    return str(caught.value)


def test_a_folder_that_is_not_fit_is_refused_before_anything_is_sent(hub, folder, tmp_path) -> None:
    def without(*names: str, **contents: bytes) -> Path:
        other = Path(shutil.copytree(folder, tmp_path / f"{len(list(tmp_path.iterdir()))}"))
        for name in names:
            (other / name).unlink()
        for name, content in contents.items():
            (other / name.replace("__", ".")).write_bytes(content)
        return other

    pickled = refusal(without("model.safetensors", pytorch_model__bin=b"pickle"))
    assert "holds no model.safetensors and no model.onnx" in pickled
    assert "save_pretrained" in pickled
    assert "tokenizer.save_pretrained" in refusal(without("tokenizer.json"))
    assert "config.json is missing" in refusal(without("config.json"))
    assert "config.json cannot be read" in refusal(without(config__json=b"{"))
    assert "no question answering head" in refusal(without(config__json=b'{"architectures": ["BertForMaskedLM"]}'))
    whole = (folder / "model.safetensors").read_bytes()
    assert "is damaged" in refusal(without(model__safetensors=whole[:-9]))
    index = json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).encode()
    lacking = without("model.safetensors", model__safetensors__index__json=index)
    assert "model-00001-of-00001.safetensors is missing" in refusal(lacking)
    broken = without("model.safetensors", model__safetensors__index__json=b"[]")
    assert "index.json cannot be read" in refusal(broken)
    assert "is no folder here" in refusal(tmp_path / "nowhere")
    assert "is a file" in refusal(folder / "config.json")
    everything = refusal(without("model.safetensors", "tokenizer.json", "config.json"), "no name").splitlines()
    assert len(everything) == 4
    assert not hub.requests


@pytest.mark.parametrize("repo", ["model", "a/b/c", "anna/", "/model", "anna/mod el", "anna/x..y", "anna/x.git", ""])
def test_a_name_that_the_hub_would_not_take_is_refused_before_anything_is_sent(hub, folder, repo) -> None:
    assert f"--push-to-hub {repo!r}" in refusal(folder, repo)
    assert "USER/NAME" in refusal(folder, repo)
    assert not hub.requests


@pytest.mark.parametrize(
    ("step", "status", "cure"),
    [
        ("create", 401, "hf auth login"),
        ("create", 403, "it needs the role `write`"),
        ("create", 500, "fault of its own"),
        ("info", 404, "knows no anna/reads-cities"),
        ("validate", 400, "correct what it says"),
        ("preupload", 403, "it needs the role `write`"),
        ("batch", 429, "wait a while"),
        ("put", 503, "fault of its own"),
        ("verify", 400, "correct what it says"),
        ("commit", 409, "run the command again"),
        ("commit", 500, "fault of its own"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_a_cure_and_without_the_token(
    hub, folder, capsys, step, status, cure
) -> None:
    def refuse() -> None:
        raise Refused(status, f"step {step} refused Bearer {TOKEN}")

    hub.before[step] = refuse
    with pytest.raises(SystemExit) as ended:
        commands.run_command(lambda: push_to_hub(str(folder), REPO))
    output = capsys.readouterr()
    assert ended.value.code == 2
    (line,) = output.err.splitlines()[-1:]
    assert line.startswith(f"error: --push-to-hub {REPO}: ")
    assert cure in line
    assert f"{status}: step {step} refused" in line
    assert "Traceback" not in output.err
    assert TOKEN not in output.out + output.err
    assert REPO not in hub.repos or not hub.repos[REPO].files


def test_another_accounts_name_is_refused_by_the_hub(hub, folder) -> None:
    message = refusal(folder, "ben/model")
    assert "ben must be your account or an organization" in message
    assert "403: You don't have the rights" in message


def test_a_commit_in_between_is_not_overwritten(hub, folder) -> None:
    hub.before["commit"] = lambda: hub.repos[REPO].commit()
    message = refusal(folder)
    assert "has changed anna/reads-cities meanwhile" in message
    assert not hub.repos[REPO].files


def test_a_wrong_token_and_none_are_told_apart(hub, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    wrong = refusal(folder)
    assert "does not know the token" in wrong
    assert "hf_another" not in wrong
    hub.requests.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_caf\u00e9")
    assert "holds characters that none has" in refusal(folder)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    message = refusal(folder)
    assert "`hf auth login`" in message
    assert "HF_TOKEN" in message
    assert not hub.requests


def test_without_a_network_one_line_says_so(hub, folder, monkeypatch) -> None:
    with HubServer() as gone:
        closed = gone.hub.url
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    assert f"{closed} is not reached" in refusal(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(folder)


def test_private_is_kept(hub, folder) -> None:
    push_to_hub(str(folder), REPO, private=True)
    assert hub.repos[REPO].private
    push_to_hub(str(folder), REPO)
    assert hub.repos[REPO].private
    hub.repos[REPO].private = False
    files = dict(hub.repos[REPO].files)
    hub.requests.clear()
    assert "everybody can see it" in refusal(folder, private=True)
    assert hub.repos[REPO].files == files
    assert set(hub.requests) == {"create", "info"}


def test_a_dry_run_writes_the_card_lists_the_files_and_sends_nothing(
    hub, trained, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    model = Path(shutil.copytree(trained.parent, tmp_path / "version_0")) / "model"
    before = {path.name for path in model.iterdir()}
    assert push_to_hub(str(model), REPO, private=True, dry_run=True) == 0
    lines = capsys.readouterr().out
    card = model.parent / "model-card.md"
    assert not hub.requests
    assert {path.name for path in model.iterdir()} == before
    assert card.read_text() == str(model_card(model, REPO))
    assert "nothing was sent" in lines
    assert str(card) in lines
    for name in (*before, "README.md"):
        size = (model / name if name in before else card).stat().st_size
        assert re.search(rf"{size / 1000:,.1f} kB  {re.escape(name)}$", lines, re.MULTILINE)
    assert push_to_hub(str(model), REPO, dry_run=True) == 0  # the same again
    card.write_text("# mine")
    with pytest.raises(InputError, match=r"model-card\.md holds another card; move it to .*README\.md"):
        push_to_hub(str(model), REPO, dry_run=True)
    assert card.read_text() == "# mine"
    card.rename(model / "README.md")
    assert push_to_hub(str(model), REPO, dry_run=True) == 0
    assert not card.exists()


def test_settings_that_a_model_was_not_saved_with_follow_its_positions(folder) -> None:
    text = model_card(folder, REPO).text
    settings = AnswerSettings.of_model(load_model(str(folder)))
    assert f"max_length={settings.max_length}," in text
    assert f"stride={settings.doc_stride}" in text
