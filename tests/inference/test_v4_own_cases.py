"""What transformers 4.57.6 tests of its own pipeline holds for ours, in both modes, over tiny models of 15 families."""

from __future__ import annotations

import pytest
from transformers import (
    ConvBertConfig,
    ConvBertForQuestionAnswering,
    ElectraConfig,
    ElectraForQuestionAnswering,
    MPNetConfig,
    MPNetForQuestionAnswering,
    RoFormerConfig,
    RoFormerForQuestionAnswering,
)

from qa_lightning import pipeline
from qa_lightning.models.loading import max_positions
from tests.helpers.families import FAMILIES, Family, save
from tests.helpers.families import _encoder as encoder
from tests.helpers.v4_own_cases import cases, failed

BERT = FAMILIES["bert uncased"]


def of_bert(model, config, **changes) -> Family:
    """A family with BERT's tokenizer and layout."""
    return Family(BERT.tokenizer, encoder(model, config, **changes), BERT.template, BERT.types)


MORE = {
    "electra": of_bert(ElectraForQuestionAnswering, ElectraConfig, embedding_size=16),
    "convbert": of_bert(ConvBertForQuestionAnswering, ConvBertConfig, embedding_size=32, conv_kernel_size=3),
    "roformer": of_bert(RoFormerForQuestionAnswering, RoFormerConfig, embedding_size=32),
    "mpnet": of_bert(MPNetForQuestionAnswering, MPNetConfig),
}

# What 4.57.6 itself does not pass on these models: "no answer", or a token of score 0, takes all of it.
OLD_FAILS = {
    "large logits": {"albert", "deberta-v3", "modernbert", "mpnet", "roberta", "xlnet"},
    "twenty answers": {"deberta-v3", "xlnet"},
}


@pytest.mark.parametrize("name", [*FAMILIES, *MORE])
def test_every_case_that_the_old_pipeline_passes_holds(name, tmp_path) -> None:
    folder = save({**FAMILIES, **MORE}[name], tmp_path)
    ask = pipeline("question-answering", model=folder, torch_dtype="float32", framework="pt")
    ask.tokenizer.model_max_length = max_positions(ask.model) or 512
    assert failed(ask) == []
    v4 = pipeline("question-answering", model=ask.model, tokenizer=ask.tokenizer, compat="v4")
    assert {*failed(v4)} == {case for case, names in OLD_FAILS.items() if name in names}


def test_the_cases_tell_a_broken_pipeline(model_folder) -> None:
    ask = pipeline("question-answering", model=model_folder)
    ask.postprocess = lambda outputs, **settings: {"answer": ""}
    assert len(failed(ask)) == 18  # all but those that raise
    assert len(failed(lambda *args, **keywords: [])) == len(list(cases())) == 44
