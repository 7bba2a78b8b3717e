"""The one reader of config sections: keys with types, bounds and a line of documentation.

A section is declared once: by the fields of a dataclass, or by the keyword-only parameters of a
function whose type is `Annotated`.

    @dataclasses.dataclass(frozen=True)
    class HyperParameters:
        temperature: Annotated[float, positive, "Temperature of the softmax."] = 0.1
        loss: Annotated[Literal["nce", "softmax"], "Which loss."] = "nce"
        bn_groups: Annotated[int | None, positive, "BatchNorm groups; None: one."] = None
        widths: Annotated[tuple[int, ...], each(positive), not_empty, "Channels."] = (64, 128)

    hyper = fields.read(HyperParameters, config.method, "method")      # a HyperParameters
    fields.read(HyperParameters, {"temperature": -1}, "method")
    # UserError: method.temperature is -1; use a number above 0
    fields.defaults(HyperParameters)                # {"temperature": 0.1, "loss": "nce", ...}
    fields.describe(HyperParameters, "method")      # [Field("method.temperature", "a number ...
    fields.parse(HyperParameters, "widths", "(8, 16)")                 # text of a command line

    def evaluate(train, test, *, num_classes: int, k: Annotated[int, positive, "Neighbours."] = 200)
    fields.read(evaluate, config.eval.knn, "eval.knn")                 # {"k": 200}

Types: bool, int, float (whole numbers are numbers), str, Literal, tuple[T, ...], tuple[T, T],
unions such as `X | None`, sections (a dataclass, a function or a `Section`), Mapping[str, T] for
open sections, and Any. NaN and infinity are never accepted. Bounds of a tuple's items are given by
`each`, or by a type such as `tuple[Annotated[int, positive], ...]`. A bound does not apply to None.
"""

from ssl_jax.config.fields.bounds import (
    Bound,
    at_least,
    at_most,
    below_one,
    between,
    each,
    fraction,
    increasing,
    not_empty,
    not_negative,
    open_fraction,
    positive,
    positive_fraction,
    regex,
)
from ssl_jax.config.fields.declaration import LEFT_OUT, REQUIRED, Key, Section, defaults, section
from ssl_jax.config.fields.reader import Field, check, describe, find, parse, read
from ssl_jax.config.fields.values import type_text

__all__ = [
    "LEFT_OUT",
    "REQUIRED",
    "Bound",
    "Field",
    "Key",
    "Section",
    "at_least",
    "at_most",
    "below_one",
    "between",
    "check",
    "defaults",
    "describe",
    "each",
    "find",
    "fraction",
    "increasing",
    "not_empty",
    "not_negative",
    "open_fraction",
    "parse",
    "positive",
    "positive_fraction",
    "read",
    "regex",
    "section",
    "type_text",
]
