"""Texts of the user's stay texts, in every section of the page."""

import importlib.resources
import re

import jinja2
import numpy as np
import pytest

from ssl_jax import report
from ssl_jax.core import items
from ssl_jax.report import templating
from tests.report.pages import HOSTILE, check, digits_like


def passages(text):
    """A passage of two tokens, of which one is hidden; it is the text."""
    item = items.Passages(
        tokens=np.array([[0, 1]]), lengths=np.array([2]), positions=np.array([[1]]),
        weights=np.ones((1, 1)), guesses=np.array([[[1, 0]]]), shares=np.array([[[0.75, 0.25]]]),
        note=text,
    )  # fmt: skip
    return {"shown": {"Hidden words": item}, "pieces": ["[CLS]", f" {text}"]}


def training(text):
    names = (text, f"lr/{text}", "lr/other")
    return {"rows": [{"step": 1, **{f"train/{name}": 1.0 for name in names}}]}


def evaluations(text):
    name = text.replace("/", "|")
    section = {name: {"evaluation": "knn"}, "other": {"evaluation": "linear"}}
    section |= {"validation_split": text, "test_split": f"{text}2"}
    keys = (f"{name}/top1", "other/top1", f"{name}/new")
    return {
        "config": {"eval": section},
        "rows": [{"step": 1, **{f"eval/{key}": 0.5 for key in keys}}],
        "results": {text: {f"{name}/top1": 0.5}, f"{text}2": {f"{name}/top1": 0.75}},
    }


def points(text):
    return {**digits_like(12), "class_names": [text] * 3, "split": text}


# Section -> a text -> what is drawn of it there.
SECTIONS = {
    "top": lambda text: dict(name=text, method=text, dataset=text, date=text),
    "facts": lambda text: {"config": {"model": {"name": text}, "seed": text, "optimizer": {
        "name": text}, "data": {"options": {"rows": text, "sequence_length": 8}}}},
    "ending": lambda text: dict(
        config={"checkpoint": {"best_metric": text}, "early_stopping": {"patience": 2}},
        last_step=4, total_steps=10, best_step=2),
    "results": lambda text: {"results": {
        text: {"few_shot/1": 0.5, "few_shot/2": 0.5}, text + "2": {"few_shot/1": 0.6}}},
    "training": training,
    "evaluations": evaluations,
    "points": points,
    "images": lambda text: {"shown": {text: items.Images(
        np.zeros((1, 1, 4, 4, 1)), inputs=np.zeros((1, 4, 4, 1), np.uint8),
        rows=(text.replace("{", "(").replace("}", ")") + "{:.0f}",), row_values=np.ones((1, 1)),
        columns=(text,), note=text)}},
    "table": lambda text: {"shown": {text: items.Table(
        np.ones((1, 1)), rows=(text,), columns=(text,), note=text,
        form=text.replace("{", "(").replace("}", ")") + "{:.0f}")}},
    "audio": lambda text: {"shown": {text: items.Audio(
        np.zeros((1, 4)), captions=(text,), rate=8000, note=text)}},
    "spectrograms": lambda text: {"shown": {text: items.Spectrograms(
        np.zeros((1, 800)), {text: np.zeros((1, 5), int)}, note=text)}},
    "steps": lambda text: {"results": {text: {
        "held_out/step_1_accuracy": 0.5, "held_out/step_2_accuracy": 0.25}}},
    "passages": passages,
    "words": lambda text: {
        "shown": {text: items.TokenVectors(np.eye(4))}, "token_counts": np.arange(1, 5),
        "pieces": [" word", " other", " third", " next"]},
    "collapse": lambda text: {"rows": [{"step": 1, f"collapse/{text}": 1.0}],
                              "warnings": [(5, text), (6, text + "2")]},
    "preflight": lambda text: {"preflight": text},
    "environment": lambda text: {"environment": {text: text, "other": text}},
    "config": lambda text: {"config": {
        text: text, "section": {text: [text]}, text + "2": {"a": 1}}},
}  # fmt: skip


def letters(text):
    """Without case, blanks, and what names of metrics are split at."""
    return re.sub(r"[\s_/]", "", text).lower()


@pytest.mark.parametrize("section", SECTIONS)
def test_no_text_of_any_section_becomes_markup(section):
    """A hostile text changes no tag of the page: it has those that a harmless one has."""
    for hostile in HOSTILE[:3]:  # those with tags
        if section in ("table", "images"):
            hostile = hostile.replace("{", "(").replace("}", ")")  # there is a format behind it
        if section == "config":
            hostile = hostile.replace(".", "_")  # a dot ends the name of a section
        bad, good = (
            check(report.render(report.ReportInputs(**({"config": {}} | SECTIONS[section](text)))))
            for text in (hostile, "x" * len(hostile))
        )
        assert bad.tags == good.tags
        assert letters(hostile)[:12] in letters("".join(bad.text))


def test_every_attribute_of_the_templates_is_quoted_and_nothing_is_called_safe():
    """What autoescape needs to hold."""
    folder = importlib.resources.files("ssl_jax.report") / "templates"
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert "page.html" in texts
    for name, text in texts.items():
        assert not re.search(r"=\s*\{\{|\|\s*safe\b|autoescape|Markup", text), name


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="content"):
        templating.render("preflight.html")
