"""The arguments of ``pipeline``: those of ``transformers.pipeline`` of 4.57, none of them swallowed."""

from __future__ import annotations

import gc
import inspect
import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer
from transformers.utils import direct_transformers_import

from qa_lightning import QuestionAnsweringPipeline, pipeline, register_pipeline
from qa_lightning.errors import InputError
from qa_lightning.inference import building
from qa_lightning.models.load_errors import quiet_transformers
from qa_lightning.models.loading import load_model, load_tokenizer

OLD = "question-answering"
ASKED = {"question": "Where does Anna live?", "context": "Anna lives in Oslo, and Ben works in Rome at the bakery."}
# What transformers.pipeline of 4.57.6 took, in its order.
V4_NAMES = (
    "task model config tokenizer feature_extractor image_processor processor framework revision use_fast token device "
    "device_map dtype trust_remote_code model_kwargs pipeline_class"
).split()


pytestmark = pytest.mark.usefixtures("_tasks")


@pytest.fixture(scope="module")
def wanted(model_folder):
    return pipeline(model_folder)(**ASKED)


def ways(folder: str):
    """Every way to name the same model and tokenizer, as positional and keyword arguments."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    yield (OLD, folder), {}
    yield (OLD,), {"model": folder}
    yield (OLD,), {"model": Path(folder)}
    yield (), {"task": OLD, "model": folder, "tokenizer": folder}
    yield (OLD, folder, None, folder), {}
    yield (OLD, folder, AutoConfig.from_pretrained(folder), tokenizer), {}
    yield (OLD,), {"model": folder, "tokenizer": tokenizer, "config": folder}
    yield (OLD,), {"model": model, "tokenizer": tokenizer}
    yield (OLD,), {"model": model, "tokenizer": folder}
    yield (
        (OLD, folder),
        {"framework": "pt", "revision": "main", "use_fast": True, "token": None, "trust_remote_code": None}
        | {"model_kwargs": {"attn_implementation": "eager"}, "feature_extractor": None, "image_processor": None}
        | {"processor": None, "device": "cpu", "device_map": None, "batch_size": 2, "num_workers": 0},
    )


def test_every_way_of_4_57_names_the_same_model_here_and_in_transformers(model_folder, wanted, restored) -> None:
    taken = inspect.signature(pipeline).parameters
    assert [name for name in V4_NAMES if name not in taken] == ["feature_extractor", "image_processor", "processor"]
    for positional, keywords in ways(model_folder):
        for build in (pipeline, transformers.pipeline):
            with quiet_transformers():
                ask = build(*positional, **keywords)
            assert type(ask) is QuestionAnsweringPipeline
            assert (ask.task, ask.framework) == (OLD, "pt")
            assert ask(**ASKED) == {**wanted, "score": pytest.approx(wanted["score"], abs=1e-6)}
    assert pipeline(model_folder)(**ASKED) == pipeline(model=model_folder)(**ASKED) == wanted


def test_the_old_class_is_where_it_was(restored, model_folder) -> None:
    from transformers import QuestionAnsweringPipeline as Top
    from transformers.pipelines import QuestionAnsweringPipeline as Inner
    from transformers.pipelines.question_answering import QuestionAnsweringPipeline as Own

    assert Top is Inner is Own is QuestionAnsweringPipeline


@pytest.mark.parametrize("frozen", [False, True])
def test_a_program_that_imported_transformers_first_finds_the_old_class_too(monkeypatch, frozen) -> None:
    """Also one that froze what it had loaded, as servers do before they fork."""
    gc.freeze() if frozen else gc.unfreeze()
    first = transformers
    monkeypatch.setitem(sys.modules, "transformers", first)
    direct_transformers_import(str(Path(first.__file__).parent))  # as transformers.processing_utils does
    assert sys.modules["transformers"] is not first
    monkeypatch.delattr(first, "QuestionAnsweringPipeline", raising=False)
    register_pipeline(restore=True)
    assert first.QuestionAnsweringPipeline is QuestionAnsweringPipeline
    assert sys.modules["transformers"].QuestionAnsweringPipeline is QuestionAnsweringPipeline


@pytest.mark.parametrize(
    ("asked", "dtype"),
    [
        ({}, torch.float32),
        ({"torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "torch.bfloat16"}, torch.bfloat16),
        ({"dtype": torch.bfloat16, "torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"model_kwargs": {"torch_dtype": torch.bfloat16}}, torch.bfloat16),
        ({"model_kwargs": {"dtype": "bfloat16"}}, torch.bfloat16),
        ({"dtype": "auto"}, torch.float16),  # as it was saved
    ],
)
def test_a_dtype_asked_for_is_the_models(model_folder, tmp_path, asked, dtype, restored) -> None:
    load_model(model_folder).half().save_pretrained(tmp_path)
    load_tokenizer(model_folder).save_pretrained(tmp_path)
    assert pipeline(OLD, model=tmp_path, **asked).model.dtype == dtype
    if asked and asked.get("dtype") != "torch.bfloat16":  # a name that transformers does not know
        with quiet_transformers():
            assert transformers.pipeline(OLD, model=str(tmp_path), **asked).model.dtype == dtype
    if "model_kwargs" in asked:
        return
    parts = {"model": load_model(model_folder), "tokenizer": load_tokenizer(model_folder)}
    kept = torch.float32 if asked.get("dtype") == "auto" else dtype
    assert QuestionAnsweringPipeline(**parts, **asked).model.dtype == kept
    assert pipeline(OLD, **parts, **asked).model.dtype == kept


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({"task": "summarization"}, InputError, "task 'summarization' is not 'question-answering', the one task here"),
        ({"task": "ner"}, InputError, "task 'ner' is not 'question-answering'"),
        ({"task": "gpt", "model": "."}, InputError, "task 'gpt' is not 'question-answering'"),
        ({"framework": "tf"}, InputError, "framework 'tf' is gone from transformers 5; pass 'pt'"),
        ({"use_fast": False}, InputError, "use_fast False asks for a slow tokenizer"),
        ({"feature_extractor": "x", "processor": 1}, InputError, r"(?s)feature_extractor has no use.*\nprocessor has"),
        ({"dtype": "int8"}, InputError, "dtype 'int8' is unknown; pass 'auto', 'float32'"),
        ({"torch_dtype": "half precision"}, InputError, "torch_dtype 'half precision' is unknown"),
        ({"dtype": "float32", "torch_dtype": "bfloat16"}, InputError, "dtype torch.float32 and torch_dtype torch.bfl"),
        (
            {"dtype": "float32", "model_kwargs": {"dtype": "float16"}},
            InputError,
            r"and model_kwargs\['dtype'\] torch.f",
        ),
        ({"revision": "a", "model_kwargs": {"revision": "b"}}, InputError, "both give revision; pass one"),
        (
            {"use_safetensors": True, "model_kwargs": {"use_safetensors": False}},
            InputError,
            "both give use_safetensors",
        ),
        ({"model_kwargs": {"unheard_of": 1}}, InputError, "unexpected keyword argument 'unheard_of'"),
        ({"unheard_of": 1}, TypeError, "unknown argument 'unheard_of'"),
        ({"compat": "v4", "unheard_of": 1}, TypeError, "unknown argument 'unheard_of'"),
        ({"batch_size": 0}, InputError, "batch_size is 0; pass an int of at least 1"),
        ({"top_k": 0}, InputError, r"top_k parameter should be >= 1 \(got 0\)"),
        ({"device": "cpu", "model_kwargs": {"device_map": "auto"}}, InputError, "device_map"),
    ],
)
def test_what_can_have_no_effect_is_an_error(model_folder, keywords, kind, message) -> None:
    given = keywords if "task" in keywords else {"model": model_folder, **keywords}
    with pytest.raises(kind, match=message):
        pipeline(**given)


def test_a_device_map_needs_accelerate_and_no_device(model_folder, monkeypatch) -> None:
    monkeypatch.setattr(building, "is_accelerate_available", lambda: False)
    with pytest.raises(InputError, match="device_map needs the package accelerate; pip install accelerate, or pass"):
        pipeline(model_folder, device_map="auto")
    monkeypatch.setattr(building, "is_accelerate_available", lambda: True)
    with pytest.raises(InputError, match="device 'cpu' and device_map are both given"):
        pipeline(model_folder, device_map="auto", device="cpu")


@pytest.mark.parametrize("place", ["cpu", "meta"])
def test_a_device_map_places_the_model(model_folder, place) -> None:
    pytest.importorskip("accelerate")
    ask = pipeline(OLD, model=model_folder, device_map={"": place})
    assert ask.model.device.type == ask.device.type == place


def test_without_a_model_the_old_default_is_taken_or_one_sentence_asks_for_it(model_folder, said, monkeypatch) -> None:
    for call in (dict, lambda: {"task": OLD}):
        with pytest.raises(InputError, match=r"pass model=: without it .*distilbert.* cannot be loaded") as no:
            pipeline(**call())
        assert "\n" not in str(no.value)
    monkeypatch.setattr(building, "DEFAULT_MODEL", (model_folder, "main"))
    said.clear()
    assert pipeline(OLD).model.name_or_path == model_folder
    assert f"no model was given: taking {model_folder}" in said.text
    register_pipeline(restore=True)
    with quiet_transformers():
        assert transformers.pipeline(OLD).model.name_or_path == model_folder


def test_a_loaded_model_needs_its_tokenizer_and_says_what_comes_too_late(model_folder, said) -> None:
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    with pytest.raises(InputError, match="model BertForQuestionAnswering is loaded already, without a tokenizer; pass"):
        pipeline(OLD, model=model)
    pipeline(OLD, model=model, tokenizer=tokenizer, model_kwargs={"attn_implementation": "eager"})
    assert "the model is loaded already, so these have no effect: attn_implementation" in said.text
    larger = AutoTokenizer.from_pretrained(model_folder)
    larger.add_tokens([f"word{number}" for number in range(9)])
    with pytest.raises(InputError, match="they do not belong together"):
        pipeline(OLD, model=model, tokenizer=larger)
    with pytest.raises(InputError, match="they do not belong together"):
        pipeline(OLD, model=model_folder, tokenizer=larger)


def test_where_files_come_from_holds_for_the_tokenizer_too(model_folder, monkeypatch) -> None:
    seen = []

    def noting(original):
        def from_pretrained(*args, **keywords):
            seen.append({name: keywords.get(name) for name in ("revision", "token", "cache_dir", "local_files_only")})
            return original(*args, **keywords)

        return from_pretrained

    for auto in (AutoTokenizer, AutoModelForQuestionAnswering):
        monkeypatch.setattr(auto, "from_pretrained", noting(auto.from_pretrained))
    places = {"revision": "v2", "token": "secret", "local_files_only": True}
    pipeline(model_folder, **places, model_kwargs={"cache_dir": "/tmp"})
    assert seen == [{**places, "cache_dir": "/tmp"}] * 2


def test_a_class_of_ones_own_is_built(model_folder, wanted) -> None:
    class Own(QuestionAnsweringPipeline):
        pass

    ask = pipeline(OLD, model=model_folder, pipeline_class=Own)
    assert type(ask) is Own
    assert ask(**ASKED) == wanted
