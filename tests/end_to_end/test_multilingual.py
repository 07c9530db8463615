"""XQuAD-style files in languages with and without spaces load, pass the check, train and score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertForQuestionAnswering, PreTrainedTokenizerFast

from qa_lightning import Reader, SquadMetric
from qa_lightning.checks.report import check_source
from qa_lightning.features.windows import WindowSettings
from qa_lightning.metrics.squad import Scoring, answer_scores, normalize_answer
from qa_lightning.models.loading import load_tokenizer
from tests.helpers import commands
from tests.helpers.models import small_config

# language -> script; the context before, in and after the answer; the question
SENTENCES = {
    "es": ("Latin", ["La panadera vive en ", "Sevilla", " desde hace diez años."], "¿Dónde vive la panadera?"),
    "ru": ("Cyrillic", ["Пекарь живёт в ", "Москве", " уже десять лет."], "Где живёт пекарь?"),
    "ar": ("Arabic", ["يعيش الخباز في ", "القاهرة", " منذ عشر سنوات."], "أين يعيش الخباز؟"),
    "hi": ("Devanagari", ["बेकर ", "दिल्ली", " में दस साल से रहता है।"], "बेकर कहाँ रहता है?"),
    "zh": ("CJK", ["面包师在", "北京市", "住了十年。"], "面包师住在哪里？"),
    "th": ("Thai", ["คนทำขนมปังอาศัยอยู่ที่", "เชียงใหม่", "มาสิบปีแล้ว"], "คนทำขนมปังอาศัยอยู่ที่ไหน?"),
    "el": ("Greek", ["Ο αρτοποιός ζει στην ", "Αθήνα", " εδώ και δέκα χρόνια."], "Πού ζει ο αρτοποιός;"),
}
NAMES = dict(zip(SENTENCES, "Spanish Russian Arabic Hindi Chinese Thai Greek".split(), strict=True))


def write_articles(path: Path, language: str, count: int) -> str:
    """Write XQuAD's layout: SQuAD v1.1 with one paragraph per article."""
    _, (before, answer, after), question = SENTENCES[language]
    paragraphs = []
    for number in range(count):
        context = f"{number}. {before}{answer}{after}"
        start = context.index(answer)
        answers = [{"text": answer, "answer_start": start}]
        qas = [{"id": f"{language}-{number}", "question": question, "answers": answers}]
        paragraphs.append({"context": context, "qas": qas})
    articles = [{"title": f"{language} {number}", "paragraphs": [one]} for number, one in enumerate(paragraphs)]
    path.write_text(json.dumps({"version": "1.1", "data": articles}, ensure_ascii=False), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory) -> str:
    """An untrained model on a byte-level tokenizer, which knows every script."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    texts = ["".join(parts) + question for _, parts, question in SENTENCES.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    )
    folder = tmp_path_factory.mktemp("bytes")
    BertForQuestionAnswering(small_config(len(fast), max_position_embeddings=512)).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("language", SENTENCES)
def test_a_language_passes_the_check_trains_and_scores(tmp_path, byte_model, language, capsys) -> None:
    script, (_, answer, _), question = SENTENCES[language]
    path = write_articles(tmp_path / f"xquad.{language}.json", language, 24)
    report = check_source(path, tokenizer=load_tokenizer(byte_model), settings=WindowSettings(400, 60, 150))
    assert report.errors == 0
    assert report.facts["scripts"] == {script: 24}
    assert report.facts["languages"] == {NAMES[language]: 24}
    assert report.facts["unknown"] == {}
    assert report.facts["ceiling"]["f1"] > 99
    arguments = ["--data.dataset", path, "--data.validation", path, "--model.model_name", byte_model]
    arguments += ["--data.max_length", "400", "--data.doc_stride", "60", "--data.max_question_length", "150"]
    arguments += ["--model.learning_rate", "5e-3", "--trainer.max_epochs", "14", "--trainer.accelerator", "cpu"]
    assert commands.train([*arguments, "--trainer.default_root_dir", str(tmp_path)]) == 0
    folder = tmp_path / "lightning_logs" / "version_0" / "model"
    context = json.loads(Path(path).read_text(encoding="utf-8"))["data"][3]["paragraphs"][0]["context"]
    (asked,) = Reader.load(str(folder)).answer([question], [context])
    assert context[asked.start : asked.end] == asked.text
    scores = json.loads((folder.parent / "run.json").read_text())[0]["scores"]
    assert scores["best/f1"] > 90  # every question has the same answer, so that it is learnt
    assert asked.text == answer


def test_ideographs_are_counted_one_by_one_when_asked() -> None:
    assert answer_scores("北京", ["北京市"]) == (0, 0.0)
    exact, f1 = answer_scores("北京", ["北京市"], Scoring(mixed_script=True))
    assert (exact, round(f1, 6)) == (0, 0.8)
    assert answer_scores("《北京》，2008年", ["北京 2008年"], Scoring(mixed_script=True)) == (1, 1.0)
    assert normalize_answer("在Wien的北京", mixed_script=True) == "在 wien 的 北 京"
    assert normalize_answer("The Baker's, «Wien»!") == "bakers «wien»"
    assert normalize_answer("The Baker's, «Wien»!", mixed_script=True) == "the bakers wien"  # as the scorer


def test_it_is_off_by_default_and_reaches_the_metric_by_flag(tmp_path, capsys) -> None:
    path = write_articles(tmp_path / "zh.json", "zh", 2)
    predictions = tmp_path / "predictions.json"
    predictions.write_text(json.dumps({"zh-0": "北京", "zh-1": "北京市"}), encoding="utf-8")
    given = ["--predictions", str(predictions), "--data", path]
    assert commands.evaluate(given) == 0
    assert "f1             50.0000" in capsys.readouterr().out
    assert commands.evaluate([*given, "--mixed-script"]) == 0
    assert "f1             90.0000" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        commands.evaluate([*given, "--mixed-script", "--official"])
    assert "knows no --mixed_script" in capsys.readouterr().err
    assert SquadMetric().scoring.mixed_script is False
