"""Stream the raw rows of what ``--data.dataset`` and ``--data.validation`` name, each with its place.

A source is one of: the embedded dataset (``synthetic``); files in the formats of `formats`, given as one path, several
paths (``a.json,b.json``) or a pattern (``data/*.jsonl``); a folder that ``datasets`` saved; a dataset on the Hugging
Face Hub; from Python also an object that holds rows, see `objects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from qa_lightning.data import synthetic
from qa_lightning.data.columns import ReadSettings
from qa_lightning.data.formats import (
    JSON_LINES,
    SUFFIXES,
    PlacedRow,
    file_format,
    file_splits,
    is_one_row,
    no_split,
    read_file,
)
from qa_lightning.data.formats.limits import lines_of, refuse_packed_arrow
from qa_lightning.data.objects import GivenRows, Source, Split, rows_of_dataset
from qa_lightning.errors import InputError, current_voice, one_line
from qa_lightning.files import digest
from qa_lightning.paths import is_special, usable_path
from qa_lightning.wording import command, counted

Kind = Literal["embedded", "files", "folder", "hub", "object"]
_OTHER_SUFFIXES = (".txt", ".gz", ".zip", ".xls", ".xlsm", ".ods", ".feather")  # names of files, not of Hub datasets
_STATE = "state.json"  # what `datasets` says of the files that it has saved
_MAX_COUNTED_BYTES = 1 << 30  # of a file of JSON lines; counting its lines takes about a second
EMBEDDED = "synthetic"
EMBEDDED_SIZES = {"train": 10_000, "validation": 500}
EMBEDDED_VERSION = 1  # raise it when synthetic.py generates other rows: prepared data of the old ones is then not used
_FIXES = {
    ".xls": "save the sheet as .xlsx, or as CSV UTF-8",
    ".xlsm": "save the sheet as .xlsx, or as CSV UTF-8",
    ".ods": "save the sheet as .xlsx, or as CSV UTF-8",
    ".zip": "unpack it",
    ".feather": "write it without compression, and name it .arrow; or write Parquet",
    ".txt": "end its name in .csv or .tsv if it is a table, in .jsonl if each line is a JSON object",
}


def source_kind(source: Source) -> Kind:
    """Decide what kind of source ``source`` names.

    Raises:
        InputError: it looks like a path or pattern but names no file, or a file's format is not supported, or it is a
            folder that ``datasets`` did not save.
    """
    if isinstance(source, GivenRows):
        return "object"
    if source == EMBEDDED:
        return "embedded"
    if not source.strip():
        raise InputError("'' names nothing; give a file, a folder or the name of a dataset on the Hub")
    files = source_files(source)
    missing = [] if files else [name for name in source_names(source) if not _named_files(name)]
    if files:
        problems = [_format_problem(file) for file in files if file_format(file) not in SUFFIXES]
        if problems:
            raise InputError(problems)
        return "files"
    if (path := as_folder(source)) is not None:
        if is_saved_dataset(path):
            return "folder"
        raise InputError(_folder_problem(source))
    looks_like_a_file = (
        Path(source).suffix.lower() in SUFFIXES + _OTHER_SUFFIXES
        or "," in source
        or is_pattern(source)
        or source.startswith((".", "/", "~"))
        or source.count("/") > 1
        or is_special(Path(source))
    )
    if looks_like_a_file:
        raise InputError([_missing_problem(name) for name in missing or [source]])
    return "hub"


def source_names(source: str) -> list[str]:
    """The names in a source: commas separate them, unless there is a file or folder whose name they are part of."""
    with suppress(ValueError):  # such as a long list of files
        if usable_path(source).exists():
            return [source]
    return [name.strip() for name in source.split(",") if name.strip()]


def is_pattern(name: str) -> bool:
    """Whether a name has marks that stand for other characters."""
    return any(mark in name for mark in "*?[")


def none_named(name: str) -> str:
    """What is wrong with a name that no file has."""
    return "no file matches this pattern" if is_pattern(name) else "no such file"


def source_files(source: str) -> list[Path]:
    """The files that ``source`` names, as one path, a pattern or a list with commas.

    Empty if there is no such file, or if one name of a list has none.

    Raises:
        InputError: a name cannot be a path.
    """
    found = [_named_files(name) for name in source_names(source)]
    return list(chain.from_iterable(found)) if all(found) else []


def _named_files(name: str) -> list[Path]:
    """The files of a path or pattern."""
    try:
        path = usable_path(name)
        if path.is_file():
            return [path]
        return _matching(path) if is_pattern(name) else []
    except (OSError, ValueError) as error:  # a name that is too long, a bad pattern
        raise InputError(f"{name}: not a usable path ({error})") from None


def also_read(written: Iterable[Path], read: Mapping[str, str]) -> list[tuple[Path, str]]:
    """Those of the files that are to be written which are read, too, by whatever names, each with the flag that does.

    So are those that a pattern would read once they are there.

    Args:
        written: they need not be there.
        read: flag -> what it names: files, or a folder that ``datasets`` saved; other sources have no files.

    Raises:
        InputError: see `source_files`.
    """
    found = []
    for flag, source in read.items():
        folder = as_folder(source)
        for path in written:
            is_inside = folder is not None and path.resolve().is_relative_to(folder.resolve())
            if is_inside or _names_file(source, path):
                found.append((path, flag))
    return found


def is_saved_dataset(folder: Path) -> bool:
    """Whether ``datasets`` saved a dataset, or several splits, in a folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def as_folder(source: str) -> Path | None:
    """The folder that a source names; None if it names none."""
    try:
        path = usable_path(source)
        return path if path.is_dir() else None
    except ValueError:  # such as a long list of files
        return None


def _matching(pattern: Path) -> list[Path]:
    return sorted(file for file in _glob(pattern) if file.is_file())


def _glob(pattern: Path) -> Iterator[Path]:
    return Path(pattern.anchor or ".").glob(str(pattern.relative_to(pattern.anchor)))


def _names_file(source: str, path: Path) -> bool:
    """Whether a file is one of those that ``source`` names, or would be one if it were there; its folder must be.

    Raises:
        InputError: see `source_files`.
    """
    if path.resolve() in {file.resolve() for file in source_files(source)}:
        return True
    folder = path.parent.resolve()
    return any(
        fnmatch(path.name, pattern.name) and folder in map(Path.resolve, _folders(pattern.parent))
        for pattern in (Path(name).expanduser() for name in source_names(source))
        if is_pattern(str(pattern)) and not pattern.is_file()
    )


def _folders(pattern: Path) -> Iterator[Path]:
    if not is_pattern(str(pattern)):
        return iter([pattern])
    return (found for found in _glob(pattern) if found.is_dir())


def _missing_problem(name: str) -> str:
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder_problem(name)
    if is_special(path):
        return f"{name}: is a pipe or a device, and data are read several times; save them to a file first"
    return (
        f"{name}: {none_named(name)} (looked in {Path.cwd()}); give the path of a SQuAD JSON, JSON lines, CSV, TSV, "
        "Excel, Parquet or Arrow file, or the name of a dataset on the Hub"
    )


def _folder_problem(name: str) -> str:
    inside = f"{name.rstrip('/')}/*.json"
    return f"{name}: is a folder; name a file ({', '.join(SUFFIXES)}) in it, or several: {inside}"


def _format_problem(file: Path) -> str:
    suffix = file_format(file)
    known = f"supported are {', '.join(SUFFIXES)}, each also with .gz"
    if not suffix and file.suffix.lower() == ".gz":
        return f"{file}: its name does not say which format is packed; name it .json.gz, for example ({known})"
    return f"{file}: the ending '{suffix}' is not supported; {_FIXES.get(suffix, known)}"


def read_rows(
    source: Source,
    split: Split,
    reading: ReadSettings = ReadSettings(),  # noqa: B008 - frozen
) -> Iterator[PlacedRow]:
    """Stream the raw rows of ``source``, each with its place.

    Args:
        source: what to read.
        split: which split; most files have none and ignore it.
        reading: in which encoding files are.

    Raises:
        InputError: the source cannot be found or read. Bad rows are not checked here but in `examples.check_row`.
    """
    if isinstance(source, GivenRows):
        return source.rows(split)
    kind = source_kind(source)
    if kind == "embedded":
        rows = synthetic.generate_examples(split, EMBEDDED_SIZES[split])
        return ((f"synthetic row {number}", row) for number, row in enumerate(rows, 1))
    if kind == "files":
        return chain.from_iterable(read_file(file, reading.encoding, split) for file in source_files(source))
    dataset = _saved_split(source, split) if kind == "folder" else _hub_split(source, split)
    rows = rows_of_dataset(dataset, f"{source} [{split}]")
    return ((f"{source} [{split}] row {number}", row) for number, row in enumerate(rows, 1))


def count_rows(source: Source, split: Split) -> int | None:
    """The number of rows of a source, if counting them is quick; None for CSV, SQuAD JSON and what is packed.

    JSON lines are taken to hold as many rows each as the first one; if that has several, counting is not quick.

    Args:
        source: what `read_rows` takes.
        split: which split; files ignore it.

    Raises:
        InputError: the source cannot be found or read.
    """
    if isinstance(source, GivenRows):
        return source.count(split)
    kind = source_kind(source)
    if kind == "embedded":
        return EMBEDDED_SIZES[split]
    if kind in ("folder", "hub"):
        return len(_saved_split(source, split) if kind == "folder" else _hub_split(source, split))
    counts = [_count_rows_of_file(path) for path in source_files(source)]
    return None if None in counts else sum(filter(None, counts))


def _count_rows_of_file(path: Path) -> int | None:
    try:
        if path.suffix.lower() == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        if path.suffix.lower() in JSON_LINES and path.stat().st_size <= _MAX_COUNTED_BYTES:
            with path.open("rb") as file:
                lines = (line for line in lines_of(file, path) if line.strip())
                first = next(lines, None)
                if first is not None and not is_one_row(first):  # such as a context with its questions
                    return None
                return sum(1 for _ in lines) + (first is not None)
    except (pa.ArrowException, OSError, ValueError):  # reading the rows reports what is wrong
        pass
    return None


def source_fingerprint(
    source: Source,
    split: Split,
    reading: ReadSettings = ReadSettings(),  # noqa: B008 - frozen
) -> str:
    """A key of the source's content, for caches: it changes if the rows change, and not if a file is moved.

    The settings do not change it; they say only in which encoding a file names its splits.

    Raises:
        InputError: the source cannot be found or read.
    """
    if isinstance(source, GivenRows):
        return source.fingerprint(split)
    kind = source_kind(source)
    if kind == "embedded":
        return f"synthetic-{EMBEDDED_VERSION}-{split}-{EMBEDDED_SIZES[split]}"
    if kind == "hub":
        return f"hub-{_hub_split(source, split)._fingerprint}"
    if kind == "folder":
        # Not its `_fingerprint`: that of functions that were mapped knows them by their names alone.
        files = [Path(file["filename"]) for file in _saved_split(source, split).cache_files]
        return "-".join(["folder", *map(_digest_of, [*files, *(file.with_name(_STATE) for file in files[:1])])])
    keys = []
    for path in source_files(source):
        part = [split] if file_splits(path, reading.encoding) else []
        keys.append("-".join(["file", file_format(path), _digest_of(path), *part]))
    return "+".join(keys)


def _digest_of(path: Path) -> str:
    try:
        whole = path.resolve()
        state = whole.stat()
        return _digest(whole, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file; a process reads a file once, and again only if its size or modification time changed."""
    return digest([path])


def has_split(
    source: Source,
    split: Split,
    reading: ReadSettings = ReadSettings(),  # noqa: B008 - frozen
) -> bool:
    """Whether ``source`` itself is divided into splits and has ``split``; of several files, whether each has it."""
    if isinstance(source, GivenRows):
        return split in source.splits
    kind = source_kind(source)
    if kind in ("hub", "folder"):
        splits = _load_saved(source) if kind == "folder" else _load_from_hub(source)
        return isinstance(splits, dict) and split in splits
    if kind == "files":
        return all(split in file_splits(path, reading.encoding) for path in source_files(source))
    return kind == "embedded"


def has_validation(source: Source, reading: ReadSettings = ReadSettings()) -> bool:  # noqa: B008 - frozen
    """Whether a source to train on brings questions to validate on.

    Raises:
        InputError: of several files, some do: those of the others would be told apart in another way.
    """
    if not isinstance(source, GivenRows) and source_kind(source) == "files":
        files = source_files(source)
        without = [path for path in files if "validation" not in file_splits(path, reading.encoding)]
        if without and len(without) < len(files):
            next(read_file(without[0], reading.encoding, "train"), None)  # one that cannot be read says so itself
            raise InputError(
                f"{source}: {counted(len(files) - len(without), 'file')} of {len(files)} with questions to validate on "
                f"and {without[0]} without; give all of them a validation split, or none, or name the questions to "
                "validate on with --data.validation FILE"
            )
    return has_split(source, "validation", reading)


def _load_saved(folder: str) -> Any:
    """Load what ``datasets`` saved: a dataset, or a dictionary of splits; again if the folder's files changed."""
    path = Path(folder).expanduser().resolve()
    files = ((file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file())
    return _loaded(folder, path, tuple((file, state.st_size, state.st_mtime_ns) for file, state in files))


@cache
def _loaded(folder: str, path: Path, files: tuple[tuple[Path, int, int], ...]) -> Any:
    """What a folder holds, as it is called in messages, whose files have these sizes and modification times."""
    from datasets import load_from_disk  # imported late: --help does not wait for it

    for file, _, _ in files:
        if file.suffix == ".arrow":
            refuse_packed_arrow(file)
    try:
        return load_from_disk(str(path), keep_in_memory=False)  # its files are its key
    except Exception as error:  # a missing file, another version's format, damaged tables
        reason = one_line(error, first=True)
        raise InputError(
            f"{folder}: not a complete dataset of `datasets` ({type(error).__name__}: {reason}); save it again"
        ) from None


def _saved_split(folder: str, split: Split) -> Any:
    saved = _load_saved(folder)
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        raise no_split(f"{folder}:", split, saved)
    return saved[split]


@cache
def _load_from_hub(name: str) -> Any:
    """Load all splits of a Hub dataset, from the network or from the client's cache."""
    from datasets import load_dataset  # imported late: --help does not wait for it

    try:
        return load_dataset(name)
    except Exception as error:  # the client raises a dozen kinds of error; each means that loading failed
        reason = one_line(error, first=True)
        voice = current_voice()
        trains = voice.flags and voice.groups
        without_data = f", or run `{command('train')} --config quickstart`, which needs none" if trains else ""
        raise InputError(
            f"dataset {name!r} is neither a local file nor cached, and loading it from the Hugging Face Hub failed "
            f"({type(error).__name__}: {reason}). Check the name and the network; without a network pass "
            f"a FILE (SQuAD JSON, JSON lines, CSV, Excel, Parquet){without_data}"
        ) from None


def _hub_split(name: str, split: Split) -> Any:
    splits = _load_from_hub(name)
    if split not in splits:
        raise no_split(f"dataset {name!r}", split, splits)
    return splits[split]
