"""`QALightningModule`: loss, optimizer and steps around ``AutoModelForQuestionAnswering``; scores from validation."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from qa_lightning.decoding.calibrator import Calibrator
from qa_lightning.decoding.decoder import BestSpans, Decoded, Decoder, LossSum
from qa_lightning.decoding.predictions import Answer, Predictions
from qa_lightning.decoding.sharing import Processes, all_at_first, own_share
from qa_lightning.decoding.spans import Scaling
from qa_lightning.distillation.teacher import (
    TEMPERATURE,
    WEIGHT,
    Computing,
    Teacher,
    lasting_teacher,
    teacher_problems,
)
from qa_lightning.errors import DivergedError, InputError, Rules, argument_kinds, broken_rules
from qa_lightning.features.batching import Batch, FeatureDataset, TrainingSampler
from qa_lightning.features.defaults import MAX_ANSWER_LENGTH
from qa_lightning.features.windows import WindowSettings, windowing_key
from qa_lightning.inference.arguments import Item
from qa_lightning.inference.reader import QuestionSet
from qa_lightning.metrics.calibration import TEMPERATURES
from qa_lightning.metrics.confidence import fit_confidence
from qa_lightning.metrics.outcomes import Outcomes, judge
from qa_lightning.metrics.squad import MixedScript, SquadMetric
from qa_lightning.metrics.thresholds import best_threshold
from qa_lightning.models.adapters import (
    ALPHA,
    DROPOUT,
    Lora,
    add_lora,
    base_digest,
    describe_adapters,
    has_adapters,
    is_wrapped,
    leave_out_base,
    pass_token_types,
    with_adapters_of,
)
from qa_lightning.models.computing.attention import use_fast_attention, use_usual_attention, without_reads
from qa_lightning.models.computing.dropout import use_fast_dropout, use_usual_dropout
from qa_lightning.models.computing.freezing import freeze_lowest
from qa_lightning.models.computing.layers import compile_layers, is_compiled, layer_depths, unknown_encoder
from qa_lightning.models.computing.loss import (
    LABELS,
    MODEL_INPUTS,
    StepLoss,
    StepLosses,
    inputs_on,
    model_logits,
    span_loss,
    teacher_loss,
)
from qa_lightning.models.folder import VOCABULARIES, save_model
from qa_lightning.models.loading import lasting_name, load_model, load_tokenizer, max_positions, tokenizer_problem
from qa_lightning.models.settings import CONFIG_KEY, AnswerSettings, Fitted
from qa_lightning.progress import print_log
from qa_lightning.runs.checkpoints import training_is_over
from qa_lightning.runs.throughput import computing_weights
from qa_lightning.runs.watching import StepLines, planned_steps
from qa_lightning.training.callbacks import EpochLines
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.steps.graphs import LENGTHS_APART, StepGraphs, graph_problems, shape_problems
from qa_lightning.training.steps.optim import LinearSchedule, build_optimizer
from qa_lightning.training.steps.partial import partial_problems
from qa_lightning.wording import counted

if TYPE_CHECKING:
    from typing_extensions import Self  # typing's since Python 3.11

log = logging.getLogger("qa_lightning")

ADAPTERS = "adapters"  # key in a checkpoint
COMPILER: Any = "inductor"  # the backend of torch.compile; tests set another
# What is logged, by name, for callbacks that monitor it.
LOGGED = ("val/f1", "val/exact_match", "val/loss", "train/loss")
LOGGED_WITH_UNANSWERABLE = (
    "val/best_f1",
    "val/null_score_diff_threshold",
    *(f"val/{kind}_{name}" for kind in ("HasAns", "NoAns") for name in ("exact", "f1")),
)
_TEACHER = "teacher_logits"  # in checkpoints: a key of the teacher's logits
_NO_WINDOWS = (
    "--model.teacher needs the training windows of a SquadDataModule: trainer.fit(module, SquadDataModule(...))"
)
_RULES: Rules = {
    "learning_rate": (lambda rate: rate > 0, "must be above 0, 2e-5 to 1e-4 are usual"),
    "weight_decay": (lambda decay: decay >= 0, "must not be negative"),
    "warmup_ratio": (lambda ratio: 0 <= ratio <= 1, "must be from 0 to 1, a part of the steps"),
    "layer_decay": (lambda decay: 0 < decay <= 1, "must be above 0 and at most 1, 0.7 to 0.9 are usual"),
    "freeze_layers": (lambda layers: layers >= 0, "must not be negative; 0 freezes the embeddings alone"),
    "lora_rank": (lambda rank: rank >= 1, "must be at least 1, 8 is usual"),
    "lora_alpha": (lambda alpha: alpha >= 1, "must be at least 1, 16 is usual"),
    "lora_dropout": (lambda dropout: 0 <= dropout < 1, "must be at least 0 and below 1"),
    "attention_dropout": (lambda dropout: 0 <= dropout < 1, "must be at least 0 and below 1, 0.1 is usual"),
    "max_answer_length": (lambda length: length >= 1, "must be at least 1"),
    "n_best": (lambda count: count >= 1, "must be at least 1"),
    "teacher_temperature": (lambda value: 0 < value < math.inf, "must be above 0, 1 to 5 are usual"),
    "teacher_weight": (lambda weight: 0 <= weight <= 1, "must be from 0 to 1, a part of the loss"),
}


class QALightningModule(LightningModule):
    """Trains a question answering model, and scores it in every validation epoch.

    After a validation epoch, ``predictions`` holds all answers, ``wrong`` the numbers of those without an exact match,
    and ``scores`` the scores of all, under the official scorers' names. If some question has no answer,
    ``temperatures`` is set, or ``trainer.validate`` runs, ``outcomes`` says how right the best spans are; otherwise it
    is None. Of several processes, the first has all of that, the others the scores of all and, of the rest, the share
    that they decoded. ``trainer.test`` does the same as a validation, under the names ``test/f1`` and so on;
    ``trainer.predict`` returns `Answer` objects, see `predict_step`.

    Each training step seeds its random numbers from the run's seed, epoch, batch and process, so a resumed run draws
    the numbers that it would have drawn without the stop.

    Args:
        model_name: a name on the Hub, a folder, or ``tiny``, an untrained model for the embedded dataset.
        learning_rate: the highest learning rate of the schedule.
        weight_decay: decay of matrices; biases and norm layers have none.
        warmup_ratio: the part of the steps over which the learning rate rises from 0; it then falls linearly to 0.
        layer_decay: each layer learns at this part of the rate of the layer above; the head learns at
            ``learning_rate``, which should be higher then. 0.7 to 0.9 help small data.
        freeze_layers: do not train the embeddings and so many of the lowest layers; 0 freezes the embeddings alone. See
            `freeze_lowest`. None trains all.
        lora_rank: train adapters of this rank (LoRA; Hu et al., 2021) and the head in place of the model; 8 is usual,
            with a learning rate of 1e-4 to 2e-3. Checkpoints then hold these alone. Needs the package peft; see
            `add_lora`. None trains the model itself.
        lora_alpha: what adapters add is scaled by ``lora_alpha / lora_rank``; 16 for a rank of 8, as Hu et al. have it
            for RoBERTa-large.
        lora_dropout: dropout of what an adapter takes in.
        attention_dropout: dropout of attention in training; None keeps the model's own.
        max_answer_length: the longest answer, in tokens.
        n_best: candidates kept per question in ``predictions``; only the best one is scored.
        null_score_diff_threshold: for data with unanswerable questions: the answer is "no answer" if the null score
            exceeds the best span's score by more than this.
        attn_implementation: ``sdpa``, ``flash_attention_2`` or ``eager``; None leaves the choice to transformers, and
            in training on a CPU to ``fast_dropout``.
        bidirectional: for decoders: attention in both directions, or causal attention; None: in both directions, except
            for a model that was trained to answer questions before; see `heads.load_pretrained`.
        mixed_script: how F1 counts answers in scripts without spaces, and Korean: ``mlqa`` (or true) each ideograph, as
            MLQA's scorer; ``kana`` each ideograph and kana; ``korquad`` each character, as KorQuAD's scorer.
        fast_dropout: in training on a CPU, draw dropout from 16 random bits a number, and use our own attention unless
            ``attn_implementation`` is given; see `dropped` and `use_fast_attention`. False: PyTorch's, which is slower.
            Both are deterministic, by other random numbers. GPUs and compiled models always have PyTorch's.
        compile: compile the model's layers with ``torch.compile``, once for training and once for validation, for
            batches of any size; see `compile_layers`.
        cuda_graphs: give each training step to a GPU as a whole; see `graphs`. Much faster for small batches, for
            which the host cannot keep up with the GPU otherwise. One GPU, float32 or bfloat16.
        teacher: a trained model, a folder or a name on the Hub, whose probabilities of starts and ends the model learns
            too (distillation). Its logits for the training windows are computed once, before training, and kept with
            the prepared data. Its tokenizer may be another one; see `distillation.windows`.
        teacher_temperature: divides the logits of both; a higher one shows more of what the teacher holds possible. 2,
            as for DistilBERT on SQuAD (Sanh et al., 2019).
        teacher_weight: the part of the loss that the teacher has; the labels have the rest. 0.5, from the same source.
    """

    def __init__(
        self,
        model_name: str = "bert-base-cased",
        learning_rate: float = 2e-5,
        weight_decay: float = 0.01,
        warmup_ratio: float = 0.0,
        layer_decay: float = 1.0,
        freeze_layers: int | None = None,
        lora_rank: int | None = None,
        lora_alpha: int = ALPHA,
        lora_dropout: float = DROPOUT,
        attention_dropout: float | None = None,
        max_answer_length: int = MAX_ANSWER_LENGTH,
        n_best: int = 1,
        null_score_diff_threshold: float = 0.0,
        attn_implementation: str | None = None,
        bidirectional: bool | None = None,
        mixed_script: bool | MixedScript = False,
        fast_dropout: bool = True,
        compile: bool = False,
        cuda_graphs: bool = False,
        teacher: str | None = None,
        teacher_temperature: float = TEMPERATURE,
        teacher_weight: float = WEIGHT,
    ) -> None:
        super().__init__()
        print_log()
        model_name = lasting_name(model_name)
        teacher = lasting_teacher(teacher)
        self.save_hyperparameters()
        if problems := model_problems(self.hparams):
            raise InputError(problems)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_ratio = warmup_ratio
        self.layer_decay = layer_decay
        self.max_answer_length = max_answer_length
        self.n_best = n_best
        self.threshold = null_score_diff_threshold
        self.temperature = 1.0
        self.calibrator: Calibrator | None = None  # of the scores in ``predictions``; evaluate sets it
        self.temperatures_of_models: tuple[float, ...] = ()  # of an ensemble, which evaluate puts in ``model``'s place
        self.model = load_model(model_name, attn_implementation, attention_dropout, bidirectional)
        if layer_decay != 1.0 and len(set(layer_depths(self.model).values())) == 1:  # all of it passes for the head
            raise InputError(unknown_encoder(f"--model.layer_decay {layer_decay:g}", self.model, model_name))
        self.computing_weights = computing_weights(self.model)
        self._base: str | None = None  # see `base_digest`
        self._frozen = [] if freeze_layers is None else freeze_lowest(self.model, freeze_layers, model_name)
        if lora_rank is not None:
            add_lora(self.model, Lora(lora_rank, lora_alpha, lora_dropout), model_name, freeze_layers or 0)
            leave_out_base(self, self.model, "model.")
            self._base = base_digest(self.model)
        self.train()
        if compile:
            compile_layers(self.model, COMPILER)
        self.metrics = torch.nn.ModuleList([SquadMetric(version_2, mixed_script) for version_2 in (False, True)])
        self.predictions: Predictions | None = None
        self.temperatures: tuple[float, ...] = ()  # ``outcomes`` keeps sums for these; finish and evaluate set them
        self.outcomes: Outcomes | None = None
        self.last_n_best = 0  # above 0: the validation that ends a fit keeps so many candidates, and ``outcomes``
        self.last_step: int | None = None  # of the weights that it validated
        self.scores: dict[str, float] = {}
        self._decoder: Decoder | None = None
        self.losses = StepLosses()
        self._graphs: StepGraphs | None = None
        self.tokenizer: Any = None  # these three are those of the data that it is trained or validated on
        self.windows: WindowSettings | None = None
        self.version_2 = False
        is_saved = hasattr(self.model.config, CONFIG_KEY)
        self._saved = AnswerSettings.of_model(self.model) if is_saved else None  # how the model of a folder is asked
        self._fingerprint = ""  # of the questions that ``trainer.validate`` asks
        self._validated: tuple[Outcomes, str] | None = None  # of ``trainer.validate``, and that fingerprint
        self._seed: int | None = None
        self._hidden: Any = None  # the filter of `_hide_warning`
        self._teacher_key: str | None = None  # of the teacher's logits in this fit
        self._taught: str | None = None  # the folder of the teacher's logits that a line has told of
        self.wrong: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def backbone(self) -> torch.nn.Module:
        """The encoder below the head, which Lightning's ``BackboneFinetuning`` freezes and thaws."""
        model = self.model.get_base_model() if is_wrapped(self.model) else self.model
        encoder = model.base_model
        assert isinstance(encoder, torch.nn.Module)
        return encoder

    def train(self, mode: bool = True) -> Self:
        """As of any module, but frozen layers stay in eval mode."""
        super().train(mode)
        for name in self._frozen:
            self.model.get_submodule(name).eval()
        return self

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Start and end logits, [B, T] each; see `model_logits`."""
        return model_logits(self.model, batch)

    def configure_callbacks(self) -> Sequence[Callback]:
        """Lines with EM and F1 after each validation, unless the Trainer has them; without a bar, of steps too.

        And one that undoes `setup` after an exception.
        """
        there: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]

        def lacks(*kinds: type[Callback]) -> bool:
            return not any(isinstance(callback, kinds) for callback in there)

        own: list[Callback] = [_UsualAfterFaults()] if lacks(_UsualAfterFaults) else []
        if lacks(EpochLines):
            own += [EpochLines(only_if_verbose=True), *([StepLines()] if lacks(ProgressBar, StepLines) else [])]
        return own

    def setup(self, stage: str) -> None:
        """Take over from the data how the model is asked.

        Raises:
            InputError: the data was prepared for another model, or CUDA graphs cannot hold the steps.
        """
        device = self.trainer.strategy.root_device.type
        if stage == "fit" and device == "cpu" and self.hparams["compile"]:
            log.info("compile:   on a CPU, a compiled model trains without fast dropout, and is slower for it")
        # Where layers are compiled, those for batches with and without a mask would be two cases.
        if device == "cuda" or self.hparams["compile"]:
            without_reads(self.model)
        elif stage == "fit" and device == "cpu" and self.hparams["fast_dropout"] and not is_compiled(self.model):
            use_fast_dropout(self.model)
            if self.hparams["attn_implementation"] is None:
                use_fast_attention(self.model)
        self._free_graphs()  # of a fit that ended with an exception
        pass_token_types(self.model)
        if stage == "fit":
            self.losses.begin()  # before callbacks note where they begin
            if not self.model.training:  # a pipeline or a Reader, which answered with it, has put it into eval mode
                self.train()
            if self._frozen:  # what Lightning warns of is meant to be
                self._hide_warning()
            if problems := graph_problems(self.trainer, self.hparams) + partial_problems(self.trainer, self.hparams):
                raise InputError(problems)
        self._fingerprint = ""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SquadDataModule):
            if stage == "fit" and self.hparams["teacher"] is not None:
                raise InputError(_NO_WINDOWS)
            return
        if problems := self.misfits(data):
            raise InputError(problems)
        if stage == "fit":
            teacher = self._teacher(data, self.trainer)
            self._teacher_key = None if teacher is None else teacher.key
            data.soft_targets = None if teacher is None else teacher.targets(self.hparams["teacher_temperature"])
        if stage == "fit" and self.hparams["cuda_graphs"]:
            data.pad_to_multiple_of = math.lcm(data.pad_to_multiple_of, LENGTHS_APART)
        self.tokenizer = data.tokenizer
        asks_as_saved = stage == "predict" and self._saved is not None
        if stage == "fit" or (self.windows is None and not asks_as_saved):
            self.windows = data.settings
            self.version_2 = data.validation_set is not None and data.validation_set.version_2
        if stage == "validate":
            self._fingerprint = data.fingerprint("validation")

    def _hide_warning(self) -> None:
        """Hide Lightning's warning of modules in eval mode until the end of this fit: others need it."""
        self._show_warnings()
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        self._hidden = warnings.filters[0]

    def _show_warnings(self) -> None:
        filters: Any = warnings.filters
        if self._hidden in filters:
            filters.remove(self._hidden)
        self._hidden = None

    def prepare_data(self) -> None:
        """Compute the teacher's logits, if there is one. Lightning calls it once per machine."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.trainer.state.fn == TrainerFn.FITTING and isinstance(data, SquadDataModule):
            self.prepare_teacher(data, self.trainer)

    def prepare_teacher(self, data: SquadDataModule, trainer: Trainer) -> None:
        """Compute the teacher's logits for the training windows of ``data``, unless that was done before; log a line.

        Raises:
            InputError: see `Teacher`.
        """
        teacher = self._teacher(data, trainer)
        if teacher is None:
            return
        started = time.perf_counter()
        fresh = teacher.prepare()
        how = f"computed in {time.perf_counter() - started:.1f} s" if fresh else "computed before, reused"
        if self._taught != str(teacher.folder):
            self._taught = str(teacher.folder)
            windows = counted(teacher.split.summaries()[1]["features"], "window")
            mapped = ", mapped to the student's tokens by characters" if teacher.is_mapped else ""
            log.info(
                f"teacher: {teacher.name}: logits of {windows} ({how}){mapped}; temperature "
                f"{self.hparams['teacher_temperature']:g}, {self.hparams['teacher_weight']:.0%} of the loss"
            )

    def teacher_key(self, data: SquadDataModule, trainer: Trainer) -> str | None:
        """A key of the teacher's logits: of its weights, tokenizer and windows; None without a teacher."""
        teacher = self._teacher(data, trainer)
        return None if teacher is None else teacher.key

    def _teacher(self, data: SquadDataModule, trainer: Trainer) -> Teacher | None:
        if self.hparams["teacher"] is None or data.dataset is None:
            return None
        computing = Computing(trainer.strategy.root_device, str(trainer.precision), data.eval_batch_size)
        return Teacher(self.hparams["teacher"], data.prepared("train"), computing)

    def misfits(self, data: SquadDataModule) -> list[str]:
        """A line for each reason why the model cannot read the windows of ``data``."""
        problems = []
        own, others = self.hparams["model_name"], data.hparams["model_name"]
        if own != others and not _cut_alike(own, data.tokenizer):
            problems.append(
                f"SquadDataModule was made for the tokenizer of {others!r}, and QALightningModule has the model "
                f"{own!r}, which reads other tokens: pass model_name={own!r} to both"
            )
        if not problems and (problem := tokenizer_problem(self.model, data.tokenizer)):
            problems.append(f"--model.model_name: {problem}")
        problems += shape_problems(self.hparams, data.finds_batch_size)
        length, limit = data.settings.max_length, max_positions(self.model)
        if limit and length > limit:
            problems.append(
                f"--data.max_length {length} is more than the {limit} positions of {own}; pass "
                f"--data.max_length {limit} or less"
            )
        return problems

    @property
    def answer_settings(self) -> AnswerSettings:
        """How the model is asked: the windows of the data that it was trained on, its longest answer, its threshold.

        As its folder says, where it was neither trained nor validated here, and no argument says otherwise.
        """
        if self.windows is None and self._saved is not None:
            given: dict[str, Any] = {}
            if self.max_answer_length != MAX_ANSWER_LENGTH:
                given["max_answer_length"] = self.max_answer_length
            if self.threshold != 0.0:
                given["null_score_diff_threshold"] = self.threshold
            return replace(self._saved, **given)
        usual = AnswerSettings.of_config(None, "", max_positions(self.model))
        return replace(
            usual,
            **asdict(self.windows or usual.windows),
            max_answer_length=self.max_answer_length,
            version_2=self.version_2,
            null_score_diff_threshold=self.threshold,
            temperature=self.temperature,
        )

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the model as it is now, as the train command writes a run's ``model/``: for transformers and `Reader`.

        If ``trainer.validate`` has scored these weights, threshold, temperature and calibrator are fitted to its
        answers, as at the end of a run. After ``trainer.validate(module, data, ckpt_path="best")``, they are those of
        the best checkpoint.

        Args:
            folder: the folder to write; an existing one is replaced.

        Raises:
            InputError: it cannot be written.
        """
        if self.global_rank != 0:
            return
        settings = self.answer_settings
        if self._validated is not None:
            outcomes, fingerprint = self._validated
            found = fit_confidence(outcomes, self.version_2, settings.scaling)
            fitted = Fitted(found.scaling, self.version_2, fingerprint, found.scores_at_precision)
            settings = settings.fitted(fitted)
        tokenizer = self.tokenizer or load_tokenizer(self.hparams["model_name"])
        try:
            save_model(self.model, tokenizer, settings, Path(folder).expanduser(), self.state_dict(), "model.")
        except (OSError, SafetensorError) as error:
            raise InputError(f"the model could not be written to {folder} ({error})") from None

    def on_train_start(self) -> None:
        """Use the run's seed for the steps, unless a checkpoint gave one; count the steps of the schedule again."""
        if self.hparams["cuda_graphs"]:
            parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
            self._graphs = StepGraphs(self.feature_losses, parameters)
        self._validated = None  # these were other weights
        if self._seed is None:
            self._seed = torch.initial_seed()
        schedule = self.lr_schedulers()
        if isinstance(schedule, LinearSchedule):  # a finder of batch sizes, or a resume, changes how many there are
            # A further fit by the same Trainer has a schedule of its own, and Lightning counts the steps of both.
            before = self.trainer.global_step - schedule.last_epoch
            schedule.plan(planned_steps(self.trainer) - before)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the seed of the steps, and how the model is asked."""
        self.check_losses()
        checkpoint["step_seed"] = self._seed
        checkpoint[_TEACHER] = self._teacher_key
        checkpoint["answer_settings"] = asdict(self.answer_settings)
        if has_adapters(self.model):
            checkpoint[ADAPTERS] = describe_adapters(self.model, self._base)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the seed of the steps and, without a data module that decides it, how the model is asked.

        Raises:
            InputError: the checkpoint is of a decoder, from before it could attend in both directions; it holds
                adapters for other weights than the model's, or such as peft cannot make; or it had another teacher.
        """
        is_resumed = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if is_resumed and (problem := self._other_teacher(checkpoint)):
            raise InputError(problem)
        known = checkpoint.get("hyper_parameters", {})
        if known and "bidirectional" not in known and getattr(self.model.config, "is_causal", None) is False:
            raise InputError(
                "the checkpoint is of a decoder that was trained by an older version, with causal attention and other "
                "windows; train it anew, or go on from the model/ of its run with --model.model_name"
            )
        if saved_adapters := checkpoint.get(ADAPTERS):
            self.model = with_adapters_of(self.model, saved_adapters, self._base, self.hparams["model_name"])
        self._seed, self._validated = checkpoint.get("step_seed"), None
        saved = checkpoint.get("answer_settings")
        if self.windows is None and saved is not None:
            settings = AnswerSettings.of_config(saved, "the checkpoint", max_positions(self.model))
            self.windows, self.version_2 = settings.windows, settings.version_2

    def _other_teacher(self, checkpoint: Mapping[str, Any]) -> str | None:
        """What is wrong if the run that a checkpoint is of had another teacher, or only one of the two has one."""
        before = checkpoint.get(_TEACHER, self._teacher_key)  # older ones of runs without a teacher lack it
        if before == self._teacher_key:
            return None
        its = checkpoint.get("hyper_parameters", {}).get("teacher")
        if self._teacher_key is None:
            return f"the run was trained with a teacher before; pass --model.teacher {its}, or begin a new run"
        name = f"--model.teacher {self.hparams['teacher']}"
        if before is None:
            return f"{name}: the run was trained without a teacher before; leave it out, or begin a new run"
        return (
            f"{name}: its weights or tokenizer, the windows or the precision are not those that the run was trained "
            f"with before (--model.teacher {its}); resume with those, or begin a new run"
        )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout for this batch, whatever was drawn before."""
        entropy = [self._seed or 0, self.trainer.current_epoch, batch_idx, self.trainer.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss to backpropagate: this batch's part of the mean over all features of the optimizer step.

        ``losses`` keeps the mean over this batch, and that over all processes.
        """
        weights = self._weights(len(batch["feature"]), batch_idx)
        if self._graphs is None:
            losses = self.feature_losses(batch)
        else:
            accumulated = self.trainer.accumulate_grad_batches
            if batch_idx % accumulated == 0:
                self._graphs.zero()
            inputs = {name: batch[name] for name in (*MODEL_INPUTS, *LABELS) if name in batch}
            losses = self._graphs.losses(inputs, weights / accumulated)
        own = losses.detach().mean()
        mean = self.trainer.strategy.reduce(own.clone(), reduce_op="mean")
        self.losses.add(StepLoss(torch.stack([own, mean]), batch["feature"], self.global_step))
        # Not for Lightning's progress bars: they would wait for the device after every step, drawn or not.
        self.log("train/loss", mean, batch_size=len(losses))
        return (losses * weights).sum()

    def feature_losses(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of each feature of a batch on the device, [B]: `span_loss`, with a teacher also `teacher_loss`."""
        start, end = self(batch)
        losses = span_loss(start, end, batch)
        if self.hparams["teacher"] is None:
            return losses
        weight: float = self.hparams["teacher_weight"]
        return weight * teacher_loss(start, end, batch, self.hparams["teacher_temperature"]) + (1 - weight) * losses

    def _weights(self, features: int, batch_idx: int) -> Tensor:
        """[B] the weight of each feature's loss in the loss to backpropagate; see `TrainingSampler.weight`."""
        sampler = getattr(self.trainer.train_dataloader, "sampler", None)
        if not isinstance(sampler, TrainingSampler):
            return torch.full((features,), 1 / features, device=self.device)
        weight = sampler.weight(batch_idx, int(self.trainer.num_training_batches))
        weights = torch.full((features,), weight, device=self.device)
        weights[features - sampler.repeats(batch_idx) :] = 0.0
        return weights

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backpropagate, unless the step's graph has done it."""
        if self._graphs is None:
            super().backward(loss, *args, **kwargs)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Forget the gradients, unless the step's graph keeps their memory: `training_step` sets those to zero."""
        if self._graphs is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def on_after_backward(self) -> None:
        """Stop if a loss was not finite: on a CPU before the optimizer changes the weights, on a GPU within 50 batches.

        Raises:
            DivergedError: see `check_losses`.
        """
        if self.losses.due:
            self.check_losses()

    def check_losses(self) -> None:
        """Read the losses of all steps so far; every process must call it. Nothing is saved or validated without it.

        Raises:
            DivergedError: one was not finite; it names step and questions.
        """
        self.losses.read()
        broken = self.losses.broken
        if broken is None:
            return
        dataset = getattr(self.trainer.train_dataloader, "dataset", None)
        own, mean = broken.losses.tolist()
        ids = []
        if isinstance(dataset, FeatureDataset) and not math.isfinite(own):
            ids = _example_ids(dataset, broken.features.cpu().numpy())
        ids = list(dict.fromkeys(name for part in self._processes.all(ids) for name in part))
        raise DivergedError(f"the loss is {mean} at step {broken.step} (questions {', '.join(ids)})")

    def on_validation_start(self) -> None:
        """See `check_losses`."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.check_losses()

    def on_train_end(self) -> None:
        """See `check_losses`; free the graphs."""
        try:
            self.check_losses()
        finally:
            self._free_graphs()

    def teardown(self, stage: str) -> None:
        """Free the graphs, and leave a model that knows nothing of this package: it may be pickled."""
        self._free_graphs()
        if stage == "fit":  # not a validation by another Trainer, within a fit
            self.use_usual()

    def use_usual(self) -> None:
        """Give the model PyTorch's dropout and transformers' attention back, which `setup` may have replaced.

        And the process its warnings.
        """
        self._show_warnings()
        use_usual_dropout(self.model)
        use_usual_attention(self.model)

    def _free_graphs(self) -> None:
        if self._graphs is not None:
            self._graphs = None
            self.zero_grad()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the batch's logits to the decoder, which decodes the examples whose windows are complete."""
        start, end = self(batch)
        assert self._decoder is not None
        self._decoder.add_batch(batch, start, end, span_loss(start, end, batch))

    def on_validation_epoch_start(self) -> None:
        """Clear the results, and make a decoder for the validation set."""
        self.predictions = None
        self.outcomes = None
        last = self.last_n_best > 0 and _ends_fit(self.trainer)
        self.last_step = self.global_step if last else None
        alone = self.trainer.state.fn == TrainerFn.VALIDATING
        temperatures = self.temperatures or (tuple(TEMPERATURES.tolist()) if alone or last else ())
        scaling = Scaling(self.temperature, self.threshold, temperatures, self.temperatures_of_models)
        n_best = max(self.n_best, self.last_n_best if last else 0)
        self._decoder = Decoder(self._validation_set().store, BestSpans(n_best, self.max_answer_length, scaling))

    def on_validation_epoch_end(self) -> None:
        """Score the examples that are this process's; log the same values, those of all, on every process.

        Raises:
            DivergedError: the logits of some questions are not numbers.
        """
        dataset, processes = self._validation_set(), self._processes
        assert self._decoder is not None
        own = own_share(self._decoder, self._decoder.take(), processes)
        if len(own.broken):
            ids = ", ".join(_example_ids(dataset, own.broken))
            raise DivergedError(f"validation at step {self.global_step}: logits are not numbers (questions {ids})")
        self._score(own)
        if self.trainer.sanity_checking:
            return
        values = {
            "exact_match" if name == "exact" else name: value
            for name, value in self.scores.items()
            if not name.endswith("total")
        }
        values["loss"] = LossSum.mean(processes.all(own.loss_sum))
        if self.outcomes is not None and dataset.version_2:
            best = processes.from_one(best_threshold(*self.outcomes.decision) if processes.is_first else None)
            assert best is not None
            values |= {"best_f1": best.f1, "null_score_diff_threshold": best.threshold}
        stage = "test" if self.trainer.testing else "val"
        for name, value in values.items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "f1", batch_size=1)

    def _score(self, own: Decoded) -> None:
        """Score this process's share of the questions; what is kept of all of them goes to the first process."""
        dataset, processes = self._validation_set(), self._processes
        metric = self.metrics[int(dataset.version_2)]
        assert isinstance(metric, SquadMetric)
        share = Predictions(dataset.examples, own.index, own.spans, dataset.version_2, self.threshold, self.calibrator)
        outcomes = judge(share, metric.scoring)
        exact, f1 = outcomes.scores(self.threshold, dataset.version_2)
        metric.update_scores(exact, f1, outcomes.has_answer)
        self.scores = metric.compute()
        metric.reset()
        index, spans = all_at_first(own.index, own.spans, processes)
        self.predictions = replace(share, index=index, spans=spans)
        wrong = outcomes.index[exact == 0]
        wrong = np.concatenate(processes.at_first(len(wrong), lambda part: wrong[part]) or [wrong])
        self.wrong = np.searchsorted(index, np.sort(wrong))
        alone = self.trainer.state.fn == TrainerFn.VALIDATING
        if dataset.version_2 or self.temperatures or alone or self.last_step is not None:
            self.outcomes = Outcomes.join(processes.at_first(len(outcomes), outcomes.take) or [outcomes])
        if alone and self.outcomes is not None and dataset.version_2 == self.version_2:
            self._validated = (self.outcomes, self._fingerprint)

    def on_test_epoch_start(self) -> None:
        """As for a validation."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As for a validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """As for a validation."""
        self.on_validation_epoch_end()

    def predict_step(self, batch: list[Item], batch_idx: int) -> list[Answer]:
        """The answer to each question of a list; ``trainer.predict`` returns these lists, in the questions' order.

        Raises:
            InputError: the loader is not that of `SquadDataModule`, or logits are not numbers.
        """
        loader = self.trainer.predict_dataloaders
        dataset = getattr(loader, "dataset", None)
        if not isinstance(dataset, QuestionSet):
            raise InputError(
                "trainer.predict needs the questions of a SquadDataModule: trainer.predict(module, "
                f"SquadDataModule(None, questions, ...)); got a {type(loader).__name__}"
            )
        settings = replace(self.answer_settings, **asdict(dataset.windows))
        return dataset.answers(batch, settings, self._logits_of)

    def _logits_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        start, end = self(inputs_on(self.device, batch))
        return start, end

    def configure_optimizers(self) -> Any:
        """AdamW with a linear schedule over the whole run."""
        # fp16's scaler must unscale gradients before they are clipped; fused AdamW would unscale them only after that.
        fused = not str(self.trainer.precision).startswith("16")
        optimizer = build_optimizer(self.model, self.learning_rate, self.weight_decay, self.layer_decay, fused)
        schedule = LinearSchedule(optimizer, self.trainer.estimated_stepping_batches, self.warmup_ratio)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip here: Lightning refuses to for a fused optimizer under mixed precision, and by norm under FSDP."""
        strategy = self.trainer.strategy
        if isinstance(strategy, DeepSpeedStrategy):  # clips by itself
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif not gradient_clip_val:
            return
        elif gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        elif isinstance(strategy, FSDPStrategy):
            root: Any = strategy.model  # knows the norm over all devices; here are the gradients of this one
            root.clip_grad_norm_(gradient_clip_val)
        else:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def _validation_set(self) -> FeatureDataset:
        loader = self.trainer.test_dataloaders if self.trainer.testing else self.trainer.val_dataloaders
        dataset = getattr(loader, "dataset", None)
        if not isinstance(dataset, FeatureDataset):
            raise InputError(
                "QALightningModule needs one validation loader of qa_lightning features, as SquadDataModule makes it; "
                f"got {type(dataset if dataset is not None else loader).__name__}"
            )
        return dataset

    @property
    def _processes(self) -> Processes:
        return Processes(self.trainer.global_rank, self.trainer.world_size, self.trainer.strategy.root_device)


class _UsualAfterFaults(Callback):
    """Calls `QALightningModule.use_usual` after an exception, when Lightning calls no teardown."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(pl_module, QALightningModule):
            pl_module.use_usual()


def _ends_fit(trainer: Trainer) -> bool:
    """Whether the fit ends with this validation, as far as is known before it."""
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and training_is_over(trainer)


def _example_ids(dataset: FeatureDataset, features: NDArray[Any], limit: int = 32) -> list[str]:
    """Quoted ids of the questions that ``features`` belong to: the first ``limit``, then how many more."""
    examples = sorted(set(dataset.store.windows["example"][features].tolist()))
    more = [f"and {len(examples) - limit} more"] if len(examples) > limit else []
    return [repr(example_id) for example_id in dataset.examples[examples[:limit]]["id"]] + more


def model_problems(given: Mapping[str, Any]) -> list[str]:
    """A line for each bad argument of `QALightningModule`, found before anything is loaded."""
    return broken_rules(given, _RULES, "model", _argument_kinds()) + teacher_problems(given)


@cache
def _argument_kinds() -> dict[str, Any]:
    return argument_kinds(QALightningModule.__init__)


def _cut_alike(name: str, tokenizer: Any) -> bool:
    """Whether a model's own tokenizer cuts texts as ``tokenizer`` does; a model that has none takes any that fits."""
    folder = Path(name).expanduser()
    if folder.is_dir() and not any((folder / file).is_file() for file in VOCABULARIES):
        return True
    own = load_tokenizer(name)
    return windowing_key(own) == windowing_key(tokenizer)
