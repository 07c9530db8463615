"""Upload a model folder to the Hugging Face Hub in one commit: weights, config, tokenizer, model card.

Only the files that are needed to load the model are sent; they are chosen by name. Other files of the folder are listed
as not sent. The folder and the name are checked before anything is sent. The card comes from `card.model_card`. But if
the folder has a ``README.md``, its author wrote that card, and it is sent unchanged.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml  # type: ignore[import-untyped]
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    constants,
    get_token,
)
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from qa_lightning.errors import InputError, one_line
from qa_lightning.export.card import Run, model_card, read_run
from qa_lightning.files import write_file
from qa_lightning.models.folder import INDEX, ONNX, TOKENIZER, WEIGHTS, model_files
from qa_lightning.models.loading import lasting_name

log = logging.getLogger("qa_lightning")

CARD = "README.md"


def push_to_hub(model: str, repo: str, private: bool = False, dry_run: bool = False) -> int:
    """Upload a model folder with its card; returns the exit status.

    Args:
        model: folder with ``model.safetensors`` (whole or in shards) or ``model.onnx``, config and tokenizer.
        repo: ``USER/NAME`` on the Hub; created if it does not exist, else a commit is added.
        private: create a private repository; an existing public one is an error.
        dry_run: write the card to a file beside the folder, list what would be sent, and send nothing.

    Raises:
        InputError: the folder, the name, the token or the network has a problem, or the Hub refuses the upload.
    """
    folder = Path(lasting_name(model)).expanduser()
    files, problems = model_files(folder)
    problems = [*_name_problems(repo), *problems]
    if problems:
        raise InputError(problems)
    own_card = folder / CARD if (folder / CARD).is_file() else None
    card = _read_card(own_card) if own_card else model_card(folder, repo)
    content = own_card.read_bytes() if own_card else str(card).encode()
    if own_card:
        log.info(f"card: {own_card}, unchanged")
    else:
        run = read_run(folder)
        origin = f"from the run in {folder.resolve().parent}" if isinstance(run, Run) else f"without results: {run}"
        log.info(f"card: written {origin}")
    sizes = {name: (folder / name).stat().st_size for name in files} | {CARD: len(content)}
    _list(folder, sizes, f"{constants.ENDPOINT}/{repo}{' (private)' if private else ''}")
    if dry_run:
        _keep_card(folder, content, own_card)
        return 0
    added = [CommitOperationAdd(name, folder / name) for name in files]
    added.append(CommitOperationAdd(CARD, content))
    log.info(f"uploaded: {_upload(repo, added, private)}")
    return 0


def _name_problems(repo: str) -> list[str]:
    """Why the Hub would refuse ``repo`` as the name of a repository."""
    problem = None
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        problem = str(error)
    if repo.count("/") != 1:
        problem = "it must be the name of an account or organization, a slash and the name of the model"
    return [f"--push_to_hub {repo!r}: {problem}; pass USER/NAME, such as anna/my-model"] if problem else []


def _read_card(path: Path) -> ModelCard:
    try:
        card: ModelCard = ModelCard.load(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = one_line(error, 300)
        raise InputError(
            f"{path}: the metadata between the two lines of --- cannot be read ({reason}); correct it"
        ) from None
    return card


def _list(folder: Path, sizes: dict[str, int], target: str) -> None:
    log.info(f"files for {target}")
    for name, size in sizes.items():
        log.info(f"  {size / 1000:>12,.1f} kB  {name}")
    log.info(f"  {sum(sizes.values()) / 1000:>12,.1f} kB  in total")
    if left := sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in sizes):
        log.info(f"  not sent: {', '.join(left)}")


def _keep_card(folder: Path, content: bytes, own_card: Path | None) -> None:
    """Write the card beside the folder, for the user to read and edit; a card that the user wrote is left alone."""
    if own_card:
        log.info("nothing was sent")
        return
    resolved = folder.resolve()
    path = resolved.with_name(f"{resolved.name}-card.md")
    try:
        if path.exists() and path.read_bytes() != content:
            raise InputError(f"{path} holds another card; move it to {folder / CARD} if it is yours, or delete it")
        write_file(path, content)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); make its folder writable") from None
    log.info(f"nothing was sent; the card is in {path}: to change it, edit it and move it to {folder / CARD}")


def _upload(repo: str, added: Sequence[CommitOperationAdd], private: bool) -> str:
    """Commit all files or none; returns the URL of the commit."""
    with _explained(repo), _quiet_bars():
        token = get_token()
        if not token:
            raise InputError(
                "there is no token for the Hub; run `hf auth login`, or set HF_TOKEN to a token with the role `write`"
            )
        if not token.isascii() or not token.isprintable():
            raise InputError("the token for the Hub has invalid characters; run `hf auth login` again")
        api = HfApi(token=token)
        api.create_repo(repo, private=private or None, exist_ok=True)
        info = api.model_info(repo)
        if private and not info.private:
            raise InputError(
                f"--private: {repo} already exists and is public; nothing was sent. Choose another name, or make it "
                f"private in {constants.ENDPOINT}/{repo}/settings"
            )
        names = [one.rfilename for one in info.siblings or []]
        if problem := _loaded_instead(names, [one.path_in_repo for one in added]):
            raise InputError(f"--push_to_hub {repo}: {problem}")
        deleted = _outdated(names, [one.path_in_repo for one in added])
        if deleted:
            log.info(f"deletes in the repository: {', '.join(deleted)}")
        return str(
            api.create_commit(
                repo,
                [*added, *(CommitOperationDelete(name, is_folder=False) for name in deleted)],
                commit_message="Upload model with qa_lightning",
                parent_commit=info.sha,
            )
        )


def _loaded_instead(present: Sequence[str], added: Sequence[str]) -> str | None:
    """What is wrong if a repository has PyTorch weights, which are loaded where an ONNX model is beside them."""
    weights = [name for name in present if "/" not in name and name.endswith((".safetensors", ".bin"))]
    if ONNX[0] not in added or not weights or any(name in added for name in weights):
        return None
    return (
        f"it has {', '.join(weights[:3])}, which would be loaded in place of the ONNX model; nothing was sent. Choose "
        "another name, or delete these files there"
    )


def _outdated(present: Sequence[str], added: Sequence[str]) -> list[str]:
    """Files in the repository that belong to another model and would be loaded with, or instead of, the added ones."""
    kinds: list[tuple[str, ...]] = [TOKENIZER]
    if ONNX[0] in added:
        kinds.append(ONNX)
    if any(name.endswith(".safetensors") for name in added):
        shards = tuple(name for name in present if name.startswith("model-") and name.endswith(".safetensors"))
        kinds.append((WEIGHTS, INDEX, *shards))
    return [name for name in present if name not in added and any(name in kind for kind in kinds)]


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """Show progress bars only on a terminal."""
    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn an exception of the Hub, its client or the network into a one-line `InputError` without the token."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the client, its HTTP library and its uploader raise different kinds
        message = _problem(error, repo)
        try:
            token = get_token()
        except Exception:  # reading the token may be what failed
            token = None
        raise InputError(message.replace(token, "(token)") if token else message) from None


def _problem(error: BaseException, repo: str) -> str:
    while error.__cause__ is not None and getattr(error, "response", None) is None:
        error = error.__cause__  # the cause, not the uploader's wrapper around it
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = str(getattr(error, "server_message", None) or error).strip() or type(error).__name__
    reason = one_line(said, 300)
    owner, settings = repo.partition("/")[0], f"{constants.ENDPOINT}/settings/tokens"
    fixes = {
        401: f"the Hub does not know the token; run `hf auth login`, or set HF_TOKEN to a valid one from {settings}",
        403: f"the token may not write to {repo}; it needs the role `write` ({settings}), and {owner} must be your "
        "account or an organization that you may write to",
        404: f"the Hub has no {repo} and no account {owner}; check the name",
        409: f"another process is changing {repo}; run the command again",
        412: f"another process changed {repo} during the upload; look at it, then run the command again",
        429: "too many requests; wait a while, then run the command again",
    }
    if isinstance(error, OfflineModeIsEnabled):
        fix = "HF_HUB_OFFLINE is set, or the Hub's address is not known; unset it, or check the network"
    elif status in fixes:
        fix = fixes[status]
    elif status is not None and status >= 500:
        fix = "the Hub has an internal error; run the command again later"
    elif status is None and (
        isinstance(error, (OSError, json.JSONDecodeError)) or type(error).__module__.startswith("http")
    ):
        fix = f"{constants.ENDPOINT} cannot be reached, or is not the Hub; check the network, then run this again"
    else:
        fix = "the Hub refused it; correct what it names, then run the command again"
    return f"--push_to_hub {repo}: {fix} ({status or type(error).__name__}: {reason})"
