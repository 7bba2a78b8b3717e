"""Rankings against loops in float64, on one device and eight, with ties, groups and galleries."""

import types

import jax
import numpy as np
import pytest

from benchmarks import retrieval_tpu
from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.evals import ranking, retrieval, scores
from ssl_jax.evals.known import Known
from ssl_jax.evals.model import Model
from ssl_jax.evals.ranking import Rows
from ssl_jax.experiment.build import Experiment
from ssl_jax.run.probing import Prober
from tests.methods.table import ROWS


def _rows(seed=0, n=60, d=8, classes=6, noise=1.2, groups=None):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    h = (centres[label] + noise * rng.normal(size=(n, d))).astype(np.float32)
    return Rows(h, label, None if groups is None else rng.integers(0, groups, n))


def _oracle(queries, gallery=None, ks=(1, 2, 4), similarity="cosine"):
    """One query at a time; other classes come first among equals."""
    own = gallery is None
    gallery = queries if own else gallery
    out = []
    for i, query in enumerate(queries.h.astype(np.float64)):
        scored = []
        for j, row in enumerate(gallery.h.astype(np.float64)):
            same = queries.label[i] == gallery.label[j]
            if own and i == j:
                continue
            if same and queries.group is not None and queries.group[i] == gallery.group[j]:
                continue
            if similarity == "cosine":
                value = query @ row / (np.linalg.norm(query) * np.linalg.norm(row))
            else:
                value = -np.linalg.norm(query - row)
            scored.append((-value, bool(same)))
        relevant = [same for _, same in sorted(scored)]
        total = sum(relevant)
        if not total:
            out.append(None)
            continue
        hits, at_r, ap, trapezoid, before = 0, 0.0, 0.0, 0.0, 1.0
        for rank, same in enumerate(relevant, 1):
            hits += same
            precision = hits / rank
            if same:
                ap += precision / total
                at_r += precision / total * (rank <= total)
                trapezoid += (precision + before) / 2 / total
            before = precision
        out.append({
            **{f"recall_{k}": float(any(relevant[:k])) for k in ks},
            "r_precision": sum(relevant[:total]) / total,
            "map_r": at_r, "map": ap, "map_trapezoid": trapezoid,
        })  # fmt: skip
    return out


def _means(per_query):
    matched = [one for one in per_query if one is not None]
    return {name: np.mean([one[name] for one in matched]) for name in matched[0]} | {
        "queries": len(matched), "queries_left_out": len(per_query) - len(matched),
    }  # fmt: skip


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize("compared", [0, 64])
def test_loop_of_the_queries(devices, similarity, compared, monkeypatch):
    monkeypatch.setattr(ranking, "_COMPARED", compared)
    rows = _rows()
    got = retrieval.of_rows(
        rows, ks=(1, 2, 4), similarity=similarity, devices=jax.devices()[:devices]
    )
    expected = _means(_oracle(rows, similarity=similarity))
    assert 0.2 < expected["map_r"] < 0.9  # neither trivial nor hopeless
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("compared", [0, 64])
def test_gallery_groups_and_queries_without_references(compared, monkeypatch):
    monkeypatch.setattr(ranking, "_COMPARED", compared)
    monkeypatch.setattr(ranking, "_SIMILARITIES", 60 * 5)  # several blocks
    queries, gallery = _rows(1, n=23, classes=8, groups=3), _rows(2, classes=5, groups=3)
    per_query = _oracle(queries, gallery)
    assert None in per_query  # classes 5 to 7 have no reference
    got = retrieval.of_rows(queries, gallery, ks=(1, 2, 4))
    assert got == pytest.approx(_means(per_query), rel=1e-6)
    scores = ranking.score(queries, gallery, ks=(1, 2, 4))
    for i, one in enumerate(per_query):
        assert (scores.references[i] > 0) == (one is not None)
        if one is not None:
            assert scores.average_precision[i] == pytest.approx(one["map"], rel=1e-6)
    # One of both without groups: the rule does not apply.
    ungrouped = queries._replace(group=None)
    expected = _means(_oracle(ungrouped, gallery))
    assert retrieval.of_rows(ungrouped, gallery, ks=(1, 2, 4)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("compared", [0, 64])
@pytest.mark.parametrize("devices", [1, 8])
def test_equal_examples_of_other_classes_come_first(compared, devices, monkeypatch):
    """In whatever order the gallery is, so a collapsed encoder retrieves nothing."""
    monkeypatch.setattr(ranking, "_COMPARED", compared)
    few = jax.devices()[:devices]
    collapsed = Rows(np.full((40, 4), 0.37, np.float32), np.repeat(np.arange(4), 10))
    got = retrieval.of_rows(collapsed, ks=(1, 8), devices=few)
    assert got["recall_8"] == got["map_r"] == got["r_precision"] == 0
    assert got["map"] == pytest.approx(np.mean([i / (30 + i) for i in range(1, 10)]))
    rows = _rows(3)
    rows.h[::2] = rows.h[0]  # half of all examples are equal
    for order in (np.arange(60), np.arange(60)[::-1], np.argsort(rows.label)):
        moved = Rows(rows.h[order], rows.label[order])
        got = retrieval.of_rows(moved, ks=(1, 2, 4), devices=few)
        assert got == pytest.approx(_means(_oracle(rows)), rel=1e-6)


def test_memory_of_a_million_rows_is_split_over_devices():
    mesh = scores.shared_mesh(2**20, jax.devices()[:8])
    block, program = retrieval_tpu.lowered(mesh, rows=2**20, width=512, references=64)
    memory = program.compile().memory_analysis()
    gallery, similarities = 2**20 // 8 * 512 * 4, block * 2**20 // 8 * 4
    assert similarities <= 2**27
    assert memory.argument_size_in_bytes < 1.1 * gallery
    assert memory.temp_size_in_bytes < 4 * similarities


def test_more_devices_than_rows():
    rows = _rows(9, n=5, classes=2)
    got = retrieval.of_rows(rows, ks=(1, 2, 4), devices=jax.devices()[:8])
    assert got == pytest.approx(_means(_oracle(rows)), rel=1e-6)


def test_two_references():
    """R = 2: relevance [1, 0] gives MAP@R .5 and [0, 1] gives .25; R-precision is .5 for both."""
    angle = np.array([0.0, 0.1, 0.2, 0.3])
    h = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for labels, at_r in (([0, 0, 1, 0], 0.5), ([0, 1, 0, 0], 0.25)):
        scores = ranking.score(Rows(h[:1], np.array([0])), Rows(h[1:], np.array(labels[1:])))
        assert scores.references.tolist() == [2]
        assert scores.map_at_r.tolist() == [at_r] and scores.r_precision.tolist() == [0.5]


def test_perfect_features():
    label = np.repeat(np.arange(5), 7)
    rows = Rows(np.eye(5, dtype=np.float32)[label], label)
    got = retrieval.of_rows(rows) | retrieval.clusters(rows, starts=8)
    counts = ("queries", "queries_left_out")
    assert {name: value for name, value in got.items() if name not in counts} == pytest.approx(
        dict.fromkeys(set(got) - set(counts), 1.0)
    )


def test_scales_and_zeros():
    rows = _rows(4)
    for similarity, scales in (("cosine", (1e30, 1e-30)), ("euclidean", (1e15, 1e-15))):
        plain = retrieval.of_rows(rows, similarity=similarity)
        for scale in scales:
            moved = Rows(rows.h * np.float32(scale), rows.label)
            assert retrieval.of_rows(moved, similarity=similarity) == pytest.approx(plain)
    far = Rows(rows.h + np.float32(1000), rows.label)
    assert retrieval.of_rows(far, similarity="euclidean") == pytest.approx(plain, abs=0.01)
    rows.h[:5] = 0
    assert np.isfinite(list(retrieval.of_rows(rows).values())).all()


def _mutual_information(classes, clusters):
    n, joint = len(classes), {}
    for pair in zip(classes, clusters, strict=True):
        joint[pair] = joint.get(pair, 0) + 1 / n
    first, second = {}, {}
    for (a, b), p in joint.items():
        first[a] = first.get(a, 0) + p
        second[b] = second.get(b, 0) + p
    information = sum(p * np.log(p / (first[a] * second[b])) for (a, b), p in joint.items())
    entropies = [-sum(p * np.log(p) for p in share.values()) for share in (first, second)]
    return 2 * information / sum(entropies)


@pytest.mark.parametrize("devices", [1, 8])
def test_clusters(devices, monkeypatch):
    rows, few = _rows(5, noise=0.8), jax.devices()[:devices]
    seen = []
    whole = retrieval.clustering.spherical_kmeans

    def recorded(*args, **options):
        seen.append(whole(*args, **options))
        return seen[-1]

    fake = types.SimpleNamespace(spherical_kmeans=recorded)
    monkeypatch.setattr(retrieval, "clustering", fake)
    got = retrieval.clusters(rows, starts=3, devices=few)
    assert len(seen) == 3
    unit = rows.h / np.linalg.norm(rows.h, axis=1, keepdims=True)
    fits = [
        sum(unit[i] @ np.asarray(one.centroids)[k] for i, k in enumerate(one.assignments[:60]))
        for one in seen
    ]
    best = np.asarray(seen[int(np.argmax(fits))].assignments)[:60]
    assert 0.3 < got["nmi"] < 0.95 and got["ami"] < got["nmi"]
    assert got["nmi"] == pytest.approx(_mutual_information(rows.label.tolist(), best.tolist()))
    renamed = Rows(rows.h, np.array([3, 5, 0, 1, 4, 2])[rows.label])
    assert retrieval.clusters(renamed, starts=3, devices=few) == pytest.approx(got)


class StubProber:
    """Splits of arrays, which the model returns as they are."""

    def __init__(self, splits, names=("a", "b", "c", "d", "e", "f")):
        self.splits, self.names = splits, names
        self.config = types.SimpleNamespace(eval=types.SimpleNamespace(test_split="test"))

    @property
    def test(self):
        return self.source("test")

    def source(self, split):
        rows = self.splits[split]
        return types.SimpleNamespace(
            name=split, rows=rows, labels=rows.label, class_names=self.names,
            factor_names=None if rows.group is None else ("shape", "camera"),
            num_classes=6,
        )  # fmt: skip

    def features(self, encode, source, targets):
        rows = source.rows
        out = encode({"h": rows.h}) | {"label": rows.label}
        if "factors" in targets:
            out["factors"] = np.stack([rows.label, rows.group], axis=1).astype(np.float32)
        return out


def test_splits_and_outputs():
    test, gallery = _rows(6, n=20, groups=2), _rows(7, groups=2)
    unlabelled = gallery._replace(label=np.where(np.arange(60) < 9, -1, gallery.label))
    prober = StubProber({"test": test, "gallery": unlabelled})
    model = Model(lambda batch: {"h": batch["h"], "z": batch["h"][:, :3], "g": -batch["h"]})

    def run(**options):
        return retrieval.evaluate_model(model, prober, ks=(1, 2, 4), cluster_starts=0, **options)

    labelled = Rows(gallery.h[9:], gallery.label[9:], gallery.group[9:])
    assert run() == pytest.approx(_means(_oracle(test)))
    assert run(gallery="gallery") == pytest.approx(_means(_oracle(test, labelled)))
    cut = Rows(test.h[:, :3], test.label, test.group)
    assert run(feature="z") == pytest.approx(_means(_oracle(cut)))
    turned = labelled._replace(h=-labelled.h)
    got = run(gallery="gallery", gallery_feature="g")
    assert got == pytest.approx(_means(_oracle(test, turned)))
    free = run(gallery="gallery", group="none")
    expected = _oracle(test._replace(group=None), labelled._replace(group=None))
    assert free == pytest.approx(_means(expected))


def test_a_missing_gallery_is_found_before_the_run():
    config = ROWS["simclr"].load(
        data__name="digits", eval__final_names=("retrieval",), eval__retrieval__gallery="galery"
    )
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    prober = Prober(config, experiment.mesh)
    with pytest.raises(UserError, match="eval.retrieval.gallery is 'galery', but digits has no"):
        prober.check_splits(experiment.method)
    with config.unlocked():
        config.eval.retrieval.gallery = "train"
    Prober(config, experiment.mesh).check_splits(experiment.method)


def test_errors():
    rows = _rows(8)
    with pytest.raises(UserError, match="8 dimensions and the gallery has 3"):
        ranking.score(rows, Rows(rows.h[:, :3], rows.label))
    alone = Rows(rows.h[:4], np.arange(4))
    with pytest.raises(UserError, match="no query has the class of another test example"):
        retrieval.of_rows(alone)
    prober = StubProber({"test": rows, "empty": rows._replace(label=np.full(60, -1))})
    model = Model(lambda batch: {"h": batch["h"]})
    with pytest.raises(UserError, match="needs the output 'y', but this method has h"):
        retrieval.evaluate_model(model, prober, feature="y")
    with pytest.raises(UserError, match="empty has no labels"):
        retrieval.evaluate_model(model, prober, gallery="empty")
    broken = Model(lambda batch: {"h": np.full_like(batch["h"], np.nan)})
    with pytest.raises(UserError, match="60 of 60 examples are not finite"):
        retrieval.evaluate_model(broken, prober)
    options = {"gallery": None, "gallery_data": None}
    known = Known(train=None, test=types.SimpleNamespace(name="t", labels=np.array([0, 1, 1])),
                  num_train=0)  # fmt: skip
    assert "1 examples without another of their class" in retrieval.check(known, **options)
    known.test.labels = np.arange(3)
    with pytest.raises(UserError, match="t has no two examples of one class"):
        retrieval.check(known, **options)
