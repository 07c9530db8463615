"""Test ONNX exports: the answers of the original model, the limit on int8's loss of F1, and what is not replaced."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, BertForQuestionAnswering
from transformers.pipelines.base import Pipeline

from qa_lightning import Reader, pipeline
from qa_lightning.errors import InputError
from qa_lightning.export import onnx as onnx_export
from qa_lightning.export.onnx_checks import compare_answers, compare_logits, comparison_batches
from qa_lightning.inference.bulk.workers import PredictSettings
from qa_lightning.models.computing.loss import model_logits
from qa_lightning.models.folder import save_model, weights_digest
from qa_lightning.models.loading import load_model, load_tokenizer, max_positions
from qa_lightning.models.onnx import OnnxModel, is_onnx_folder
from qa_lightning.models.settings import AnswerSettings
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.families import FAMILIES, save
from tests.helpers.heads import save_base
from tests.helpers.models import small_config

SETTINGS = AnswerSettings(max_length=64, doc_stride=16, max_question_length=16, max_answer_length=8)
ROWS = make_rows(24, long=4)
NAMES = ("bert", "roberta")


def sharp(model) -> None:
    """Enlarge the weights, so that the scores of answers are far apart."""
    with torch.no_grad():
        for path, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(8 if path.startswith("qa_outputs") else 3)


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer) -> dict[str, Path]:
    """Folders of untrained models, saved with answer settings."""
    folders = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        if name == "bert":
            with torch.random.fork_rng():
                torch.manual_seed(1)
                BertForQuestionAnswering(small_config(len(tokenizer))).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        else:
            save(FAMILIES[name], folder)
        model = load_model(str(folder))
        sharp(model)
        model.config.qa_lightning = vars(SETTINGS)
        model.save_pretrained(folder)
        folders[name] = folder
    return folders


@pytest.fixture(scope="module")
def exports(models) -> dict[str, Path]:
    """The folders of their ONNX exports, at the default path."""
    folders = {}
    for name, folder in models.items():
        commands.export(["--model", str(folder), "--format", "onnx"])
        folders[name] = folder.with_name(f"{folder.name}-onnx")
    return folders


@pytest.fixture(scope="module")
def bert(models) -> tuple:
    return load_model(str(models["bert"])).eval(), load_tokenizer(str(models["bert"]))


@pytest.fixture
def data(tmp_path) -> str:
    return write_json(tmp_path / "data.json", ROWS)


@pytest.fixture
def no_export(monkeypatch) -> None:
    """Fail the test if a model is exported: the call should have been refused."""
    monkeypatch.setattr(onnx_export, "write_onnx", lambda *_: pytest.fail("exported"))


@pytest.fixture
def copies(monkeypatch, exports) -> None:
    """Copy an existing export in place of making a new one."""

    def copy(model, tokenizer, settings, folder: Path, weights) -> None:
        for file in exports["bert"].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(onnx_export, "write_onnx", copy)


every_model = pytest.mark.parametrize("name", NAMES)


@every_model
def test_answers_of_an_export_are_those_of_its_model(models, exports, name) -> None:
    questions, contexts = [row["question"] for row in ROWS], [row["context"] for row in ROWS]
    expected = Reader(load_model(str(models[name])), load_tokenizer(str(models[name]))).answer(questions, contexts)
    reader = Reader(OnnxModel.load(exports[name]), load_tokenizer(str(exports[name])))
    assert reader.settings == SETTINGS
    answers = reader.answer(questions, contexts, batch_size=5)
    for own, other in zip(expected, answers, strict=True):
        assert (own.text, own.start, own.end) == (other.text, other.start, other.end)
        assert own.score == pytest.approx(other.score, abs=1e-4)
    assert len({answer.text for answer in answers}) > 5


@every_model
@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (7, 3), (3, 126)])
def test_any_batch_and_any_length(models, exports, name, shape) -> None:
    model, exported = load_model(str(models[name])).eval(), OnnxModel.load(exports[name])
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, shape, generator=random)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["attention_mask"][1:, shape[1] // 2 + 1 :] = 0
    if name == "bert":
        batch["token_type_ids"] = torch.randint(0, 2, shape, generator=random)
    with torch.inference_mode():
        for own, other in zip(model_logits(model, batch), model_logits(exported, batch), strict=True):
            assert other.dtype == torch.float32
            real = batch["attention_mask"].bool()
            torch.testing.assert_close(own[real], other[real], rtol=0, atol=1e-4)


def test_what_an_export_leaves(models, exports) -> None:
    folder = exports["bert"]
    files = {file.name for file in folder.iterdir()}
    assert files == {"config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"}
    assert json.loads((folder / "config.json").read_text())["qa_lightning"] == vars(SETTINGS)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForQuestionAnswering"]
    assert not list(folder.parent.glob(".*.part"))
    assert is_onnx_folder(folder)
    assert is_onnx_folder(str(folder))
    assert not is_onnx_folder(models["bert"])
    assert not is_onnx_folder(folder / "config.json")


def test_axes_and_inputs_are_named(exports) -> None:
    import onnxruntime

    for name, folder in exports.items():
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if name == "bert" else [])]
        assert [one.name for one in session.get_inputs()] == inputs
        assert [one.name for one in session.get_outputs()] == ["start_logits", "end_logits"]
        assert all(one.shape == ["batch", "length"] for one in (*session.get_inputs(), *session.get_outputs()))


def test_an_export_works_in_a_pipeline(exports) -> None:
    class Plain(Pipeline):
        def _sanitize_parameters(self, **_):
            return {}, {}, {}

        def preprocess(self, inputs):
            return self.tokenizer(*inputs, return_tensors="pt")

        def _forward(self, inputs):
            return self.model(**inputs)

        def postprocess(self, outputs):
            return outputs

    for name, folder in exports.items():
        pipeline = Plain(model=OnnxModel.load(folder), tokenizer=load_tokenizer(str(folder)), device=-1)
        assert pipeline.device == torch.device("cpu")
        assert pipeline.dtype == torch.float32
        output = pipeline(("Where lives Anna ?", "Anna lives in Oslo ."))
        assert output.start_logits.shape == output.end_logits.shape, name
        assert "OnnxModel" in repr(pipeline)


def test_a_model_stays_what_and_where_it_is(exports) -> None:
    model = OnnxModel.load(exports["bert"], "cpu")
    assert model.eval() is model.to("cpu") is model.to("cuda", torch.float32) is model.to(torch.float32)
    assert model.device == torch.device("cpu")
    assert not model.can_generate()
    assert not model.training
    for dtype in ({"dtype": torch.float16}, {"device": torch.bfloat16}):
        with pytest.raises(InputError, match=r"cannot be asked to compute in torch\.b?float16"):
            model.to(**dtype)
    ids = torch.tensor([[2, 7, 3]])
    torch.testing.assert_close(
        model(ids).start_logits, model(ids, torch.ones_like(ids), torch.zeros_like(ids)).start_logits
    )
    with pytest.raises(InputError, match=r"cannot compute a batch of 1 x 500 tokens: too long"):
        model(torch.full((1, 500), 7))


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("device", "gpu"), [(None, 0), ("cuda", 0), ("cuda:3", 3), (torch.device("cuda", 1), 1), ("cpu", None)]
)
def test_an_export_computes_on_the_device_that_is_asked_for(monkeypatch, exports, models, device, gpu) -> None:
    """As ONNX Runtime is asked; each process of ``--devices`` loads the model onto its own."""
    import onnxruntime

    asked, session = [], onnxruntime.InferenceSession

    def noting(*args, providers):
        asked.append(providers)
        return session(*args, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", noting)
    name = str(exports["bert"])
    PredictSettings(name, "float32", 8).load(device)
    pipeline(model=name, device=device)
    Reader.load([name, str(models["bert"])], "cpu" if device == "cpu" else None)
    wanted = [CPU] if gpu is None else [(CUDA, {"device_id": gpu}), CPU]
    assert asked == [wanted, wanted, [CPU] if gpu is None else [(CUDA, {"device_id": 0}), CPU]]
    asked.clear()
    pipeline(model=name, device=-1 if gpu is None else gpu)  # by its number
    assert asked == [wanted]


def test_weights_may_be_in_a_file_beside_the_graph(tmp_path, monkeypatch, bert) -> None:
    model, tokenizer = bert
    monkeypatch.setattr(onnx_export, "_EXTERNAL_BYTES", 0)  # as if the weights exceeded 1.8 GB
    onnx_export.write_onnx(model, tokenizer, SETTINGS, tmp_path)
    assert (tmp_path / "model.onnx.data").stat().st_size > 50_000
    batches = comparison_batches(tokenizer, SETTINGS, ROWS)
    compare_logits("it", model, OnnxModel.load(tmp_path), batches)
    onnx_export.quantize_int8(tmp_path)
    assert not (tmp_path / "model.onnx.data").exists()
    OnnxModel.load(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"model\.onnx: cannot be loaded; export the model again"):
        OnnxModel.load(tmp_path)


def test_logits_are_compared_on_long_and_short_windows(bert) -> None:
    batches = comparison_batches(bert[1], SETTINGS, ROWS[:3])
    assert {len(batch["input_ids"]) for batch in batches} >= {1, 2, 3, 5, 8}
    lengths = [int(length) for batch in batches for length in batch["attention_mask"].sum(1)]
    assert max(lengths) == SETTINGS.max_length
    assert min(lengths) < 40
    assert any(not batch["attention_mask"].all() for batch in batches)


def test_logits_that_differ_are_refused(tmp_path, monkeypatch, copies, models, bert) -> None:
    model, tokenizer = bert
    other = load_model(str(models["bert"])).eval()
    with torch.no_grad():
        other.qa_outputs.bias[1] += 3e-4  # changes only the end logits
    monkeypatch.setattr(onnx_export, "load_answering_model", lambda _: (other, tokenizer))
    with pytest.raises(InputError, match=r"differ from PyTorch's by up to 0\.0003, more than 0\.0001; nothing was wri"):
        onnx_export.export_onnx(str(models["bert"]), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []

    class Broken:
        def __call__(self, **inputs):
            output = model(**inputs)
            output.end_logits[0, 1] = torch.nan
            return output

    batches = comparison_batches(tokenizer, SETTINGS, ROWS)
    with pytest.raises(InputError, match="by up to inf"):
        compare_logits("it", model, Broken(), batches)
    with pytest.raises(InputError, match="its weights are broken"):
        compare_logits("it", Broken(), model, batches)


def test_int8_is_measured_on_the_questions(tmp_path, capsys, copies, models, data) -> None:
    output = tmp_path / "small"
    command = ["--model", str(models["bert"]), "--format", "onnx", "--quantize", "int8", "--data", data]
    commands.export([*command, "--output", str(output), "--max-f1-drop", "100"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["checked", "float32", "int8", "written"]
    reader = Reader(load_model(str(models["bert"])), load_tokenizer(str(models["bert"])))
    answers = reader.answer([row["question"] for row in ROWS], [row["context"] for row in ROWS])
    exact = sum(answer.text in row["answers"]["text"] for answer, row in zip(answers, ROWS, strict=True))
    assert f"EM {100 * exact / len(ROWS):6.2f}" in lines[1]
    sizes = [float(line.split()[-2]) for line in lines[1:3]]
    assert sizes[1] <= sizes[0]
    model = OnnxModel.load(output)
    assert model(torch.tensor([[2, 7, 3]])).start_logits.shape == (1, 3)
    import onnx

    kinds = {node.op_type for node in onnx.load(output / "model.onnx").graph.node}
    assert "MatMulInteger" in kinds


def test_what_is_compared_needs_no_more_than_is_looked_at(tmp_path, copies, models, monkeypatch) -> None:
    """Logits no answers, EM and F1 no offsets; and rows that cannot be asked are told."""
    model, table = str(models["bert"]), tmp_path / "q.csv"
    table.write_text("question,context\nWho ?,Anna lives in Rome .\nWhere ?,Ben .\n")
    compared = []
    monkeypatch.setattr(onnx_export, "compare_logits", lambda *given: compared.append(given))
    onnx_export.export_onnx(model, tmp_path / "one", data=str(table))
    assert len(compared) == 1
    wrong = [{**row, "answers": {"text": row["answers"]["text"], "answer_start": [0]}} for row in ROWS]
    monkeypatch.setattr(onnx_export, "compare_answers", lambda *given: compared.append(given[3]))
    onnx_export.export_onnx(model, tmp_path / "two", "int8", write_json(tmp_path / "wrong.json", wrong))
    assert [row["answers"]["text"] for row in compared[-1]] == [row["answers"]["text"] for row in ROWS]
    table.write_text("question,context\n,Anna lives in Rome .\nWhere ?,\n")
    with pytest.raises(InputError) as caught:
        onnx_export.export_onnx(model, tmp_path / "three", data=str(table))
    assert len(caught.value.problems) == 2
    named = write_json(tmp_path / "named.json", [{"question": "Who ?", "document_ids": ["a"]}])
    with pytest.raises(InputError) as caught:
        onnx_export.export_onnx(model, tmp_path / "four", data=named)
    assert "here each row needs a context, or contexts" in caught.value.problems[-1]
    table.write_text("question,context\n")
    with pytest.raises(InputError, match=r"q\.csv: .*no"):
        onnx_export.export_onnx(model, tmp_path / "three", data=str(table))


def test_an_export_knows_the_positions_and_the_weights_that_it_was_made_from(models, exports) -> None:
    for name, folder in exports.items():
        saved = json.loads((folder / "config.json").read_text())
        assert saved["exported_weights"] == weights_digest(models[name])
        assert max_positions(OnnxModel.load(folder)) == max_positions(load_model(str(models[name])))
    assert (
        max_positions(OnnxModel.load(exports["roberta"]))
        < load_model(str(models["roberta"])).config.max_position_embeddings
    )


def test_scoring_for_int8_says_how_far_it_is(monkeypatch, caplog, models) -> None:
    monkeypatch.setattr("qa_lightning.progress.MIN_SECONDS", 0.0)
    caplog.set_level("INFO", "qa_lightning")
    model, tokenizer = load_model(str(models["bert"])), load_tokenizer(str(models["bert"]))
    compare_answers("it", [("float32", model, 4), ("int8", model, 1)], tokenizer, ROWS, 1.0)
    windows = [line.split()[:3] for line in caplog.messages if "100.0%" in line]
    assert [line[:2] for line in windows] == [["float32:", "window"], ["int8:", "window"]]


def test_int8_that_costs_too_much_is_refused(tmp_path, monkeypatch, copies, models, data) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "config.json").write_text('{"model_type": "bert"}')
    (kept / "model.onnx").write_text("{}")
    scores = iter([(60.0, 80.0), (59.0, 77.5)])
    monkeypatch.setattr("qa_lightning.export.onnx_checks.score_answers", lambda *_: next(scores))
    problem = r"int8 costs .* 2\.50 F1 points on 24 questions \(80\.00 to 77\.50\), more than --max_f1_drop 2; nothing"
    with pytest.raises(InputError, match=problem):
        onnx_export.export_onnx(str(models["bert"]), kept, "int8", data, max_f1_drop=2.0)
    assert (kept / "model.onnx").read_text() == "{}"
    assert not (tmp_path / ".kept.part").exists()


@pytest.mark.parametrize("quantized", [78.0, 80.0, 95.0])
def test_int8_that_costs_as_much_as_it_may_or_gains_is_no_error(monkeypatch, quantized) -> None:
    scores = iter([(60.0, 80.0), (60.0, quantized)])
    monkeypatch.setattr("qa_lightning.export.onnx_checks.score_answers", lambda *_: next(scores))
    compare_answers("it", [("float32", None, 4), ("int8", None, 1)], None, ROWS, max_f1_drop=2.0)
    assert next(scores, None) is None


def test_an_export_replaces_an_export(tmp_path, copies, models) -> None:
    output = tmp_path / "deep" / "new"
    for _ in range(2):
        commands.export(["--model", str(models["bert"]), "--format", "onnx", "--output", str(output)])
    before = {file.name for file in output.iterdir()}
    (output / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"has README\.md, which would be lost; .* pass --overwrite to replace"):
        onnx_export.export_onnx(str(models["bert"]), output)
    assert (output / "README.md").read_text() == "mine"
    onnx_export.export_onnx(str(models["bert"]), output, overwrite=True)
    assert {file.name for file in output.iterdir()} == before


def test_an_export_replaces_one_of_a_model_for_chats(tmp_path, copies, models) -> None:
    output = tmp_path / "new"
    onnx_export.export_onnx(str(models["bert"]), output)
    tokenizer = load_tokenizer(str(output))
    tokenizer.chat_template = {"default": "{{ messages }}", "with_tools": "{{ tools }}"}
    tokenizer.save_pretrained(output)
    assert {"chat_template.jinja", "additional_chat_templates"} < {path.name for path in output.iterdir()}
    onnx_export.export_onnx(str(models["bert"]), output)


def test_what_an_export_must_not_replace(tmp_path, monkeypatch, no_export, models) -> None:
    model = str(models["bert"])
    (tmp_path / "file").write_text("")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("")
    (tmp_path / "nothing").symlink_to("gone")
    for name, config in (("app", '{"port": 80}'), ("config alone", '{"model_type": "bert"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
    (tmp_path / "app" / "main.py").touch()
    for name in ("run", "thesis"):
        shutil.copytree(model, tmp_path / name)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "thesis" / "thesis.txt").touch()
    (tmp_path / "cwd" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd" / "inner")
    for output, problem in (
        (Path(model), "is or contains the model itself"),
        (Path(model).parent, "is or contains the model itself"),
        (Path(".."), "is or contains the current folder"),
        (tmp_path / "file", "is a file; name a folder"),
        (tmp_path / "file" / "in", "cannot be written"),
        (tmp_path / "photos", r"has no model but a\.jpg; name another folder"),
        (tmp_path / "app", r"has no model but config\.json, main\.py; name another folder"),
        (tmp_path / "config alone", r"has no model but config\.json; name another folder"),
        (tmp_path / "run", r"has checkpoints, which is no part of a model; name another folder"),
        (tmp_path / "thesis", r"has thesis\.txt, which is no part of a model; name another folder"),
        (tmp_path / "nothing", "is a link to nothing; name a folder"),
    ):
        with pytest.raises(InputError, match=problem):
            onnx_export.export_onnx(model, output, overwrite=True)
    with pytest.raises(InputError, match=r"has a model that is no ONNX export|has model\.safetensors"):
        onnx_export.export_onnx(model, models["roberta"])
    assert (models["roberta"] / "model.safetensors").is_file()
    assert (tmp_path / "photos" / "a.jpg").is_file()


def test_where_an_export_goes(tmp_path, monkeypatch) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run" / "model")
    assert onnx_export.default_output(".") == tmp_path / "run" / "model-onnx"
    assert onnx_export.default_output(str(tmp_path / "run" / "model/"), "int8") == tmp_path / "run" / "model-onnx-int8"
    assert onnx_export.default_output("user/name") == Path("name-onnx")


def refused(capsys, *flags: str) -> str:
    """The error output of a command that exits with status 2."""
    with pytest.raises(SystemExit) as ended:
        commands.run_command(lambda: commands.export(list(flags)))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_flags_that_say_too_little_or_too_much(capsys, no_export, models) -> None:
    model = ("--model", str(models["bert"]))
    assert "choose --format onnx" in refused(capsys, *model)
    assert "is 'tflite'; it must be onnx or transformers" in refused(capsys, *model, "--format", "tflite")
    assert "is 'int4'; it must be int8" in refused(capsys, *model, "--format", "onnx", "--quantize", "int4")
    said = refused(capsys, *model, "--push-to-hub", "a/b", "--quantize", "int8", "--output", "x", "--columns.id", "key")
    for flag, needed in (("quantize", "format"), ("output", "format"), ("columns.id", "data")):
        assert f"--{flag} is of no use without --{needed}; add that, or leave it out" in said
    said = refused(capsys, *model, "--format", "onnx", "--max-f1-drop", "0", "--dry-run", "--private")
    for flag, needed in (("max_f1_drop", "quantize"), ("private", "push_to_hub"), ("dry_run", "push_to_hub")):
        assert f"--{flag} is of no use without --{needed}" in said
    quantize = (*model, "--format", "onnx", "--quantize", "int8")
    assert "--quantize int8 needs --data FILE" in refused(capsys, *quantize)
    for wrong in ("-1", "nan", "101"):
        assert "it must be from 0 to 100" in refused(capsys, *quantize, "--data", "x.json", f"--max-f1-drop={wrong}")
    assert "x.json: no such file" in refused(capsys, *quantize, "--data", "x.json")


def test_models_that_cannot_be_exported(tmp_path, monkeypatch, capsys, models, exports, bert) -> None:
    said = refused(capsys, "--model", str(exports["bert"]), "--format", "onnx")
    assert "is an ONNX export already; name the model that it was made from" in said
    said = refused(capsys, "--model", str(tmp_path), "--format", "onnx")
    assert "cannot be loaded: the folder needs config.json" in said

    def forward(self, input_ids, **_):
        return torch.linalg.eigvals(input_ids.float() @ input_ids.float().T)  # ONNX has no such operator

    monkeypatch.setattr(BertForQuestionAnswering, "forward", forward)
    output = tmp_path / "new"
    said = refused(capsys, "--model", str(models["bert"]), "--format", "onnx", "--output", str(output))
    assert "(BertForQuestionAnswering) cannot be exported to ONNX: torch.onnx.export failed" in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_runtime_the_fix_is_named(tmp_path, monkeypatch, exports) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    said = r'an ONNX model needs the package onnxruntime \(.*\); run pip install "qa-lightning\[onnx\]"'
    with pytest.raises(InputError, match=said):
        OnnxModel.load(exports["bert"])
    with pytest.raises(InputError, match="pip install"):
        onnx_export.export_onnx("tiny", tmp_path / "new")
    monkeypatch.undo()
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(InputError, match=r'--format onnx needs onnxscript; run pip install "qa-lightning\[onnx\]"'):
        onnx_export.export_onnx("tiny", tmp_path / "new")


def test_folders_that_hold_no_such_model(tmp_path, exports) -> None:
    import onnx
    from onnx import TensorProto, helper

    with pytest.raises(InputError, match=r"no model\.onnx in it"):
        OnnxModel.load(tmp_path)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", [value], [other])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx"
    )
    with pytest.raises(InputError, match=r"cannot be loaded: the folder needs config\.json"):
        OnnxModel.load(tmp_path)
    AutoConfig.from_pretrained(exports["bert"]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"takes x and gives y, where a question answering model takes input_ids"):
        OnnxModel.load(tmp_path)


@pytest.mark.parametrize("with_export", [False, True])
def test_publishing_gets_the_folder(tmp_path, monkeypatch, copies, models, with_export) -> None:
    sent = []
    monkeypatch.setattr("qa_lightning.export.hub.push_to_hub", lambda *call: sent.append(call) or 7)
    flags = ["--model", str(models["bert"]), "--push-to-hub", "user/name", "--private"]
    output = tmp_path / "new"
    if with_export:
        flags += ["--format", "onnx", "--output", str(output), "--dry-run"]
    assert commands.export(flags) == 7
    assert sent == [(str(output) if with_export else str(models["bert"]), "user/name", True, with_export)]
    assert output.exists() == with_export


@pytest.mark.parametrize("kind", ["eurobert", "gemma3_text"])
def test_our_own_head_is_exported(kind, tmp_path) -> None:
    """Also with a special token that the model has no embedding for, as Gemma 3's tokenizer has one for images."""
    base = save_base(kind, tmp_path / "base")
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(base)
    model = load_model(base)
    assert tokenizer.convert_tokens_to_ids("<image>") >= model.config.vocab_size
    sharp(model)
    save_model(model, load_tokenizer(base), SETTINGS, tmp_path / "model", model.state_dict())
    folder = onnx_export.export_onnx(str(tmp_path / "model"), data=write_json(tmp_path / "rows.json", ROWS[:6]))
    questions, contexts = ([row[name] for row in ROWS[:6]] for name in ("question", "context"))
    contexts[0] = f"<image> {contexts[0]}"
    expected = Reader.load(str(tmp_path / "model")).answer(questions, contexts)
    found = Reader.load(str(folder)).answer(questions, contexts)
    assert [one.text for one in found] == [one.text for one in expected]
