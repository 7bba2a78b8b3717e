"""Templates: how examples become the text of a prompt (Brown et al. 2020, Sec. 2.4 and App. G).

instruction          Translate English to French:
demonstration        sea otter => loutre de mer
separator            (a line end)
query                cheese =>
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from ssl_jax.core.errors import UserError

ANSWER = "{answer}"
_FIELDS = ("{text}", "{pair}", ANSWER)


class Shown(NamedTuple):
    """What a template shows of an example: its text, its answer, and the second text of a pair."""

    text: str
    answer: str = ""
    pair: str = ""


@dataclasses.dataclass(frozen=True)
class Template:
    """The parts of a prompt.

    A line end in a config is written as such or as \\n.

    Raises:
      UserError: the demonstration has no text, or its answer does not stand at the end.
    """

    instruction: Annotated[
        str, "Stands before the demonstrations, with the separator behind it; empty: nothing."
    ] = ""
    demonstration: Annotated[
        str, "An example: {text}, {pair} for the second text of a pair, and {answer} at the end."
    ] = "{text} -> {answer}"
    separator: Annotated[str, "Stands between demonstrations."] = "\n"

    def __post_init__(self) -> None:
        for name in ("instruction", "demonstration", "separator"):
            object.__setattr__(self, name, getattr(self, name).replace("\\n", "\n"))
        unknown = set(re.findall(r"{\w*}", self.demonstration)).difference(_FIELDS)
        before, found, after = self.demonstration.partition(ANSWER)
        if unknown or "{text}" not in before or not found or after:
            raise UserError(
                f"demonstration is {self.demonstration!r}; write {{text}} and then {{answer}}, at "
                "the end, and {pair} where the second text of a pair stands"
            )
        if not self.separator:
            raise UserError("separator is empty; demonstrations need something between them")

    def demonstrate(self, example: Shown) -> str:
        """An example with its answer."""
        return self._fill(self.demonstration, example)

    def ask(self, example: Shown) -> tuple[str, str]:
        """An example without its answer: (its text up to the answer, the blank before that).

        Tokenizers join a blank with the word behind it, so it is part of the answer.
        """
        text = self._fill(self.demonstration.removesuffix(ANSWER), example)
        kept = text.rstrip(" ")
        return kept, text[len(kept) :]

    def render(self, demonstrations: Sequence[Shown], query: Shown) -> str:
        """The whole prompt, which ends before the blank in front of the answer."""
        parts = [self.instruction] if self.instruction else []
        parts += [self.demonstrate(example) for example in demonstrations]
        return self.separator.join([*parts, self.ask(query)[0]])

    @staticmethod
    def _fill(text: str, example: Shown) -> str:
        values = {"{text}": example.text, "{pair}": example.pair, ANSWER: example.answer}
        return re.sub("|".join(map(re.escape, values)), lambda match: values[match[0]], text)
