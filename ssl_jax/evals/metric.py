"""Describes the metrics of an evaluation: name, unit, and which values are better.

An evaluation declares its metrics once. Tables, curves, the progress bar and the choice of the best
checkpoint read the declaration:

    METRICS = {
        "top1": Metric("kNN", "accuracy of a kNN classifier"),
        "{shots:d}": Metric("{shots}-shot", series="labels a class"),
        "k": Metric("neighbours", unit="", better=None, shown=False),
    }

The second entry is a family: "{shots:d}" matches a number such as "8", "{task}_loss" matches a
word. A value "8_std" is the standard deviation of "8" and is not declared.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Literal

SPREAD = "_std"  # suffix of the name of a metric's standard deviation


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      heading: heading of its column in a table.
      title: name in charts and sentences; empty: the heading.
      unit: "%" for a fraction, which is shown in percent; else the unit after the number, such as
        "nats", or "".
      better: whether higher or lower values are better; None if neither is.
      shown: whether tables, charts and the line after an evaluation show it; else only the log.
      series: for a family of numbers, what the number counts; the report plots the family over it.
      number: the number of a member of a family.
      headline: which member of a family the headline of a page shows.
      sentence: the title with "{model}" where the name of a model stands, and "{number}" for what a
        member of a family counts; empty: "title of {model}", of a family "... with {number}".
    """

    heading: str
    title: str = ""
    unit: str = "%"
    better: Literal["higher", "lower"] | None = "higher"
    shown: bool = True
    series: str = ""
    number: int | None = None
    headline: Literal["smallest", "largest"] = "smallest"
    sentence: str = ""

    def __post_init__(self):
        if not self.title:
            object.__setattr__(self, "title", self.heading)

    def format(self, value: float, std: float | None = None) -> str:
        """Formats a value for tables, without unit: 0.7123 -> "71.2", with std "71.2 ± 3.0"."""
        if self.unit == "%":
            value, std, digits = 100 * value, None if std is None else 100 * std, 1
        else:
            digits = 3 - (abs(value) >= 10) - (abs(value) >= 100)
        return f"{value:,.{digits}f}" + ("" if std is None else f" ± {std:,.{digits}f}")

    def with_unit(self, value: float) -> str:
        """Like `format`, with the unit: "71.2%", "3.100 nats"."""
        text = self.format(value)
        return text + (self.unit if self.unit in ("", "%") else f" {self.unit}")

    @property
    def in_words(self) -> str:
        """The title; a family includes its number: "few-shot accuracy with 4 labels a class"."""
        return f"{self.title} with {self._counted}" if self.series else self.title

    def of_model(self, name: str) -> str:
        """The title for a sentence on a model: "accuracy of SimCLR with one label a class"."""
        usual = "{title} of {model} with {number}" if self.series else "{title} of {model}"
        sentence = self.sentence or usual.replace("{title}", self.title)
        return sentence.replace("{model}", name).replace("{number}", self._counted)

    @property
    def _counted(self) -> str:
        """The number of a member with what it counts: "one label a class", "severity 3"."""
        noun, space, others = self.series.partition(" ")
        if not noun.endswith("s"):
            return f"{self.series} {self.number}"
        if self.number == 1:
            return f"one {noun.removesuffix('s')}{space}{others}"
        return f"{self.number} {self.series}"

    @property
    def column(self) -> str:
        """The heading with the unit, if it is not %: "loss, nats"."""
        return self.heading if self.unit in ("", "%") else f"{self.heading}, {self.unit}"

    @property
    def title_with_unit(self) -> str:
        """The title with the unit, if it is not %: "loss on hidden parts, nats"."""
        return self.title if self.unit in ("", "%") else f"{self.title}, {self.unit}"

    def best(self, values: Iterable[float]) -> float | None:
        """The best value; None for fewer than two values or if neither direction is better."""
        values = list(values)
        if len(values) < 2 or self.better is None:
            return None
        return max(values) if self.better == "higher" else min(values)


def find(declared: Mapping[str, Metric], name: str) -> Metric | None:
    """The metric with a name, or the member of a family; None if it is not declared."""
    if name in declared:
        return declared[name]
    for pattern, metric in declared.items():
        before, brace, after_brace = pattern.partition("{")
        placeholder, _, after = after_brace.partition("}")
        key, _, kind = placeholder.partition(":")
        value = r"\d+" if kind == "d" else r"\w+"
        match = re.fullmatch(f"{re.escape(before)}({value}){re.escape(after)}", name)
        if brace and match:
            return dataclasses.replace(
                metric,
                heading=metric.heading.format(**{key: match[1]}),
                title=metric.title.format(**{key: match[1]}),
                number=int(match[1]) if kind == "d" else None,
            )
    return None
