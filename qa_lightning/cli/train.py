"""``train``: fine-tune a model and score it every epoch."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from qa_lightning.checks.refusals import lightning_refusals
from qa_lightning.cli.console import quiet_libraries
from qa_lightning.errors import InputError, LostProcessError, naming_flags
from qa_lightning.features.defaults import MAX_LENGTH
from qa_lightning.paths import named_path
from qa_lightning.runs.signals import Stopped, StopSignals, first_process
from qa_lightning.wording import CHECKOUT, PACKAGE, command, did_you_mean

TRAIN_HELP = """\
Fine-tune a question answering model and score it every epoch.

  {train}
      bert-base-cased on SQuAD v1.1 from the Hub
  {train} --config quickstart
      a small model on embedded data: no network, a minute or two

Flags that people use:
  --data.dataset NAME_OR_FILE      Hub dataset, file (JSON, CSV, Excel, Parquet ...), or "synthetic"  [rajpurkar/squad]
  --data.validation NAME_OR_FILE   what to validate on  [the dataset's validation split, or a part of the file]
  --data.columns.question NAME     name of your file's question column, if it is not a usual one
  --data.encoding cp1252           your file is not UTF-8 but, say, in a Windows encoding
  --data.answer_separator "|"      what stands between several answers in one cell
  --data.on_bad_rows skip          leave bad rows out; `repair` mends offsets, `repair_or_skip` does both  [error]
  --data.batch_size N              windows per step and device; `auto`: as many as memory has room for, in as many
                                   passes as a step, of --data.windows_per_step N or the usual size, needs  [8]
  --data.tokens_per_batch N        in its place: as many windows as have so many tokens
  --data.max_length N              tokens per window, question included  [{max_length}]
  --model.model_name NAME          name on the Hub, or a folder  [bert-base-cased]
  --model.learning_rate X          [2e-5]
  --trainer.max_epochs N           [3]
  --trainer.devices N              GPUs (or processes on a CPU) to train on  [1]
  --trainer.precision P            32-true, bf16-mixed, 16-mixed  [the best that the hardware has]
  --model.layer_decay X            each layer learns at X times the rate of the one above; 0.8 for little data  [1.0]
  --model.lora_rank 8              train LoRA adapters in place of the model; with --model.learning_rate 2e-3  [none]
  --model.freeze_layers N          do not train the embeddings and the lowest N layers  [none]
  --ema_decay X                    validate and write a running mean of the weights; 0.999 for little data  [none]
  --average_best N                 write the mean of the N best checkpoints, if it scores as well as the best  [none]
  --model.teacher FOLDER           learn from a trained model, too: from its probabilities at each token  [none]
  --model.compile true             on a GPU: compile the model first: slower to start, faster from then on
  --config NAME_OR_FILE            flags from a file, such as a run's lightning_logs/version_N/config.yaml; by name:
                                   {configs}
  --ckpt_path last                 resume the newest run: pass its flags, too; or the path of a checkpoint
  --save_every_minutes N           minutes of training that a crash may cost  [15]
  --seed_everything N              [42]

What you get, in lightning_logs/version_N: checkpoints/best.ckpt and last.ckpt, config.yaml, model/ for transformers and
{predict}, and curves for: tensorboard --logdir lightning_logs
"""
_ALL = ("--help_all", "--help-all")


@naming_flags()
@lightning_refusals()
def train(words: Sequence[str]) -> int:
    """Fine-tune, validate the best checkpoint and write it as a transformers folder."""
    if {"-h", "--help", *_ALL} & set(words):
        print(train_help())  # before the libraries are loaded, which takes seconds
        if not set(_ALL) & set(words):
            print(f"Every flag, in full: {command('train')} --help_all")
            return 0
        print("Every flag, in full:\n")
        words = ["--help"]
    signals = StopSignals()
    signals.listen()
    peers = None
    try:
        gc.disable()  # imports leave no garbage, and looking for it takes a fifth of the time until training
        from qa_lightning.runs.peers.joining import join

        quiet_libraries()
        peers = join()
        with peers.telling() if peers is not None else nullcontext():  # from here on no process fails in silence
            from qa_lightning.sweep.trial import study_asker
            from qa_lightning.training.flags import TrainCLI
            from qa_lightning.training.run import TrainingRun

            gc.enable()
            flags = list(with_config_files(words))
            launch = peers.launch.name if peers is not None and peers.launch is not None else None
            run = TrainingRun(TrainCLI(flags, launch), signals, peers)
            if (asker := study_asker(signals)) is not None:
                run.trainer.callbacks.append(asker)  # type: ignore[attr-defined]
            return run.run()
    except (InputError, LostProcessError):
        if peers is not None and peers.is_common and not peers.speaks:
            return 1  # another process on this host says it
        raise
    except Stopped as error:
        if first_process():
            print(f"\nstopped by {error.stop.cause} before training began: nothing was there to save", flush=True)
        return error.stop.status
    finally:
        signals.restore()


def train_help() -> str:
    """The screen of common flags."""
    return TRAIN_HELP.format(
        train=command("train"),
        predict=command("predict"),
        configs=", ".join(config_files()),
        max_length=MAX_LENGTH,
    )


def config_folder() -> Path:
    """Folder of the configs that come with the package: in it if it is installed, beside it in a checkout."""
    return next((folder for folder in (PACKAGE / "configs", CHECKOUT / "configs") if folder.is_dir()), PACKAGE)


def config_files() -> dict[str, Path]:
    """Name -> file of each config that comes with the package."""
    return {path.stem: path for path in sorted(config_folder().glob("*.yaml"))}


def with_config_files(words: Sequence[str]) -> Iterator[str]:
    """The flags; the name of a config after ``--config`` becomes the path of its file.

    Raises:
        InputError: what follows ``--config`` is neither a file nor the name of a config.
    """
    follows = False
    for word in words:
        flag, equals, value = word.partition("=")
        if follows:
            yield _config_file(word)
        elif equals and flag in ("-c", "--config"):
            yield f"{flag}={_config_file(value)}"
        else:
            yield word
        follows = not follows and word in ("-c", "--config")


def _config_file(given: str) -> str:
    known = config_files()
    # A value that is YAML itself is passed on, like a file.
    if (given not in known and set("{:\n") & set(given)) or named_path("--config", given).is_file():
        return given
    if given in known:
        return str(known[given])
    raise InputError(
        f"--config {given}: no such file in {Path.cwd()}, and no config of that name; there are {', '.join(known)}, "
        f"which lie in {config_folder()}{did_you_mean(Path(given).stem, known)}"
    )
