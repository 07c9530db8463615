from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch._dynamo.testing import CompileCounter
from transformers import AutoModelForQuestionAnswering, BertForQuestionAnswering, BertTokenizer

from qa_lightning import QALightningModule, SquadDataModule
from qa_lightning.decoding.decoder import FeatureLogits, LogitsCollector, complete_rows, join_windows
from qa_lightning.decoding.sharing import Processes
from qa_lightning.errors import DivergedError, InputError
from qa_lightning.features.batching import EvaluationSampler, PaddingCollator, TrainingSampler
from qa_lightning.metrics.outcomes import judge
from qa_lightning.metrics.squad import SquadMetric
from qa_lightning.models.computing.loss import StepLosses, span_loss
from qa_lightning.training import module as modules
from tests.helpers import commands
from tests.helpers.data import make_rows, mixed_rows, write_json
from tests.helpers.families import FAMILIES, save
from tests.helpers.models import small_config
from tests.helpers.training import QUIET, SMALL, train_flags
from tests.helpers.wires import as_processes


@pytest.fixture
def data(tmp_path, model_folder) -> SquadDataModule:
    train = write_json(tmp_path / "train.json", mixed_rows(20, unanswerable=4, long=2))
    validation = write_json(tmp_path / "validation.json", mixed_rows(11, long=3))
    return SquadDataModule(train, validation, model_folder, **SMALL)


class PointsAtGold(QALightningModule):
    """A module whose logits are the one-hot labels."""

    def forward(self, batch):
        shape = batch["input_ids"].shape
        return tuple(
            10.0 * torch.nn.functional.one_hot(batch[f"{name}_positions"], shape[1]).float()
            for name in ("start", "end")
        )


class OnOneOfTwo(QALightningModule):
    """A module on one of two processes, without a Trainer: ``trainer`` is the stub that a test sets."""

    trainer = None

    def log(self, *args, **kwargs) -> None:
        pass


def batch_of(data: SquadDataModule, count: int) -> dict[str, torch.Tensor]:
    data.prepare_data()
    data.setup("fit")
    return data._loader(data.train_set, count, torch.utils.data.SequentialSampler(data.train_set)).__iter__().__next__()


def test_loss_does_not_depend_on_how_far_a_batch_is_padded(data, model_folder) -> None:
    module = QALightningModule(model_folder).eval()
    batch = batch_of(data, 4)
    rows = [span_loss(*module(single), single) for single in (_row(batch, row) for row in range(4))]
    together = span_loss(*module(batch), batch)
    torch.testing.assert_close(torch.cat(rows), together, rtol=1e-5, atol=1e-6)


def _row(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    length = int(batch["attention_mask"][row].sum())
    return {
        name: value[row : row + 1, :length] if value.ndim == 2 else value[row : row + 1]
        for name, value in batch.items()
    }


def test_dropout_is_on_in_training_and_off_in_validation(data, model_folder) -> None:
    seen: dict[str, list[bool]] = {"training": [], "validation": []}

    class Watched(QALightningModule):
        def training_step(self, batch, batch_idx):
            first, second = self(batch)[0], self(batch)[0]
            seen["training"].append(bool(torch.equal(first, second)))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            seen["validation"].append(bool(torch.equal(self(batch)[0], self(batch)[0])))
            super().validation_step(batch, batch_idx)

    Trainer(max_epochs=2, num_sanity_val_steps=1, **QUIET).fit(Watched(model_folder), data)
    assert seen["training"]
    assert not any(seen["training"])  # two passes over one batch differ
    assert seen["validation"]
    assert all(seen["validation"])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_dropout_of_attention_only_the_rest_is_random(data, model_folder, attention) -> None:
    batch = batch_of(data, 4)

    def repeats(**flags) -> bool:
        module = QALightningModule(model_folder, attn_implementation=attention, **flags).train()
        for name, layer in module.named_modules():  # all other dropout
            if isinstance(layer, torch.nn.Dropout) and not name.endswith("attention.self.dropout"):
                layer.p = 0.0
        return torch.equal(module(batch)[0], module(batch)[0])

    assert not repeats()
    assert not repeats(attention_dropout=0.5)
    assert repeats(attention_dropout=0.0)


def test_a_half_precision_checkpoint_is_trained_in_float32(tmp_path, model_folder) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(model_folder)
    model.half().save_pretrained(tmp_path)
    BertTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in QALightningModule(str(tmp_path)).parameters()} == {torch.float32}


def test_training_learns(data, model_folder) -> None:
    torch.manual_seed(0)
    module = QALightningModule(model_folder, learning_rate=1e-3)
    losses = []

    class Record(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].item())

    trainer = Trainer(max_epochs=6, gradient_clip_val=1.0, callbacks=Record(), **QUIET)
    trainer.fit(module, data)
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert trainer.lr_scheduler_configs[0].scheduler.get_last_lr() == [0.0, 0.0]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_gold_labels_score_the_ceiling_through_the_whole_validation_path(data, model_folder, precision) -> None:
    """Also: examples with many windows, sorted by length, in a precision that cannot count to 300."""
    trainer = Trainer(precision=precision, **QUIET)
    (scores,) = trainer.validate(PointsAtGold(model_folder), data, verbose=False)
    assert (scores["val/exact_match"], scores["val/f1"]) == (100.0, 100.0)


def test_version_2_ceiling_counts_both_kinds(tmp_path, model_folder) -> None:
    path = write_json(tmp_path / "v2.json", mixed_rows(13, unanswerable=5, long=2))
    data = SquadDataModule(None, path, model_folder, **SMALL)
    module = PointsAtGold(model_folder)
    (scores,) = Trainer(**QUIET).validate(module, data, verbose=False)
    assert {name: scores[f"val/{name}"] for name in ("exact_match", "f1", "HasAns_f1", "NoAns_f1")} == dict.fromkeys(
        ("exact_match", "f1", "HasAns_f1", "NoAns_f1"), 100.0
    )
    assert sum(answer.text == "" for _, _, answer in module.predictions.rows()) == 5


def test_scores_do_not_depend_on_how_many_examples_are_read_at_a_time(data, model_folder, monkeypatch) -> None:
    module = PointsAtGold(model_folder)
    with torch.no_grad():
        (scores,) = Trainer(**QUIET).validate(module, data, verbose=False)
    for rows in (1, 3, 11):
        monkeypatch.setattr("qa_lightning.decoding.predictions._ROWS", rows)
        metric = SquadMetric()
        outcomes = judge(module.predictions, metric.scoring)
        metric.update_scores(*outcomes.scores(0.0, False), outcomes.has_answer)
        assert metric.compute() == {"exact_match": 100.0, "f1": 100.0}
        assert int(metric.sums[0, 2]) == 11
    assert scores["val/exact_match"] == 100.0


def test_a_cut_validation_scores_only_examples_whose_every_window_was_seen(data, model_folder) -> None:
    module = PointsAtGold(model_folder)
    (scores,) = Trainer(limit_val_batches=5, **QUIET).validate(module, data, verbose=False)
    store = data.validation_set.store
    seen = set(list(data.val_dataloader().sampler)[: 5 * 4])
    complete = [
        example for example in range(11) if set(np.flatnonzero(store.windows["example"] == example).tolist()) <= seen
    ]
    assert 0 < len(complete) < 11
    assert module.predictions.index.tolist() == complete
    assert scores["val/exact_match"] == 100.0


def test_logits_are_joined_by_feature_in_whatever_order_and_however_often_they_come(
    data, model_folder, monkeypatch
) -> None:
    data.prepare_data()
    data.setup("validate")
    store = data.validation_set.store
    random = np.random.default_rng(0)

    def logits(feature: int) -> FeatureLogits:
        length = int(store.windows["context_length"][feature])
        values = np.full(length, float(feature), np.float32)
        one = np.array([feature])
        return FeatureLogits(one, np.array([length]), values, values + 0.5, one * 2.0, one * 1.0)

    order = [*random.permutation(len(store)), 3, 5]
    collected = FeatureLogits.join([logits(feature) for feature in order])
    rows = complete_rows(collected, store)
    ((index, windows),) = join_windows(collected, store, rows)
    assert index.tolist() == list(range(11))
    np.testing.assert_array_equal(windows.start, np.repeat(np.arange(len(store)), store.windows["context_length"]))
    np.testing.assert_array_equal(windows.char_start, store.char_start)
    np.testing.assert_array_equal(windows.null, np.arange(len(store)) * 2.0)
    monkeypatch.setattr(LogitsCollector, "batches_merged", 3)
    collector = LogitsCollector()
    for _ in range(2):  # and again after it was emptied
        for feature in order:
            collector.add(logits(feature))
        taken = collector.take()
        assert all(np.array_equal(getattr(taken, name), getattr(collected, name)) for name in vars(collected))
    for max_tokens in (1, 40, 100, 500):  # the same in chunks, of whole examples
        chunks = list(join_windows(collected, store, rows, max_tokens))
        assert np.concatenate([index for index, _ in chunks]).tolist() == index.tolist()
        for index_of, part in chunks:
            assert (
                part.example.tolist()
                == (store.windows["example"][np.isin(store.windows["example"], index_of)] - index_of[0]).tolist()
            )
            assert len(part.start) <= max_tokens or len(index_of) == 1
        for name in ("length", "start", "end", "char_start", "char_end", "null"):
            np.testing.assert_array_equal(
                np.concatenate([getattr(part, name) for _, part in chunks]), getattr(windows, name)
            )


def test_an_odd_number_of_windows_on_two_processes_counts_each_once(tmp_path, model_folder) -> None:
    """In every step, the mean over both processes is the mean over the windows, even if a window repeats to fill up."""
    path = write_json(tmp_path / "train.json", make_rows(7))
    data = SquadDataModule(path, path, model_folder, **SMALL)
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_set) == 7
    module = OnOneOfTwo(model_folder).eval()
    loaders = [
        data._loader(data.train_set, 2, TrainingSampler(data.train_set.store.windows["length"], 2, "length", 2, rank))
        for rank in range(2)
    ]
    seen = []
    for step, batches in enumerate(zip(*loaders, strict=True)):
        losses, step_losses = {}, []
        for loader, batch in zip(loaders, batches, strict=True):
            strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
            module.trainer = SimpleNamespace(strategy=strategy, train_dataloader=loader, num_training_batches=2)
            step_losses.append(module.training_step(batch, step).item())
            losses |= dict(zip(batch["feature"].tolist(), span_loss(*module(batch), batch).tolist(), strict=True))
        assert np.mean(step_losses) == pytest.approx(np.mean(list(losses.values())), rel=1e-5)
        seen.append(sorted(losses))
    assert list(map(len, seen)) == [4, 3]
    assert sorted(seen[0] + seen[1]) == list(range(7))


def test_each_process_judges_its_own_share_of_the_questions_and_the_first_has_all(
    tmp_path, model_folder, monkeypatch
) -> None:
    path = write_json(tmp_path / "v2.json", make_rows(13, unanswerable=5, long=2))
    data = SquadDataModule(None, path, model_folder, **SMALL)
    data.prepare_data()
    data.setup("validate")
    judged = []

    def validate(processes: Processes) -> QALightningModule:
        module = OnOneOfTwo(model_folder).eval()
        dataset = data.validation_set
        sampler = EvaluationSampler(dataset.store.windows["length"], 4, processes.count, processes.rank)
        loader = data._loader(dataset, 4, sampler)
        module.trainer = SimpleNamespace(
            val_dataloaders=loader,
            global_rank=processes.rank,
            world_size=processes.count,
            sanity_checking=True,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            testing=False,
            state=SimpleNamespace(fn=TrainerFn.FITTING),
        )
        module.on_validation_epoch_start()
        with torch.no_grad():
            for number, batch in enumerate(loader):
                module.validation_step(batch, number)
        module.on_validation_epoch_end()
        return module

    given = judge
    monkeypatch.setattr(modules, "judge", lambda *values: judged.append(given(*values)) or judged[-1])
    single = as_processes(1, validate)[0]
    judged.clear()
    first, second = as_processes(2, validate)
    indices = [outcomes.index.tolist() for outcomes in judged]
    assert sorted(indices[0] + indices[1]) == [*range(13)]
    assert min(map(len, indices)) > 3
    assert [*first.predictions.rows()] == [*single.predictions.rows()]
    assert first.wrong.tolist() == single.wrong.tolist() != []
    assert all(np.array_equal(one, other) for one, other in zip(*map(vars_of, (first, single)), strict=True))
    assert second.predictions.index.tolist() == second.outcomes.index.tolist() in indices
    assert len(second.predictions) < 13
    assert set(second.predictions.index[second.wrong]) == set(second.predictions.index) & set(single.wrong)


def vars_of(module: QALightningModule) -> list:
    return [*vars(module.outcomes).values()]


@pytest.mark.parametrize(
    ("precision", "fused"), [("16-mixed", False), ("bf16-mixed", True), ("bf16-true", True), ("32-true", True)]
)
def test_where_gradients_are_scaled_the_optimizer_is_not_fused(model_folder, precision: str, fused: bool) -> None:
    """A fused optimizer unscales them itself, in its step: only after they were clipped and their norm was logged."""
    module = OnOneOfTwo(model_folder)
    module.trainer = SimpleNamespace(precision=precision, estimated_stepping_batches=10)
    assert module.configure_optimizers()["optimizer"].defaults["fused"] is fused


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_logits_are_float32_whatever_the_model_computes_in(data, model_folder, dtype) -> None:
    module = QALightningModule(model_folder).eval()
    batch = batch_of(data, 2)
    with torch.no_grad():
        exact = module(batch)
        module.model.to(dtype)
        logits = module(batch)
    assert [one.dtype for one in logits] == [torch.float32, torch.float32]
    assert span_loss(*logits, batch).dtype == torch.float32
    for one, other in zip(logits, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.05)


def test_the_best_threshold_is_found_by_the_scores_of_mixed_script_where_they_are_asked_for(
    tmp_path, model_folder
) -> None:
    class StopsShort(PointsAtGold):
        """Its answers end one token too early."""

        def forward(self, batch):
            end = batch["end_positions"]
            return super().forward(batch | {"end_positions": end - (end > 0).int()})

    rows = [{"id": "zh", "question": "在 哪里 ?", "context": "他 住 在 北京市 。"}]
    rows[0]["answers"] = {"text": ["北京市"], "answer_start": [6]}
    rows.append(rows[0] | {"id": "none", "answers": {"text": [], "answer_start": []}})
    data = SquadDataModule(None, write_json(tmp_path / "zh.json", rows), model_folder, **SMALL)
    for mixed_script, f1 in ((True, 90.0), (False, 50.0)):
        module = StopsShort(model_folder, mixed_script=mixed_script)
        (scores,) = Trainer(**QUIET).validate(module, data, verbose=False)
        assert [answer.text for _, _, answer in module.predictions.rows()] == ["北京", ""]
        assert scores["val/f1"] == pytest.approx(f1)
        assert scores["val/best_f1"] == pytest.approx(f1)


def test_a_loss_that_is_not_finite_stops_the_run(data, model_folder) -> None:
    module = QALightningModule(model_folder)
    with torch.no_grad():
        module.model.qa_outputs.weight.fill_(math.nan)
    with pytest.raises(DivergedError, match=r"nan at step 0 \(questions 'q\d+', 'q\d+'"):
        Trainer(max_epochs=1, num_sanity_val_steps=0, **QUIET).fit(module, data)
    others = [values for name, values in module.named_parameters() if "qa_outputs.weight" not in name]
    assert all(values.isfinite().all() for values in others)  # stopped before the optimizer touched them


def test_on_a_gpu_a_loss_that_is_no_number_is_noticed_before_anything_is_saved(
    data, model_folder, monkeypatch, tmp_path
) -> None:
    """There, losses are read together: here, as there, after the steps of an epoch, but before its checkpoint."""
    monkeypatch.setattr(StepLosses, "due", property(lambda losses: losses._added % losses.together == 0))

    class Breaks(QALightningModule):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                with torch.no_grad():
                    self.model.qa_outputs.weight.fill_(math.nan)
            return super().training_step(batch, batch_idx)

    trainer = Trainer(max_epochs=1, num_sanity_val_steps=0, **QUIET)
    with pytest.raises(DivergedError, match=r"nan at step 2 \(questions 'q\d+', 'q\d+'"):
        trainer.fit(Breaks(model_folder), data)
    assert trainer.global_step > 2
    with pytest.raises(DivergedError, match="nan at step 2"):
        trainer.save_checkpoint(tmp_path / "broken.ckpt")
    assert not (tmp_path / "broken.ckpt").exists()


def test_graphs_need_a_gpu(data, model_folder) -> None:
    module = QALightningModule(model_folder, cuda_graphs=True, compile=False)
    with pytest.raises(InputError) as error:
        Trainer(max_epochs=1, **QUIET).fit(module, data)
    assert error.value.problems == [
        "--model.cuda_graphs true: it needs a CUDA GPU, and this run is on the device 'cpu'; leave it out"
    ]


def test_graphs_that_cannot_be_are_refused_before_anything_is_prepared(tmp_path, model_folder, capsys) -> None:
    data = write_json(tmp_path / "train.json", make_rows(9))
    with pytest.raises(InputError, match=r"--model\.cuda_graphs true: it needs a CUDA GPU"):
        commands.train([*train_flags(tmp_path, model_folder, data, data), "--model.cuda_graphs", "true"])
    assert "questions" not in capsys.readouterr().out
    assert not list(tmp_path.glob("lightning_logs/*"))


def test_a_fit_after_one_that_diverged_begins_anew(data, model_folder, tmp_path, capsys) -> None:
    module = QALightningModule(model_folder)
    good = copy.deepcopy(module.state_dict())
    with torch.no_grad():
        module.model.qa_outputs.weight.fill_(math.nan)
    with pytest.raises(DivergedError):
        Trainer(max_epochs=1, num_sanity_val_steps=0, **QUIET).fit(module, data)
    with pytest.raises(DivergedError, match="the model's weights are not numbers"):
        module.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    module.load_state_dict(good)
    trainer = Trainer(max_epochs=1, num_sanity_val_steps=0, **QUIET)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "good.ckpt")
    assert math.isfinite(module.losses.total)
    assert "train loss nan" not in capsys.readouterr().out


def test_a_loss_that_is_infinite_stops_the_run(data, model_folder) -> None:
    class Sure(QALightningModule):
        """Certain that no answer starts at the gold start."""

        def forward(self, batch):
            start, end = super().forward(batch)
            gold = torch.nn.functional.one_hot(batch["start_positions"], start.shape[1]).bool()
            return start.masked_fill(gold, -math.inf), end

    module = Sure(model_folder)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(DivergedError, match=r"the loss is inf at step 0 \(questions 'q\d+', 'q\d+'"):
        Trainer(max_epochs=1, num_sanity_val_steps=0, **QUIET).fit(module, data)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_loss_that_is_no_number_on_another_process_stops_this_one_too(data, model_folder, monkeypatch) -> None:
    """Otherwise this process would wait for the other one for ever."""
    trainer = Trainer(max_epochs=1, num_sanity_val_steps=0, **QUIET)
    monkeypatch.setattr(trainer.strategy, "reduce", lambda own, reduce_op: own + math.nan)
    with pytest.raises(DivergedError, match=r"the loss is nan at step 0 \(questions \)"):
        trainer.fit(QALightningModule(model_folder), data)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_validation_logits_that_are_no_numbers_name_their_questions(data, model_folder, value: float) -> None:
    class Broken(QALightningModule):
        def forward(self, batch):
            start, end = super().forward(batch)
            return start, end.masked_fill((batch["feature"] == 2)[:, None], value)

    with pytest.raises(DivergedError, match=r"validation at step 0: logits are not numbers \(questions 'q\d+'\)"):
        Trainer(**QUIET).validate(Broken(model_folder), data, verbose=False)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_with_the_fused_optimizer(data, model_folder, precision) -> None:
    norms = []

    class Watched(QALightningModule):
        def on_before_optimizer_step(self, optimizer):
            assert optimizer.defaults["fused"]

        def configure_gradient_clipping(self, optimizer, **kwargs):
            super().configure_gradient_clipping(optimizer, **kwargs)
            grads = [p.grad for p in self.parameters() if p.grad is not None]
            norms.append(float(torch.nn.utils.get_total_norm(grads)))

    Trainer(max_epochs=1, precision=precision, gradient_clip_val=0.01, limit_val_batches=0, **QUIET).fit(
        Watched(model_folder), data
    )
    assert norms
    assert max(norms) <= 0.01 * 1.001


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_by_value_with_the_fused_optimizer(data, model_folder, precision) -> None:
    largest = []

    class Watched(QALightningModule):
        def configure_gradient_clipping(self, optimizer, **kwargs):
            assert optimizer.defaults["fused"]
            super().configure_gradient_clipping(optimizer, **kwargs)
            largest.append(max(float(p.grad.abs().max()) for p in self.parameters() if p.grad is not None))

    clipping = {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"}
    Trainer(max_steps=2, precision=precision, limit_val_batches=0, **clipping, **QUIET).fit(Watched(model_folder), data)
    assert largest == pytest.approx([1e-4] * 2)


@pytest.mark.parametrize(("algorithm", "how"), [("norm", "by all shards"), (None, "by all shards"), ("value", "here")])
def test_fsdp_clips_by_the_norm_over_all_devices(model_folder, algorithm, how) -> None:
    module, strategy, called = OnOneOfTwo(model_folder), object.__new__(FSDPStrategy), []
    strategy.model = SimpleNamespace(clip_grad_norm_=called.append)
    module.trainer = SimpleNamespace(strategy=strategy)
    weight = module.model.qa_outputs.weight
    weight.grad = torch.ones_like(weight)
    for limit in (0, None, 0.5):
        module.configure_gradient_clipping(None, limit, algorithm)
    assert called == ([0.5] if how == "by all shards" else [])
    assert float(weight.grad.max()) == (1.0 if called else 0.5)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_deepspeed_clips_by_itself(model_folder, monkeypatch, algorithm) -> None:
    module, given = OnOneOfTwo(model_folder), []
    module.trainer = SimpleNamespace(strategy=object.__new__(DeepSpeedStrategy))
    monkeypatch.setattr(module, "clip_gradients", lambda *arguments: given.append(arguments))
    module.configure_gradient_clipping(None, 0.5, algorithm)
    assert given == [(None, 0.5, algorithm)]


def test_compiling_is_done_once_for_training_and_once_for_validation_and_changes_nothing(
    data, model_folder, monkeypatch
) -> None:
    torch._dynamo.reset()
    graphs = CompileCounter()
    monkeypatch.setattr("qa_lightning.training.module.COMPILER", graphs)

    def train(compile: bool) -> tuple[dict[str, torch.Tensor], set[int]]:
        torch.manual_seed(0)
        widths = set()

        class Widths(Callback):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                widths.add(batch["input_ids"].shape[1])

        module = QALightningModule(model_folder, fast_dropout=False, compile=compile)
        for layer in module.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        Trainer(max_epochs=2, callbacks=Widths(), **QUIET).fit(module, data)
        return module.state_dict(), widths

    plain, widths = train(False)
    assert graphs.frame_count == 0
    compiled, _ = train(True)
    assert len(widths) > 3
    assert 2 <= graphs.frame_count <= 4  # each may be compiled once more, for a batch of one window
    assert plain.keys() == compiled.keys()  # compiled in place: the names of the weights stay
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"learning_rate": -1.0, "n_best": 0}, ["--model.learning_rate is -1.0", "--model.n_best is 0"]),
        ({"warmup_ratio": 2.0}, ["--model.warmup_ratio is 2.0"]),
        ({"weight_decay": -0.1, "max_answer_length": 0}, ["weight_decay is -0.1", "max_answer_length is 0"]),
        ({"layer_decay": 0.0, "attention_dropout": 1.0}, ["layer_decay is 0.0", "attention_dropout is 1.0"]),
        ({"layer_decay": 1.1, "attention_dropout": -0.1}, ["layer_decay is 1.1", "attention_dropout is -0.1"]),
    ],
)
def test_bad_flags_are_named_together(model_folder, flags, words) -> None:
    with pytest.raises(InputError) as caught:
        QALightningModule(model_folder, **flags)
    assert all(word in str(caught.value) for word in words)


def test_padding_on_the_left_changes_neither_loss_nor_answers(tmp_path) -> None:
    """XLNet, whose positions are relative, with windows of different lengths in a batch."""
    folder = save(FAMILIES["xlnet"], tmp_path / "xlnet")
    rows = write_json(tmp_path / "rows.json", make_rows(9, long=2))
    sizes = SMALL | {"max_length": 96}
    data = SquadDataModule(rows, rows, folder, **sizes)
    data.prepare_data()
    data.setup("fit")
    features = [data.train_set[index] for index in range(len(data.train_set))]
    collate, module = PaddingCollator(data.tokenizer), QALightningModule(folder).eval()
    batch = collate(features)
    assert (batch["attention_mask"][:, -1] == 1).all()
    assert len(set(batch["attention_mask"].sum(1).tolist())) > 3
    with torch.no_grad():
        together = span_loss(*module(batch), batch)
        alone = torch.cat([span_loss(*module(single), single) for single in (collate([one]) for one in features)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    answers = []
    for batch_size in (1, len(features)):
        data = SquadDataModule(None, rows, folder, **sizes | {"eval_batch_size": batch_size})
        Trainer(**QUIET).validate(module, data, verbose=False)
        answers.append([(answer.text, answer.start, answer.end) for _, _, answer in module.predictions.rows()])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    # In cased tokens, one gold answer is longer than 30 tokens, the default longest answer.
    ("vocabulary", "max_answer_length"),
    [("uncased", 30), ("cased", 40)],
)
def test_real_gold_labels_score_the_ceiling(shared_data, tmp_path, capsys, vocabulary, max_answer_length) -> None:
    vocab = str(shared_data / "vocab" / f"bert-base-{vocabulary}-vocab.txt")
    tokenizer = BertTokenizer(vocab=vocab, do_lower_case=vocabulary == "uncased")
    tokenizer.save_pretrained(tmp_path)
    BertForQuestionAnswering(small_config(len(tokenizer), max_position_embeddings=384)).save_pretrained(tmp_path)
    data = SquadDataModule(None, str(shared_data / "squad" / "validation-8-articles.json"), str(tmp_path))
    module = PointsAtGold(str(tmp_path), max_answer_length=max_answer_length)
    (scores,) = Trainer(**QUIET).validate(module, data, verbose=False)
    with capsys.disabled():
        print(f"\nceiling, {vocabulary}: EM {scores['val/exact_match']:.2f}, F1 {scores['val/f1']:.2f}")
    assert scores["val/exact_match"] >= 99.0
    assert scores["val/f1"] >= 99.5
