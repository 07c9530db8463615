"""The questions of a validation, with all that a report of errors says about them."""

from __future__ import annotations

from qa_lightning.metrics.squad import Scoring
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.pages.questions import Scored
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.module import QALightningModule


def scored_questions(
    model: str, source: str, module: QALightningModule, data: SquadDataModule, settings: AnswerSettings, fitted: bool
) -> Scored:
    """What the last validation found, if it kept its outcomes.

    Args:
        model, source: names of the model and of the questions, for people.
        module, data: that validation's.
        settings: how the model is asked.
        fitted: whether threshold and temperature were fitted to these questions.
    """
    predictions, outcomes, split = module.predictions, module.outcomes, data.validation_set
    assert predictions is not None
    assert outcomes is not None
    assert split is not None
    return Scored(
        model,
        source,
        predictions,
        outcomes,
        settings.scaling,
        Scoring(predictions.version_2, module.hparams["mixed_script"]),
        split.store,
        data.tokenizer,
        settings.doc_stride,
        settings.max_answer_length,
        fitted,
    )
