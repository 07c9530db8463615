"""Test uploads to the Hub, on a Hub on this machine: what is sent, what stays here, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from qa_lightning import Reader
from qa_lightning.errors import InputError
from qa_lightning.export.card import model_card
from qa_lightning.export.hub import push_to_hub
from qa_lightning.models.loading import load_tokenizer
from qa_lightning.models.onnx import OnnxModel
from tests.helpers import commands
from tests.helpers.hub import CONTEXT, QUESTION, REPO, blocks, card_of, written
from tests.helpers.hub_server import TOKEN, HubServer, Refused

# The Hub's client uploads large files with a parameter that its HTTP library has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.usefixtures("printed_lines"),
]


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


def test_a_readme_in_the_folder_is_its_authors_and_stays_as_it_is(hub, folder, capsys) -> None:
    own = "---\r\nlicense: mit\r\nlanguage: de\r\n---\r\n# Über Städte\r\n".encode()
    (folder / "README.md").write_bytes(own)
    push_to_hub(str(folder), REPO)
    assert hub.repos[REPO].files["README.md"] == own == (folder / "README.md").read_bytes()
    assert "README.md, unchanged" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"---\nlicense: [\n---\n", b"---\n- a\n---\n", b"\xff\xfe---\n"])
def test_a_readme_that_cannot_be_read_is_named(hub, folder, content) -> None:
    (folder / "README.md").write_bytes(content)
    with pytest.raises(InputError, match=r"README\.md: the metadata.*cannot be read.*correct it"):
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
    assert not {"model.safetensors", "added_tokens.json"} & files.keys()  # would be loaded with, or before, ours
    assert "deletes in the repository: model.safetensors, added_tokens.json" in capsys.readouterr().out
    loaded = written(tmp_path / "loaded", {name: content for name, content in files.items() if "/" not in name})
    there, here = (AutoModelForQuestionAnswering.from_pretrained(one).state_dict() for one in (loaded, folder))
    assert all(torch.equal(there[name], here[name]) for name in here)
    sent = hub.requests.count("put")
    push_to_hub(str(sharded), REPO)
    assert hub.requests.count("put") == sent  # files that the Hub already has are not sent again


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

    hub.repos[REPO].files["model.safetensors"] = b"of an earlier model"
    before = dict(hub.repos[REPO].files)
    assert "it has model.safetensors, which would be loaded in place of the ONNX model" in refusal(folder)
    assert hub.repos[REPO].files == before


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
    assert "is not a folder here" in refusal(tmp_path / "nowhere")
    assert "is a file" in refusal(folder / "config.json")
    everything = refusal(without("model.safetensors", "tokenizer.json", "config.json"), "no name").splitlines()
    assert len(everything) == 4
    assert not hub.requests


@pytest.mark.parametrize("repo", ["model", "a/b/c", "anna/", "/model", "anna/mod el", "anna/x..y", "anna/x.git", ""])
def test_a_name_that_the_hub_would_not_take_is_refused_before_anything_is_sent(hub, folder, repo) -> None:
    assert f"--push_to_hub {repo!r}" in refusal(folder, repo)
    assert "USER/NAME" in refusal(folder, repo)
    assert not hub.requests


@pytest.mark.parametrize(
    ("step", "status", "fix"),
    [
        ("create", 401, "hf auth login"),
        ("create", 403, "it needs the role `write`"),
        ("create", 500, "an internal error"),
        ("info", 404, "has no anna/reads-cities"),
        ("validate", 400, "correct what it names"),
        ("preupload", 403, "it needs the role `write`"),
        ("batch", 429, "wait a while"),
        ("put", 503, "an internal error"),
        ("verify", 400, "correct what it names"),
        ("commit", 409, "run the command again"),
        ("commit", 500, "an internal error"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_a_fix_and_without_the_token(
    hub, folder, capsys, step, status, fix
) -> None:
    def refuse() -> None:
        raise Refused(status, f"step {step} refused Bearer {TOKEN}")

    hub.before[step] = refuse
    with pytest.raises(SystemExit) as ended:
        commands.run_command(lambda: push_to_hub(str(folder), REPO))
    output = capsys.readouterr()
    assert ended.value.code == 2
    (line,) = output.err.splitlines()[-1:]
    assert line.startswith(f"error: --push_to_hub {REPO}: ")
    assert fix in line
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
    assert "changed anna/reads-cities during the upload" in message
    assert not hub.repos[REPO].files


def test_a_wrong_token_and_none_are_told_apart(hub, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    wrong = refusal(folder)
    assert "does not know the token" in wrong
    assert "hf_another" not in wrong
    hub.requests.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_caf\u00e9")
    assert "has invalid characters" in refusal(folder)
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
    assert f"{closed} cannot be reached" in refusal(folder)
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
    assert "is public; nothing was sent" in refusal(folder, private=True)
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
    assert push_to_hub(str(model), REPO, dry_run=True) == 0  # the same card may be written again
    card.write_text("# mine")
    with pytest.raises(InputError, match=r"model-card\.md holds another card; move it to .*README\.md"):
        push_to_hub(str(model), REPO, dry_run=True)
    assert card.read_text() == "# mine"
    card.rename(model / "README.md")
    assert push_to_hub(str(model), REPO, dry_run=True) == 0
    assert not card.exists()
