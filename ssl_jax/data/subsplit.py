"""Sub-splits: `train[:80%]`, `train[1000:]`, `train[-10%:]+test`, with TFDS's meaning.

One parser serves every source. Percentages are rounded to the closest example (ties to even), as
https://www.tensorflow.org/datasets/splits documents, so that `train[:p%]` and `train[p%:]` never
overlap and leave nothing out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ssl_jax.core.errors import UserError, nearest

_PART = re.compile(r"(?P<split>[\w-]+)(?:\[(?P<start>[^:\[\]]*):(?P<stop>[^:\[\]]*)\])?")
_BOUND = re.compile(r"(?P<value>-?\d[\d_]*(?:\.\d+)?)(?P<percent>%?)")
_FORMS = "write e.g. train, train[:80%], train[1000:2000], train[-10%:] or train+test"


class Part(NamedTuple):
    """Examples `start` up to `stop` of one split."""

    split: str
    start: int
    stop: int


def missing(
    text: str, splits: Sequence[str], aliases: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """The names in a sub-split that are not splits; needs no sizes.

    Raises:
      UserError: malformed.
    """
    known = {*splits, *aliases, "all"}
    return [piece["split"] for piece in _pieces(text) if piece["split"] not in known]


def _pieces(text: str) -> list[re.Match[str]]:
    """The parts between `+`, each with its split, start and stop."""
    pieces = [_PART.fullmatch(piece.strip()) for piece in text.split("+")]
    if None in pieces:
        raise UserError(f"split {text!r} is malformed; {_FORMS}")
    return pieces


def parse(
    text: str,
    splits: Sequence[str],
    size: Callable[[str], int],
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> list[Part]:
    """Resolves a sub-split into parts to be read one after the other.

    Args:
      text: split names, each with an optional slice in examples or percent, joined by `+`. `all` is
        every split, unless there is one of that name.
      splits: the names there are.
      size: number of examples of a split; asked only of those that `text` names.
      aliases: further names of splits.

    Raises:
      UserError: malformed, an unknown split, a slice beyond the split's end, or an empty one.
    """
    parts = []
    for match in _pieces(text):
        name = aliases.get(match["split"], match["split"])
        if name == "all" and name not in splits:
            if match["start"] is not None:
                raise UserError(f"split {text!r}: 'all' takes no slice; slice each split instead")
            parts += [Part(split, 0, size(split)) for split in splits]
        elif name not in splits:
            raise UserError(
                f"unknown split {name!r}; splits: {', '.join(splits)}.{nearest(name, splits)}"
            )
        else:
            parts.append(_slice(text, name, match["start"], match["stop"], size(name)))
    return parts


def _slice(text: str, name: str, start: str | None, stop: str | None, n: int) -> Part:
    if start is None and stop is None:
        return Part(name, 0, n)
    bounds = []
    for bound, default in ((start, 0), (stop, n)):
        match = _BOUND.fullmatch(bound.strip())
        if bound.strip() == "":
            bounds.append((default, None))
        elif match is None or ("." in bound and not match["percent"]):
            raise UserError(f"split {text!r} is malformed at {bound!r}; {_FORMS}")
        else:
            bounds.append((_position(text, match, name, n), bool(match["percent"])))
    (first, first_unit), (last, last_unit) = bounds
    if first_unit is None and last_unit is None:
        raise UserError(f"split {text!r} is malformed; {_FORMS}")
    if None not in (first_unit, last_unit) and first_unit != last_unit:
        raise UserError(f"split {text!r} mixes percent and examples; write both in one unit")
    if first >= last:
        raise UserError(f"split {text!r} is empty: examples {first} to {last} of {n}")
    return Part(name, first, last)


def _position(text: str, match: re.Match[str], name: str, n: int) -> int:
    """A bound as a position in 0..n."""
    if match["percent"]:
        percent = float(match["value"])
        if abs(percent) > 100:
            raise UserError(f"split {text!r}: {match[0]} is beyond 100%")
        position = round(percent * n / 100.0)
        negative = percent < 0
    else:
        position = int(match["value"])
        negative = position < 0
        if abs(position) > n:
            raise UserError(f"split {text!r}: {match[0]} is beyond the {n} examples of {name!r}")
    return position + n if negative else position
