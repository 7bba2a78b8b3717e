"""The reader of config sections: types, bounds, unknown keys, and text of command lines."""

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from ml_collections import ConfigDict

from ssl_jax.config import fields
from ssl_jax.config.fields import (
    at_least,
    below_one,
    between,
    each,
    increasing,
    not_empty,
    positive,
)
from ssl_jax.core.errors import UserError

Pixels = Annotated[int, positive]


@dataclasses.dataclass(frozen=True)
class Inner:
    scale: Annotated[float, between(0, 2), "Of the inner."] = 1.0
    names: Annotated[tuple[str, ...], "What to run."] = ("knn",)


@dataclasses.dataclass(frozen=True)
class Outer:
    count: Annotated[int, at_least(1), "How many."]
    temperature: Annotated[float, positive, "Of the softmax."] = 0.1
    rate: Annotated[float, below_one, "Of the dropout."] = 0.0
    loss: Annotated[Literal["nce", "softmax"], "Which loss."] = "nce"
    groups: Annotated[int | None, positive, "Of BatchNorm."] = None
    widths: Annotated[tuple[int, ...], each(positive), not_empty, "Channels."] = (64, 128)
    limits: Annotated[tuple[float, float], increasing, "Low and high."] = (0.5, 1.0)
    size: Annotated[Pixels | tuple[Pixels, Pixels], "Of the views."] = 32
    flag: Annotated[bool, "Whether."] = False
    pattern: Annotated[str, fields.regex, "Of paths."] = ""
    options: Annotated[Mapping[str, Any], "Passed on."] = dataclasses.field(default_factory=dict)
    inner: Annotated[Inner, "Nested."] = dataclasses.field(default_factory=Inner)


def function(
    train,
    *,
    num_classes: int,
    k: Annotated[int, positive, "Neighbours."] = 200,
    inner: Annotated[Inner, "Nested."] = Inner(),
):
    del train, num_classes, k, inner


def test_a_section_becomes_an_instance_with_the_declared_types():
    values = ConfigDict(dict(count=3, temperature=1, limits=[0, 1], inner=dict(scale=2)))
    outer = fields.read(Outer, values, "method")
    assert outer == Outer(3, 1.0, limits=(0.0, 1.0), inner=Inner(2.0))
    assert isinstance(outer.temperature, float) and isinstance(outer.inner.scale, float)
    assert fields.check(Outer, {"count": 3}, "")["inner"] == {"scale": 1.0, "names": ("knn",)}


def test_a_function_becomes_keyword_arguments():
    assert fields.read(function, {"k": 5}, "eval.knn") == {"k": 5, "inner": Inner()}
    assert fields.read(functools.partial(function, k=7), {}, "eval.knn")["k"] == 7
    with pytest.raises(UserError, match="unknown config key eval.knn.num_classes"):
        fields.read(function, {"num_classes": 3}, "eval.knn")


def refusal(changes, where="method"):
    with pytest.raises(UserError) as caught:
        fields.read(Outer, {"count": 1, **changes}, where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1}, "method.temperature is -1; use a number above 0"),
        ({"temperature": float("nan")}, "method.temperature is nan; use a finite number above 0"),
        ({"temperature": float("inf")}, "method.temperature is inf; use a finite number above 0"),
        ({"temperature": "abc"}, "method.temperature is 'abc'; use a number above 0"),
        ({"temperature": True}, "method.temperature is True; use a number above 0"),
        ({"temperature": None}, "method.temperature is None; use a number above 0"),
        ({"temperature": {}}, "method.temperature is {}; use a number above 0"),
        ({"rate": 1.5}, "method.rate is 1.5; use a number of at least 0 and below 1"),
        ({"count": 0}, "method.count is 0; use a whole number of at least 1"),
        ({"count": 1.0}, "method.count is 1.0; use a whole number of at least 1"),
        ({"count": 10**30}, f"method.count is {10**30}; use a whole number of at most 4294967295 "
         "and of at least 1"),
        ({"groups": 0}, "method.groups is 0; use a whole number above 0 or None"),
        ({"flag": 1}, "method.flag is 1; use True or False"),
        ({"loss": "softmx"},
         "method.loss is 'softmx'; use one of nce, softmax. Did you mean 'softmax'?"),
        ({"widths": ()},
         "method.widths is (); use a tuple, each item a whole number above 0; at least one item"),
        ({"widths": (8, 0)},
         "method.widths is (8, 0); use a tuple, each item a whole number above 0; at least one "
         "item"),
        ({"widths": 8},
         "method.widths is 8; use a tuple, each item a whole number above 0; at least one item"),
        ({"limits": (1.0, 0.5)},
         "method.limits is (1.0, 0.5); use a pair, each item a number; in increasing order"),
        ({"limits": (1.0,)},
         "method.limits is (1.0,); use a pair, each item a number; in increasing order"),
        ({"size": (8, 0)},
         "method.size is (8, 0); use a whole number above 0 or a pair, each item a whole number "
         "above 0"),
        ({"pattern": "("}, "method.pattern is '('; use a text that is a regular expression"),
        ({"options": 3}, "method.options is 3; it has to be a section: key=value pairs"),
        ({"options": {"x": float("nan")}}, "method.options.x is nan; use a finite value"),
        ({"options": {"x": (1, {"y": float("nan")})}},
         "method.options.x.y is nan; use a finite value"),
        ({"inner": 3}, "method.inner is 3; it has to be a section: key=value pairs"),
        ({"inner": {"scale": 3}}, "method.inner.scale is 3; use a number from 0 to 2"),
        ({"inner": {"scal": 1}},
         "unknown config key method.inner.scal; known keys: names, scale. Did you mean 'scale'?"),
    ],
)  # fmt: skip
def test_a_bad_value_is_one_line(changes, message):
    assert refusal(changes) == message


def test_a_missing_key():
    with pytest.raises(UserError, match="^count is missing; use a whole number of at least 1$"):
        fields.read(Outer, {}, "")


def test_defaults_and_description():
    assert fields.defaults(Outer)["inner"] == {"scale": 1.0, "names": ("knn",)}
    assert "count" not in fields.defaults(Outer)
    described = {field.path: field for field in fields.describe(Outer, "method")}
    assert described["method.count"].default is fields.REQUIRED
    assert described["method.temperature"] == fields.Field(
        "method.temperature", "a number above 0", 0.1, "Of the softmax."
    )
    assert described["method.inner.scale"].type == "a number from 0 to 2"
    # Defaults are values that their keys take.
    assert fields.check(Outer, {"count": 1, **fields.defaults(Outer)}, "")["widths"] == (64, 128)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("count", "3", 3),
        ("temperature", "1", 1.0),
        ("temperature", "1e-3", 1e-3),
        ("groups", "None", None),
        ("groups", "4", 4),
        ("loss", "softmax", "softmax"),
        ("widths", "(8, 16)", (8, 16)),
        ("widths", "[8, 16]", (8, 16)),
        ("widths", "8,16", (8, 16)),
        ("widths", "8", (8,)),
        ("size", "8", 8),
        ("size", "(8, 9)", (8, 9)),
        ("flag", "true", True),
        ("flag", "0", False),
        ("pattern", "None", "None"),
        ("pattern", "(bias|scale)$", "(bias|scale)$"),
        ("inner.names", "knn,linear", ("knn", "linear")),
        ("inner.names", "('knn',)", ("knn",)),
        ("inner.names", "knn", ("knn",)),
        ("inner", "{'scale': 2}", {"scale": 2.0, "names": ("knn",)}),
        ("options.rows", "pairs", "pairs"),
        ("options.deep.er", "3", 3),
    ],
)
def test_text_of_a_command_line(key, text, value):
    parsed = fields.parse(Outer, key, text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("count", "three", "count is 'three'; use a whole number of at least 1"),
        ("temperature", "nan", "temperature is 'nan'; use a number above 0"),
        ("temperature", "1e999", "temperature is '1e999'; use a number above 0"),
        ("temperature", "None", "temperature is 'None'; use a number above 0"),
        ("loss", "nc", "loss is 'nc'; use one of nce, softmax. Did you mean 'nce'?"),
        ("flag", "maybe", "flag is 'maybe'; use True or False"),
        ("inner", "3", "config key inner is a section; set one of names, scale"),
        ("count.x", "3", "config key count is a value, so there is no count.x"),
        ("inner.scal", "3",
         "unknown config key inner.scal; known keys: names, scale. Did you mean 'scale'?"),
    ],
)  # fmt: skip
def test_bad_text_of_a_command_line(key, text, message):
    with pytest.raises(UserError) as caught:
        fields.parse(Outer, key, text)
    assert str(caught.value) == message


def test_an_open_section_is_replaced_by_a_declaration():
    section = fields.section(Outer).replace(options=Inner)
    assert fields.defaults(section)["options"] == {"scale": 1.0, "names": ("knn",)}
    with pytest.raises(UserError, match="^options.scale is 5; use a number from 0 to 2$"):
        fields.read(section, {"count": 1, "options": {"scale": 5}}, "")


def test_an_optional_section():
    section = fields.Section({"inner": fields.Key(Inner | None, None)})
    assert fields.read(section, {}, "") == {"inner": None}
    assert fields.read(section, {"inner": {"scale": 2}}, "") == {"inner": Inner(2.0)}
    with pytest.raises(UserError, match="^inner.scale is 5; use a number from 0 to 2$"):
        fields.read(section, {"inner": {"scale": 5}}, "")
    with pytest.raises(UserError, match="^inner is 5; use a section or None$"):
        fields.read(section, {"inner": 5}, "")


def test_the_config_package_does_not_import_jax():
    """So that every module of the project can declare its options with it."""
    code = "import sys, ssl_jax.config; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
