"""The whole page: one well-formed document that loads nothing and believes nobody."""

import base64
import importlib.util
import io
import json
import re

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from ssl_jax import report
from ssl_jax.core import items
from ssl_jax.report import galleries
from ssl_jax.report import shown as shown_lib
from tests.report.pages import HOSTILE, check, digits_like


def rows(n=40):
    rng = np.random.default_rng(0)
    out = []
    for step in range(10, 10 * n + 10, 10):
        out.append({
            "step": step, "train/loss": 4.0 / step + rng.normal() * 0.01, "train/entropy": 2.0,
            "train/contrastive_accuracy": step / 1000, "train/learning_rate": 0.1,
            "train/images_per_s": 1e4, "train/data_wait": 0.01, "train/mfu": 0.4,
            "train/grad_norm": 1.0, "train/online/accuracy": 0.5,
            "collapse/rankme_h": 30.0, "collapse/rankme_z": 20.0, "collapse/std_z": 0.9,
            "collapse/alignment": 0.3, "collapse/uniformity": -2.0,
        })  # fmt: skip
    out.append({"step": 200, "eval/knn/top1": 0.9, "eval/few_shot/1": 0.5,
                "eval/few_shot/1_std": 0.05, "eval/knn/k": 200.0})  # fmt: skip
    out.append({"step": 200, "warning": "the effective rank fell"})
    return out


RESULTS = {
    "raw pixels": {"few_shot/1": 0.603, "few_shot/1_std": 0.039, "few_shot/8": 0.88,
                   "few_shot/8_std": 0.012, "knn/top1": 0.938, "linear/top1": 0.951},
    "untrained encoder": {"few_shot/1": 0.484, "few_shot/1_std": 0.042, "knn/top1": 0.887},
    "SimCLR": {"few_shot/1": 0.752, "few_shot/1_std": 0.031, "few_shot/8": 0.923,
               "few_shot/8_std": 0.009, "knn/top1": 0.968, "linear/top1": 0.974},
}  # fmt: skip


def full_inputs(**changes):
    rng = np.random.default_rng(1)
    values = {
        "config": {"batch_size": 256, "epochs": 12.5, "steps": None, "seed": 3,
                   "optimizer": {"name": "lars", "groups": {}}, "views": {"ops": ("crop", "flip")}},
        "name": "a-run", "method": "SimCLR", "dataset": "digits", "date": "2026-11-20",
        "rows": rows(), "results": RESULTS, "preflight": "batch  256\nsteps  400",
        "class_names": ("zero", "one", "two"), "split": "60 images of digits[test]",
        "shown": {"Augmented views": items.Images(
            rng.random((4, 2, 10, 10, 1), np.float32),
            inputs=rng.integers(0, 256, (4, 12, 12, 1), dtype=np.uint8))},
        "environment": {"jax": "0.10.2", "command": "python -m ssl_jax train"},
        **digits_like(60),
    }  # fmt: skip
    return report.ReportInputs(**(values | changes))


def small_inputs(**changes):
    """All sections, few charts."""
    little = [{"step": 1, "train/loss": 2.0, "collapse/std_z": 0.5, "eval/knn/top1": 0.5}]
    return full_inputs(**({"rows": little} | digits_like(12) | changes))


@pytest.fixture(scope="module")
def full_page():
    return report.render(full_inputs())


def test_full_page(full_page):
    page = check(full_page)
    for section in ("results", "training", "evaluations", "map", "neighbours",
                    "shown0-augmented-views", "collapse", "preflight", "environment",
                    "config"):  # fmt: skip
        assert section in page.ids
    text = "".join(page.text)
    assert "a-run" in text and "SimCLR on digits · 2026-11-20" in text
    for value in ("75.2", "± 3.1", "96.8", "the effective rank fell", "step 200", "batch  256"):
        assert value in text
    assert "Accuracy of SimCLR with one label a class: 75.2 ± 3.1%" in text
    assert "14.9 points above the best baseline, raw pixels" in text
    assert "optimizer" in text and "(crop, flip)" in text and "python -m ssl_jax train" in text


def test_policy_forbids_loading(full_page):
    assert "Content-Security-Policy" in full_page and "default-src 'none'" in full_page


def test_page_is_reproducible(full_page):
    assert report.render(full_inputs()) == full_page


def test_every_scheme_defines_every_colour(full_page):
    used = set(re.findall(r"var\((--[\w-]+)\)", full_page))
    style = full_page[full_page.index("<style>") : full_page.index("</style>")]
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.S)
    assert len(blocks) == 3  # light, dark, print
    for block in blocks:
        assert used <= set(re.findall(r"(--[\w-]+):", block))


def test_write(tmp_path):
    path = report.write(tmp_path / "my-run", report.ReportInputs(config={"seed": 1}))
    assert path == tmp_path / "my-run" / "report.html"
    assert "my-run" in "".join(check(path.read_text(encoding="utf-8")).text)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_stay_texts(hostile):
    inputs = small_inputs(
        name=hostile, method=hostile, dataset=hostile, date=hostile, preflight=hostile,
        split=hostile, class_names=[hostile] * 3, warnings=[(5, hostile)],
        environment={hostile: hostile}, config={hostile: hostile, "section": {hostile: [hostile]}},
        shown={hostile: items.Images(np.zeros((1, 1, 4, 4, 1)), rows=(hostile,), columns=(hostile,),
                                     note=hostile)},
        results={hostile: {"few_shot/1": 0.5, "few_shot/2": 0.5, "knn/top1": 0.9},
                 hostile + "2": {"few_shot/1": 0.6, "few_shot/2": 0.7}},
        rows=[{"step": 1, f"train/{hostile}": 1.0, "train/loss": 2.0}],
    )  # fmt: skip
    page = check(report.render(inputs))
    assert page.tags.count("h1") == 1 and page.tags.count("pre") == 1
    text = "".join(page.text)
    assert hostile.replace("\n", "").replace("\t", "") in text.replace("\n", "").replace("\t", "")


def test_control_characters_and_lone_surrogates():
    name = "a\x00b\x1b[31mc\udcff"
    text = report.render(small_inputs(name=name, class_names=[name] * 3))
    check(text)
    assert "\x00" not in text and "\x1b" not in text
    assert "ab[31mc?" in text


MISSING = ["rows", "results", "preflight", "pixels", "embedding", "labels", "class_names",
           "shown", "environment"]  # fmt: skip
EMPTY = {"rows": (), "results": {}, "preflight": "", "class_names": (), "environment": {},
         "shown": {}}  # fmt: skip


@pytest.mark.parametrize("missing", MISSING)
def test_without_one_thing(missing):
    page = check(report.render(small_inputs(**{missing: EMPTY.get(missing)})))
    gone = {"results": ["results"], "preflight": ["preflight"], "shown": ["shown0-augmented-views"],
            "embedding": ["map", "neighbours"], "pixels": ["neighbours"],
            "environment": ["environment"], "rows": ["evaluations", "collapse"]}  # fmt: skip
    for section in gone.get(missing, []):
        assert section not in page.ids
    if missing == "rows":
        assert "No training metrics were recorded" in "".join(page.text)
    if missing == "labels":
        assert "map-h-class-0" not in page.ids and "map" in page.ids


def test_nothing_but_a_config():
    page = check(report.render(report.ReportInputs(config={})))
    assert "training" in page.ids and "map" not in page.ids


def test_config_dict_with_placeholders():
    from ml_collections.config_dict import placeholder

    config = ConfigDict({"model": {"name": "resnet50"}, "steps": placeholder(int)})
    text = "".join(check(report.render(report.ReportInputs(config=config))).text)
    assert "resnet50" in text and "–" in text


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_tiny_data(n):
    data = digits_like(n)
    page = check(report.render(small_inputs(**data)))
    assert ("neighbours" in page.ids) == (n >= 2)
    assert ("map-h-class-0" in page.ids) == (n >= galleries.LEAST_POINTS)


@pytest.mark.slow
def test_colour_photographs_and_a_thousand_classes():
    data = digits_like(150, channels=3, side=80, classes=100)
    data["labels"][50:] *= 10  # up to 990; the first fifty stay below
    names = [f"class number {i}, which has a long name" for i in range(1000)]
    views = np.random.default_rng(0).random((20, 12, 128, 128, 3), np.float32)
    shown = {"Views": items.Images(views, inputs=(views[:, 0] * 255).astype(np.uint8))}
    text = report.render(small_inputs(**data, class_names=names, shown=shown))
    page = check(text)
    assert sum(bool(re.fullmatch(r"map-h-class-\d+", i)) for i in page.ids) == 10
    assert f"10 most frequent of {len(set(data['labels'].tolist()))} classes" in "".join(page.text)
    jpegs = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", text)
    sizes = {Image.open(io.BytesIO(base64.b64decode(jpeg))).size for jpeg in jpegs}
    assert sizes == {(galleries.TILE_SIDE,) * 2, (shown_lib.VIEW_SIDE,) * 2}


def test_class_names_shorter_than_the_labels():
    text = "".join(check(report.render(small_inputs(class_names=("zero",)))).text)
    assert "zero" in text and re.search(r"\b2\b", text)


def test_metrics_that_are_not_finite():
    bad = [{"step": s, "train/loss": v, "eval/knn/top1": v, "collapse/std_z": v}
           for s, v in [(1, 1.0), (2, float("nan")), (3, float("inf")), (4, 2.0)]]  # fmt: skip
    data = digits_like(60)
    data["embedding"][:7] = np.nan
    results = {"raw": {"knn/top1": float("nan")}, "SimCLR": {"knn/top1": 0.5}}
    text = "".join(check(report.render(full_inputs(rows=bad, results=results, **data))).text)
    assert "2 non-finite values left out" in text
    assert "7 representations are omitted because they are not finite" in text


def test_metrics_of_which_none_is_finite():
    bad = [{"step": s, "train/loss": float("nan")} for s in (1, 2)]
    text = "".join(check(report.render(small_inputs(rows=bad))).text)
    assert "no finite value" in text and "nan" in text


def test_collapsed_embedding():
    data = digits_like(20)
    data["embedding"] = np.ones_like(data["embedding"])
    data["pixels"] = np.zeros_like(data["pixels"])
    check(report.render(small_inputs(**data)))


def test_one_label_for_all_and_unlabelled_ones_between():
    data = digits_like(30)
    data["labels"] = np.where(np.arange(30) < 10, -1, 0)
    page = check(report.render(small_inputs(**data)))
    assert "map-h-class-0" in page.ids and "map-h-class-1" not in page.ids


def test_worse_than_pixels_is_said():
    results = {"raw pixels": {"knn/top1": 0.9}, "SimCLR": {"knn/top1": 0.8}}
    text = "".join(check(report.render(small_inputs(results=results))).text)
    assert "10.0 points below the best baseline, raw pixels" in text


def test_umap_falls_back(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "umap" else find(name)
    )
    text = "".join(check(report.render(small_inputs(projection="umap"))).text)
    assert "t-SNE" in text


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": np.zeros(3, int)}, "one length"),
        ({"pixels": np.zeros((60, 12, 12))}, "4 dimensions"),
        ({"projection": "pca"}, "neither 'tsne' nor 'umap'"),
    ],
)
def test_arrays_that_do_not_belong_together(changes, message):
    with pytest.raises(ValueError, match=message):
        full_inputs(**changes)


def test_rows_as_json_gives_them(tmp_path):
    """Rows that went through a file draw the same page."""
    from ssl_jax.run.metrics import MetricWriter, read_metrics

    with MetricWriter(tmp_path, tensorboard=False) as writer:
        for row in rows(5):
            writer.write(row["step"], {k: v for k, v in row.items() if k != "step"})
    back = read_metrics(tmp_path)
    assert json.dumps(sorted(back, key=str)) == json.dumps(sorted(rows(5), key=str))
