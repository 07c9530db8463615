"""Settings for answering, saved in a model's ``config.json``: window and answer lengths, threshold, temperature."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from qa_lightning.decoding.calibrator import Calibrator, is_calibrator
from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import MOST, InputError, Rules, is_finite, is_too_large
from qa_lightning.features.defaults import DOC_STRIDE, MAX_ANSWER_LENGTH, MAX_LENGTH, MAX_QUESTION_LENGTH
from qa_lightning.features.windows import WINDOW_RULES, WindowSettings
from qa_lightning.models.loading import CONFIG, max_positions
from qa_lightning.wording import command, did_you_mean, package_version, shown

log = logging.getLogger("qa_lightning")

CONFIG_KEY = "qa_lightning"  # where a saved model's config.json keeps `AnswerSettings`

_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
    "str": (str, "a text"),
    "Mapping[str, float]": (Mapping, "an object of numbers"),
    "Mapping[str, Mapping[str, float]]": (Mapping, "an object of weights"),
}
_RULES: Rules = {
    **WINDOW_RULES,
    "max_answer_length": (lambda length: length >= 1, "must be at least 1"),
    "null_score_diff_threshold": (is_finite, "must be finite"),
    "temperature": (lambda value: 1e-3 <= value <= 1e3, "must be from 0.001 to 1000, 1 changes nothing"),
    "scores_at_precision": (lambda curve: _is_curve(curve), "must give a score from 0 to 1 for precisions from 0 to 1"),
    "calibrator": (is_calibrator, 'must give all weights of spans, and of "no answer", as this version fits them'),
}


@dataclass(frozen=True)
class AnswerSettings:
    """Settings for answering with a model; they are saved with it, so that it answers as it was trained.

    Args:
        max_length, doc_stride, max_question_length: see `windows.WindowSettings`.
        max_answer_length: the longest answer, in tokens.
        version_2: whether "no answer" is a possible answer.
        null_score_diff_threshold: the answer is "no answer" if the null score exceeds the best span's by more than
            this.
        temperature: divides the scores before they become probabilities.
        fitted_to: fingerprint of the questions that threshold and temperature were fitted to, as in ``run.json``; for
            answers out of fold, ``out of 5 folds of`` the fingerprint of all of them.
        scores_at_precision: for a precision such as ``0.9``, the lowest score at which that share of the answers was
            right on validation data; precisions that no score reached are left out. Empty if it is not known.
        calibrator: weights that turn what is known of an answer into its score; see `Calibrator`. Without any, the
            score is the probability.
    """

    max_length: int = MAX_LENGTH
    doc_stride: int = DOC_STRIDE
    max_question_length: int = MAX_QUESTION_LENGTH
    max_answer_length: int = MAX_ANSWER_LENGTH
    version_2: bool = False
    null_score_diff_threshold: float = 0.0
    temperature: float = 1.0
    fitted_to: str = ""
    scores_at_precision: Mapping[str, float] = field(default_factory=dict, hash=False)
    calibrator: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)

    @classmethod
    def of_model(cls, model: Any, tokenizer: Any = None) -> AnswerSettings:
        """The settings saved with a model; see `of_config`.

        Args:
            model: a loaded model.
            tokenizer: its tokenizer, to count the special tokens of a window; None counts none.

        Raises:
            InputError: a saved setting is not valid.
        """
        special = tokenizer.num_special_tokens_to_add(pair=True) if tokenizer is not None else 0
        saved = getattr(model.config, CONFIG_KEY, None)
        return cls.of_config(saved, f"{model.name_or_path}/{CONFIG}", max_positions(model), special)

    @classmethod
    def of_config(cls, saved: Any, file: str, positions: int | None, special_tokens: int = 0) -> AnswerSettings:
        """The settings of a ``qa_lightning`` object in a config; without any, the defaults, reduced to the positions.

        Unknown keys, which a newer version may have written, are ignored with one warning.

        Args:
            saved: the object; None or empty if there is none.
            file: the file that holds it, for messages.
            positions: the longest input that the model takes, in tokens; None if there is no limit.
            special_tokens: special tokens of a window.

        Raises:
            InputError: a key is misspelt, or a value is not valid or has another type.
        """
        limit = min(positions or cls.max_length, cls.max_length)
        usual = cls(max_length=limit, doc_stride=min(cls.doc_stride, limit // 3))
        if saved is None or saved == {}:
            return usual
        where = f"{file}: {CONFIG_KEY}"
        if not isinstance(saved, Mapping):
            raise InputError(f"{where} is {saved!r}; it must be an object of settings. Remove it, or write it again")
        names = [one.name for one in fields(cls)]
        unknown = {key: did_you_mean(str(key), names) for key in saved if key not in names}
        problems = [f"{where}.{key} is no setting{hint}" for key, hint in unknown.items() if hint]
        found = {name: saved[name] for name in names if name in saved}
        problems += [f"{where}.{problem}" for problem in setting_problems(found)]
        if not problems:
            settings = replace(usual, **found)
            problems = [f"{where}.{problem}" for problem in settings._length_problems(positions, special_tokens)]
        if problems:
            raise InputError(problems)
        if unknown:
            more = ", ".join(map(str, unknown))
            _warn_once(f"{where}: ignored {more}, which qa-lightning {package_version()} does not know")
        return settings

    def _length_problems(self, positions: int | None, special_tokens: int) -> Iterator[str]:
        """The problems of the lengths together, given the model's positions."""
        if positions and self.max_length > positions:
            yield f"max_length is {self.max_length}; the model has {positions} positions, so it must be at most that"
        room = self.windows.room(special_tokens)
        if self.doc_stride >= room:
            yield (
                f"doc_stride is {self.doc_stride}; it must be smaller than the room for context, {room} tokens "
                f"(max_length {self.max_length} - max_question_length {self.max_question_length} - {special_tokens} "
                "special tokens)"
            )

    def fitted(self, found: Fitted) -> AnswerSettings:
        """These settings with a fitted threshold, temperature and calibrator.

        Files of older versions say threshold 0 where every question of the fit has an answer. For a model that knows
        "no answer" its own threshold stays then, and what was fitted at another one, calibrator and scores at
        precisions, is left out.
        """
        own = self.null_score_diff_threshold
        if self.version_2 and not found.version_2 and found.scaling.threshold != own:
            found = found._replace(scaling=Scaling(found.scaling.temperature, own), scores_at_precision={})
        return replace(
            self,
            version_2=self.version_2 or found.version_2,
            null_score_diff_threshold=found.scaling.threshold,
            temperature=found.scaling.temperature,
            fitted_to=found.fingerprint,
            scores_at_precision=dict(found.scores_at_precision),
            calibrator=found.scaling.calibrator_as_json,
        )

    def raw(self) -> AnswerSettings:
        """These settings without a calibrator: scores are probabilities.

        The scores at precisions, which are calibrated ones, are left out with it.
        """
        return replace(self, calibrator={}, scores_at_precision={}) if self.calibrator else self

    def is_fitted_to(self, *fingerprints: str) -> bool:
        """Whether threshold and temperature were fitted to questions with such a fingerprint, out of fold or not."""
        return self.fitted_to.rpartition(" ")[2] in fingerprints

    def score_at(self, precision: float) -> float:
        """The lowest score at which at least this share of the answers, 0-1, was right on validation data.

        Between two saved precisions, the higher one counts.

        Raises:
            InputError: the model has no such scores, or none that reaches this precision.
        """
        if not self.scores_at_precision:
            raise InputError(
                f"--precision {precision:g} needs scores that were measured on validation data, and this model was "
                "saved without any, or is asked for raw scores: pass --min_score, or a --threshold_file that "
                f"`{command('evaluate')} --model MODEL --data FILE --output_dir DIR` writes"
            )
        known = {float(name): score for name, score in self.scores_at_precision.items()}
        enough = [name for name in known if name >= precision - 1e-9]
        if not enough:
            raise InputError(
                f"--precision {precision:g}: on its validation data the answers of this model were right at most "
                f"{100 * max(known):g}% of the time, at any score; pass at most {max(known):g}, or --min_score"
            )
        return known[min(enough)]

    @property
    def windows(self) -> WindowSettings:
        """The settings for cutting contexts into windows."""
        return WindowSettings(self.max_length, self.doc_stride, self.max_question_length)

    @property
    def scaling(self) -> Scaling:
        """The settings for turning scores into probabilities."""
        return Scaling(self.temperature, self.null_score_diff_threshold, calibrator=Calibrator.of_json(self.calibrator))


class Fitted(NamedTuple):
    """A threshold, temperature and calibrator that were fitted to questions.

    Attributes:
        scaling: threshold, temperature and calibrator.
        version_2: whether "no answer" is a possible answer, as some questions of the fit have none, or as the model
            knew it before.
        fingerprint: fingerprint of these questions.
        scores_at_precision: as in `AnswerSettings`.
    """

    scaling: Scaling
    version_2: bool
    fingerprint: str
    scores_at_precision: Mapping[str, float] = MappingProxyType({})

    def as_json(self) -> dict[str, Any]:
        """The values that answers depend on, under the names of `AnswerSettings`."""
        return {
            "version_2": self.version_2,
            "null_score_diff_threshold": self.scaling.threshold,
            "temperature": self.scaling.temperature,
            "calibrator": self.scaling.calibrator_as_json,
        }


def setting_problems(given: Mapping[str, Any]) -> list[str]:
    """The problems of each saved setting on its own: another type, or a value that is not valid.

    Args:
        given: name -> value, under the names of `AnswerSettings`; some of them or all.
    """
    problems = []
    for one in fields(AnswerSettings):
        if one.name not in given:
            continue
        value, (kind, words) = given[one.name], _KINDS[str(one.type)]
        holds, rule = _RULES.get(one.name, (lambda _: True, ""))
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            problems.append(f"{one.name} is {value!r}; it must be {words}")
        elif not holds(value):
            problems.append(f"{one.name} is {shown(value)}; it {rule}")
        elif kind is int and is_too_large(value):
            problems.append(f"{one.name} is {shown(value)}; it must be at most {MOST}")
    return problems


def _is_curve(curve: Mapping[Any, Any]) -> bool:
    try:
        return all(0 <= float(name) <= 1 and 0 <= score <= 1 for name, score in curve.items())
    except (TypeError, ValueError):
        return False


@cache
def _warn_once(message: str) -> None:
    log.warning(message)
