"""A classifier from a part of the labels, as a user trains, scores, exports and distils it."""

import json
import shutil

import numpy as np
import pytest

from ssl_jax import checkpoint
from ssl_jax.pretrained import formats, trained_run
from ssl_jax.run import metrics
from tests.commands import TINY, run

TINY_CLASSIFIER = (
    "--config=configs/supervised.py:digits",
    *(flag for flag in TINY[1:] if "method" not in flag and "names" not in flag),
    "--config.data.labelled_fraction=0.1",
    "--config.batch_size=32",
    "--config.steps=12",
    "--config.eval.every_epochs=1",
    "--config.eval.baselines=('pixels','untrained')",
    "--config.eval.final_names=('accuracy','knn')",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classifier")
    return workdir, run(workdir, *TINY_CLASSIFIER).stdout


@pytest.mark.slow
def test_it_trains_on_a_part_and_is_scored_by_its_own_logits(trained):
    workdir, said = trained
    assert "144 labelled examples of 1,438, the others left out, 10 classes" in said
    assert "12 steps = 3 epochs of 4 steps" in said and "own head" in said
    results = json.loads((workdir / "results.json").read_text())["results"]
    assert list(results) == ["raw pixels", "untrained encoder", "supervised"]
    scores = results["supervised"]
    assert 0 < scores["accuracy/top1"] < scores["accuracy/top5"] < 1 and "knn/top1" in scores
    assert set(results["raw pixels"]) == {"knn/top1", "knn/top5", "knn/k"}  # they have no logits

    rows = [row for row in metrics.read_metrics(workdir) if "eval/accuracy/top1" in row]
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert rows[-1]["eval/accuracy/top1"] == pytest.approx(scores["accuracy/top1"], abs=1e-6)
    assert not [key for row in rows for key in row if key.startswith("eval/knn")]
    best = max(rows, key=lambda row: row["eval/accuracy/top1"])
    with checkpoint.Checkpointer(
        str(workdir), read_only=True, best_metric="eval/accuracy/top1"
    ) as saves:
        assert saves.best_step() == best["step"]

    # The split's size stands in the config, and the same command knows the run again.
    assert trained_run.read_config(workdir).data.num_examples == 1438
    assert "nothing to do" in run(workdir, *TINY_CLASSIFIER).stdout


@pytest.mark.slow
def test_evaluate_says_the_same(trained):
    workdir, _ = trained
    said = run(workdir, "--evals=accuracy", module="evaluate").stdout
    assert "own head" in said and "kNN" not in said
    (record,) = (workdir / "evaluations").glob("*.json")
    values = json.loads(record.read_text())
    results = json.loads((workdir / "results.json").read_text())["results"]["supervised"]
    np.testing.assert_allclose(values["accuracy/top1"], results["accuracy/top1"], atol=1e-6)
    np.testing.assert_allclose(values["accuracy/top5"], results["accuracy/top5"], atol=1e-6)


@pytest.mark.slow
def test_data_of_other_classes_cost_only_what_scores_the_classes(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    done = run(workdir, "--data=shapes", "--evals=accuracy,knn", module="evaluate", check=False)
    assert done.returncode == 1 and "evaluation 'accuracy' is for the classes" in done.stderr
    (record,) = (workdir / "evaluations").glob("*_shapes.json")
    names = {key.partition("/")[0] for key in json.loads(record.read_text()) if "/" in key}
    assert names == {"knn"}


@pytest.mark.slow
def test_its_encoder_is_exported(trained, tmp_path):
    workdir, _ = trained
    run(workdir, f"--output={tmp_path}", "--to=safetensors", module="export")
    state = formats.read(f"{tmp_path}/model.safetensors")
    encoder = trained_run.load(str(workdir)).weights.params["encoder"]
    np.testing.assert_array_equal(state["params/stage1/kernel"], encoder["stage1"]["kernel"])
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["method"] == "supervised" and described["step"] == 12
    assert described["image_size"] == 16 and described["architecture"]["name"] == "convnet"


@pytest.mark.slow
def test_a_student_has_all_images_and_a_part_of_the_labels(trained, tmp_path):
    workdir, _ = trained
    flags = [flag for flag in TINY_CLASSIFIER[1:] if "data" not in flag]
    said = run(
        tmp_path, "--config=configs/distill.py:digits", *flags, f"--config.init_from={workdir}",
        "--config.data.labelled_fraction=0.1", "--config.data.unlabelled=keep",
        "--config.method.distill_weight=0.5",
    ).stdout  # fmt: skip
    assert "1,438 examples, 144 of them labelled, 10 classes" in said
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert 0 < results["distillation"]["accuracy/top1"] < 1
    rows = metrics.read_metrics(tmp_path)
    assert all(np.isfinite(row["train/label_loss"]) for row in rows if "train/label_loss" in row)
    run(tmp_path, f"--output={tmp_path}/out", "--to=safetensors", module="export")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["method"] == "distill"
