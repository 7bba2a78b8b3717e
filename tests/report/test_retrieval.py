"""Curves of retrieval against loops, and when the section is there."""

import numpy as np
import pytest

from ssl_jax.report import galleries, page, retrieval
from ssl_jax.report.inputs import ReportInputs
from tests.report.pages import Page


def _data(n=40, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    labels[0] = classes  # without another of its class
    return (rng.normal(size=(classes + 1, 6))[labels] + rng.normal(size=(n, 6))), labels


def _relevant(vectors, labels):
    """Relevance by rank of each query with a reference, one query at a time."""
    rows = []
    for i, query in enumerate(vectors):
        scored = []
        for j, other in enumerate(vectors):
            if i != j:
                cosine = query @ other / np.linalg.norm(query) / np.linalg.norm(other)
                scored.append((-cosine, bool(labels[i] == labels[j])))
        relevant = [same for _, same in sorted(scored)]
        if any(relevant):
            rows.append(relevant)
    return np.array(rows)


def test_orders_and_curves():
    vectors, labels = _data()
    ordered = retrieval.orders(vectors, labels)
    relevant = _relevant(vectors, labels)
    assert len(relevant) == 39
    np.testing.assert_array_equal(ordered.relevant, relevant)
    k, recall = retrieval.recall_curve(ordered)
    np.testing.assert_allclose(recall, [np.mean([any(r[: int(i)]) for r in relevant]) for i in k])
    x, precision = retrieval.precision_curve(ordered)
    expected = []
    for level in x:
        best = []
        for row in relevant:
            points = [(sum(row[:i]) / sum(row), sum(row[:i]) / i) for i in range(1, len(row) + 1)]
            best.append(max(p for r, p in points if r >= level - 1e-9))
        expected.append(np.mean(best))
    np.testing.assert_allclose(precision, expected)
    pairs = [(labels[i] == labels[j]) for i in range(40) for j in range(i)]
    assert len(ordered.same) == sum(pairs) and len(ordered.different) == len(pairs) - sum(pairs)
    false, true = retrieval.roc_curve(ordered)
    threshold = np.quantile(ordered.different, 0.8)
    at = np.mean(ordered.different >= threshold)
    assert np.interp(at, false, true) == pytest.approx(np.mean(ordered.same >= threshold), abs=0.02)


def test_equal_vectors_retrieve_nothing_first():
    ordered = retrieval.orders(np.ones((6, 3)), np.array([0, 0, 0, 1, 1, 1]))
    assert ordered.relevant.tolist() == [[False] * 3 + [True] * 2] * 6


def test_no_orders_without_two_kinds_of_pairs():
    vectors, _ = _data()
    assert retrieval.orders(vectors, np.zeros(40, int)) is None
    assert retrieval.orders(vectors, np.arange(40)) is None


def _inputs(results, **values):
    vectors, labels = _data()
    pixels = np.random.default_rng(1).integers(0, 255, (40, 8, 8, 1)).astype(np.uint8)
    inputs = {"embedding": vectors, "labels": labels, "pixels": pixels, "split": "40 images"}
    return ReportInputs(config={}, results={"SimCLR": results}, **{**inputs, **values})


def test_the_section_is_there_with_its_evaluation():
    with_it = _inputs({"retrieval/recall_1": 0.5})
    section = retrieval.section(with_it)
    assert len(section.charts) == 4
    assert "Each of 40 images is a query" in section.note
    assert "1 without another example of their class are no queries" in section.note
    assert "area 0." in str([entry.label for entry in section.charts[2].key])
    text = page.render(with_it)
    Page(text)  # nested as it should be, and every id once
    assert 'id="retrieval"' in text and "diamonds: means of classes" in text
    projected = _inputs({"knn/top1": 0.5}, projected=np.random.default_rng(2).normal(size=(40, 3)))
    assert [one.title for one in galleries.map_section(projected).maps] == [
        "Features h of the encoder", "Projection z = g(h)", "Raw pixels",
    ]  # fmt: skip
    without = _inputs({"knn/top1": 0.5})
    assert retrieval.section(without) is None
    assert "diamonds" not in galleries.map_section(without).caption
    assert retrieval.section(_inputs({"verification/accuracy": 0.5}, labels=None)) is None
    only = _inputs({"verification/accuracy": 0.5}, pixels=None)
    assert [len(chart.key) for chart in retrieval.section(only).charts] == [1, 1, 1, 2]
