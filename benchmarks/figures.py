"""Reads the JSON files of `benchmarks/results`: figures with the digits that are known, their medians and ratios.

A file holds ``command``, ``machine``, ``device``, ``versions``, ``date``, and one of

- ``runs``: what `harness.Record` wrote, the figures of every run of every variant;
- ``figures``: what was typed from printed output before there were such files; ``transcribed`` says from where. A
  figure is a number (the median), ``{"each": [...]}`` or ``{"min": ..., "max": ...}``, as much as was printed;
  ``ratios`` has ratios that were printed, as ``{variant: {baseline: ratio}}``. ``command`` is null if it was not kept.

``note`` says in words what else matters, such as other work on the machine.

Numbers are Decimals as they stand in the file, so that 0.30 is shown with two decimals, and 2.7E3 with two digits.
"""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any, TypeVar

from qa_lightning.errors import InputError

Number = TypeVar("Number", float, Decimal)


def median_ratio(own: Mapping[int, Number], base: Mapping[int, Number], more_is_better: bool) -> Number:
    """The median, over the rounds that both have, of how much better a figure is than the baseline's.

    Args:
        own: round -> figure.
        base: round -> figure of the baseline.
        more_is_better: True for a rate: own / base. False for a time: base / own.
    """
    pairs = [(own[number], base[number]) for number in own if number in base]
    return statistics.median(one / other if more_is_better else other / one for one, other in pairs)


def _shown(path: Path) -> str:
    return str(Path(*path.parts[-2:]))


@dataclass(frozen=True)
class Result:
    """One file of results.

    Raises:
        InputError: from its methods, if the file lacks what is asked for.
    """

    path: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a file; `InputError` if it is absent, damaged or incomplete."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal, parse_int=Decimal)
        except (OSError, ValueError) as error:
            raise InputError(f"{_shown(path)}: cannot be read ({error})") from None
        absent = [name for name in ("command", "machine", "versions", "date") if name not in values]
        if absent or ("runs" in values) == ("figures" in values) or ("figures" in values) != ("transcribed" in values):
            raise InputError(
                f"{_shown(path)}: needs command, machine, versions, date, and either runs, or figures and transcribed"
                + (f"; it lacks {', '.join(absent)}" if absent else "")
            )
        return cls(path, values)

    @property
    def transcribed(self) -> bool:
        """Whether the figures were typed from printed output, without those of single runs."""
        return "figures" in self.values

    @property
    def variants(self) -> list[str]:
        """Names of what was measured, in order."""
        if self.transcribed:
            return list(self.values["figures"])
        return list(dict.fromkeys(run["variant"] for run in self.values["runs"]))

    def has(self, variant: str, figure: str) -> bool:
        """Whether a figure of a variant is known."""
        return self._known(variant, figure) is not None

    def median(self, variant: str, figure: str) -> Decimal:
        """The median of a figure over all runs of a variant."""
        known = self._checked(variant, figure)
        if isinstance(known, Decimal):
            return known
        if "each" not in known:
            raise InputError(f"{_shown(self.path)}: of {figure} of {variant} only the least and the greatest are known")
        each: list[Decimal] = known["each"]
        return statistics.median(each)

    def each(self, variant: str, figure: str) -> list[Decimal]:
        """A figure of every run of a variant."""
        known = self._checked(variant, figure)
        if isinstance(known, Decimal) or "each" not in known:
            raise InputError(f"{_shown(self.path)}: the {figure} of each run of {variant} is not known")
        return list(known["each"])

    def value(self, variant: str, figure: str) -> Any:
        """A figure of the first run of a variant as it stands, such as a word or a list."""
        return self._checked(variant, figure)["each"][0]

    def spread(self, variant: str, figure: str) -> tuple[Decimal, Decimal]:
        """The least and the greatest of a figure."""
        known = self._checked(variant, figure)
        if isinstance(known, Decimal):
            return known, known
        return (known["min"], known["max"]) if "min" in known else (min(known["each"]), max(known["each"]))

    def ratio(self, variant: str, baseline: str, figure: str, more_is_better: bool = False) -> Decimal:
        """How much better a variant is than another: the printed ratio, else that of `median_ratio`."""
        printed = self.values.get("ratios", {}).get(variant, {}).get(baseline)
        if printed is not None:
            return Decimal(printed)
        if self.transcribed:
            own, base = ({1: self.median(name, figure)} for name in (variant, baseline))
        else:
            self._checked(variant, figure)
            self._checked(baseline, figure)
            own, base = self._rounds(variant, figure), self._rounds(baseline, figure)
        ratio = median_ratio(own, base, more_is_better)
        return ratio + Decimal("0.00")  # at least two decimals, also where the quotient is whole

    def _rounds(self, variant: str, figure: str) -> dict[int, Decimal]:
        runs = [run for run in self.values["runs"] if run["variant"] == variant and figure in run]
        return {int(run["round"]): run[figure] for run in runs}

    def _known(self, variant: str, figure: str) -> Any:
        if self.transcribed:
            return self.values["figures"].get(variant, {}).get(figure)
        each = list(self._rounds(variant, figure).values())
        return {"each": each} if each else None

    def _checked(self, variant: str, figure: str) -> Any:
        known = self._known(variant, figure)
        if known is None:
            fix = f"measure it with {self.values['command']}" if self.values["command"] else "its command was not kept"
            raise InputError(f"{_shown(self.path)} has no {figure} of {variant}; {fix}")
        return known

    def conditions(self) -> str:
        """Machine, versions, date, and whether the figures were carried over from printed output."""
        versions = self.values["versions"] or {}
        parts = [self.values["machine"], self.values.get("device")]
        parts.append(", ".join(f"{name} {number}" for name, number in versions.items()) or "versions not noted")
        day = date.fromisoformat(self.values["date"])
        parts.append(f"{day.day} {day:%B %Y}")
        if self.transcribed:
            parts.append("carried over from printed output that was not kept")
        return "; ".join(part for part in parts if part)

    def command(self) -> str:
        """The command, with how often each variant ran, the load before it, and its note."""
        remarks = []
        if not self.transcribed:
            runs = [run["variant"] for run in self.values["runs"]]
            counts = {runs.count(variant) for variant in runs}
            least, most = min(counts), max(counts)
            remarks.append(
                "one run" if most == 1 else f"medians of {most if least == most else f'{least} to {most}'} runs"
            )
        if self.values.get("load") is not None:
            remarks.append(f"load {self.values['load']} before")
        if self.values.get("note"):
            remarks.append(self.values["note"])
        command = f"`{self.values['command']}`" if self.values["command"] else "the command was not kept"
        return command + (f" ({'; '.join(remarks)})" if remarks else "")


@dataclass
class Results:
    """The results of a folder, by the names of their files; ``used`` has those that were asked for, in order."""

    folder: Path
    used: dict[str, Result] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Result:
        if name not in self.used:
            self.used[name] = Result.read(self.folder / f"{name}.json")
        return self.used[name]

    def sources(self) -> str:
        """Under which conditions, and with which commands, the results that were used were measured."""
        groups: dict[str, list[str]] = {}
        for result in self.used.values():
            groups.setdefault(result.conditions(), []).append(result.command())
        texts = []
        for conditions, commands in groups.items():
            texts += [
                textwrap.fill(f"{conditions}:", 120, break_on_hyphens=False),
                "\n".join(f"- {one}" for one in commands),
            ]
        if len(self.used) > 2:
            texts = ["<details><summary>Machines, versions, dates and commands</summary>", *texts, "</details>"]
        return "\n\n".join(texts)


def number(value: Decimal, digits: int = 3, decimals: int = 2) -> str:
    """A number with at most this many significant digits and decimals, and never more digits than are known.

    Whole numbers below 10,000 stay whole: 1,618 is not shown as 1,620.
    """
    last = value.adjusted() - digits + 1  # the power of ten of the last digit that is shown
    if abs(value) < 10_000:
        last = min(last, 0)
    known = value.as_tuple().exponent
    assert isinstance(known, int)
    return f"{value.quantize(Decimal(1).scaleb(max(last, -decimals, known)), ROUND_HALF_UP):,f}"


def ratio_text(value: Decimal) -> str:
    """A ratio: two decimals below 2, one below 10."""
    return number(value, digits=4, decimals=2 if value < 2 else 1 if value < 10 else 0)


def percent(share: Decimal, decimals: int = 1) -> str:
    """A share of 1 in percent."""
    return f"{number(share.scaleb(2), decimals=decimals)}%"


def size(megabytes: Decimal) -> str:
    """Memory or the size of a file, in MB or GB."""
    if megabytes < 1000:
        return f"{number(megabytes, decimals=0)} MB"
    return f"{number(megabytes.scaleb(-3), digits=2)} GB"
