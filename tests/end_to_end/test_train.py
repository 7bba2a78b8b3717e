"""The commands as a user types them: train, resume, evaluate, embed, report."""

import functools
import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from ssl_jax import data, evals
from ssl_jax.checkpoint.manifest import Manifest
from ssl_jax.core.tree_paths import by_path
from ssl_jax.pretrained import trained_run
from ssl_jax.run import metrics
from tests.commands import ROOT, TINY, environment, losses, run, start, wait_for_step
from tests.xla_flags import OPTIMISED, QUICK

# For runs that are compared bit by bit, and those of full length.
run_optimised = functools.partial(run, flags=OPTIMISED)
# By number of devices; one is also for the tests that are not slow.
FLAGS = {1: QUICK, 8: OPTIMISED}
COMMAND = (sys.executable, "-m", "ssl_jax", "train")


def kill_9(workdir, *arguments, step, devices=1, flags=OPTIMISED):
    """Starts a run and kills it once it has logged `step`."""
    process = start(workdir, *arguments, devices=devices, flags=flags)
    wait_for_step(process, workdir, step)
    process.kill()
    process.wait()


def final_leaves(workdir):
    """The final parameters and buffers, path -> array."""
    encoder = trained_run.load(str(workdir))
    assert encoder.step == 30
    leaves = by_path((encoder.weights.params, encoder.weights.buffers))
    return {path: np.asarray(leaf) for path, leaf in leaves.items()}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Uninterrupted runs, by number of devices."""
    runs = {}

    def get(devices):
        if devices not in runs:
            runs[devices] = tmp_path_factory.mktemp(f"whole{devices}")
            run(runs[devices], *TINY, devices=devices, flags=FLAGS[devices])
        return runs[devices]

    return get


# 22 steps an epoch: the first kill is in the first epoch, the second in the second.
@pytest.mark.parametrize(
    ("devices", "steps"), [(1, (25,)), pytest.param(8, (9, 25), marks=pytest.mark.slow)]
)
def test_kill_9_and_the_same_command_again_is_bit_identical(devices, steps, finished, tmp_path):
    whole = finished(devices)
    for step in steps:
        kill_9(tmp_path, *TINY, step=step, devices=devices, flags=FLAGS[devices])
    run(tmp_path, *TINY, devices=devices, flags=FLAGS[devices])
    assert losses(tmp_path) == losses(whole)
    expected = final_leaves(whole)
    for path, leaf in final_leaves(tmp_path).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


STATES = {
    "moco_v2": ("queue", "pointer", "ema"),
    "instdisc": ("bank",),
    "byol": ("ema", "predictor"),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", STATES)
def test_kill_9_loses_no_bit_of_a_queue_a_bank_an_average_or_a_predictor(method, tmp_path):
    heads = () if method == "instdisc" else ("--config.method.hidden_dim=16",)
    tiny = [a for a in TINY if "hidden_dim" not in a and not a.startswith("--config=")]
    arguments = (f"--config=configs/{method}.py:digits", *tiny, *heads)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_optimised(whole, *arguments)
    kill_9(killed, *arguments, step=25)  # in the second epoch
    run_optimised(killed, *arguments)
    assert losses(killed) == losses(whole)
    saved, expected = (Manifest.read(d / "checkpoints" / "30").arrays for d in (killed, whole))
    for part in STATES[method]:  # the states that this test is about are in it
        assert any(part in name for name in expected), sorted(expected)
    assert saved == expected  # every array of the state, by its digest


TEXT = (
    "--config=configs/bert.py:pydoc",
    f"--config.data.name=text:{ROOT}/ssl_jax/run/*.py",
    "--config.data.options.vocab_size=600",
    "--config.data.split=train[:80%]",
    "--config.eval.train_split=train[:80%]",
    "--config.eval.test_split=train[80%:]",
    "--config.model.dim=32",
    "--config.model.dropout=0.1",
    "--config.steps=30",
    "--config.checkpoint.every_steps=4",
    "--config.log.every_steps=1",
    "--config.log.tensorboard=False",
)


@pytest.fixture(scope="module")
def language_run(tmp_path_factory):
    """An uninterrupted run on text, and what it printed."""
    folder = tmp_path_factory.mktemp("language")
    arguments = (*TEXT, f"--config.data.options.cache_dir={folder}/cache")
    return folder / "run", run_optimised(folder / "run", *arguments).stdout


@pytest.mark.slow
def test_a_language_model_trains_is_scored_on_held_out_text_and_reported(language_run, tmp_path):
    workdir, output = language_run
    assert "held-out accuracy" in output and "unigram" in output
    assert re.search(r"padding +\d+\.\d%: of the 64 tokens of a row \d\d\.\d are real", output)
    results = json.loads((workdir / "results.json").read_text())["results"]
    assert list(results) == ["unigram", "BERT"]
    for scores in results.values():
        assert 0 <= scores["held_out/accuracy"] <= 1 and 1 < scores["held_out/perplexity"] < 2000
    assert json.loads((workdir / "tokenizer.json").read_text())["model"]
    page = (workdir / "report.html").read_text()
    for title in ("Hidden words", "Neighbours of words", "Tokens a second", "Share of padding"):
        assert title in page
    again = run_optimised(workdir, module="evaluate").stdout
    perplexity = results["BERT"]["held_out/perplexity"]
    assert evals.describe("held_out/perplexity").format(perplexity) in again  # the same questions
    assert "unigram" in again
    elsewhere = f"--data=text:{ROOT}/LICENSE"
    output = f"--output={tmp_path}/h.npz"
    run(workdir, elsewhere, output, module="embed")
    assert np.load(tmp_path / "h.npz")["h"].shape[1] == 32
    rows = metrics.read_metrics(workdir)
    rows = [row for row in rows if "train/loss" in row]
    assert all(row["train/tokens_per_s"] > 0 for row in rows)
    assert 0 <= np.mean([row["train/padding_share"] for row in rows]) < 0.5


@pytest.mark.slow
def test_kill_9_of_a_language_model_is_bit_identical(language_run, tmp_path):
    arguments = (*TEXT, f"--config.data.options.cache_dir={tmp_path}/cache")
    kill_9(tmp_path / "run", *arguments, step=25)
    run_optimised(tmp_path / "run", *arguments)
    assert losses(tmp_path / "run") == losses(language_run[0])
    saved, expected = (
        Manifest.read(workdir / "checkpoints" / "30").arrays
        for workdir in (tmp_path / "run", language_run[0])
    )
    assert saved == expected


@pytest.mark.slow
def test_a_run_from_eight_devices_goes_on_with_four_and_with_one(finished, tmp_path):
    kill_9(tmp_path, *TINY, step=9, devices=8)
    kill_9(tmp_path, *TINY, step=17, devices=4)
    run(tmp_path, *TINY, devices=1)
    whole, pieces = losses(finished(1)), losses(tmp_path)
    assert whole.keys() == pieces.keys()
    np.testing.assert_allclose(list(pieces.values()), list(whole.values()), rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_next_start_goes_on(signum, code, finished, tmp_path):
    arguments = (*TINY, "--config.checkpoint.every_steps=1000")
    process = start(tmp_path, *arguments)
    wait_for_step(process, tmp_path, 7)
    process.send_signal(signum)
    assert process.wait(timeout=60) == code, process.output()
    assert "saved; the same command continues" in process.output()
    again = run(tmp_path, *arguments)
    assert "continuing from step" in again.stdout
    assert losses(tmp_path) == losses(finished(1))


def test_a_finished_run_is_a_no_op(finished):
    before = (finished(1) / "metrics.jsonl").read_bytes()
    assert "nothing to do" in run(finished(1), *TINY).stdout
    assert (finished(1) / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_more_steps_extend_a_finished_run(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished(1), workdir)
    longer = [a.replace("steps=30", "steps=34") if ".steps=" in a else a for a in TINY]
    assert "continuing from step 30 of 34" in run(workdir, *longer).stdout
    assert json.loads((workdir / "results.json").read_text())["step"] == 34
    config = (workdir / "config.json").read_bytes()
    assert "nothing to do" in run(workdir, *TINY).stdout  # of 30 steps
    assert (workdir / "config.json").read_bytes() == config


def test_a_workdir_of_another_config_is_refused(finished, tmp_path):
    done = run(finished(1), *TINY, "--config.seed=1", check=False)
    assert done.returncode == 1
    assert "seed: 0 -> 1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses_and_devices_do_not_matter(finished):
    one, eight = losses(finished(1)), losses(finished(8))
    # Adam turns rounding into visible differences late, so only the beginning is compared tightly.
    steps = sorted(one)[:8]
    np.testing.assert_allclose([eight[s] for s in steps], [one[s] for s in steps], rtol=1e-4)


@pytest.mark.slow
def test_a_non_finite_loss_stops_at_its_step_and_keeps_the_last_checkpoint(tmp_path):
    # A learning rate that overflows: the first updates are saved, then the loss is not a number.
    arguments = (*TINY, "--config.optimizer.base_lr=1e30", "--config.checkpoint.every_steps=1",
                 "--config.optimizer.warmup_steps=0", "--config.optimizer.name=sgd")  # fmt: skip
    done = run(tmp_path, *arguments, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: ") and "at step" in error, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_evaluation_that_fails_costs_its_own_metrics(finished):
    few = ("--evals=knn,mlp", "--train_split=train[:5]")
    done = run(finished(1), *few, module="evaluate", check=False)
    assert done.returncode == 1 and "kNN" in done.stdout
    assert "warning: evaluation 'mlp' failed: the mlp probe needs 10" in done.stderr
    values = json.loads((finished(1) / "evaluations" / "30_digits.json").read_text())
    assert "knn/top1" in values and list(values["not_computed"]) == ["mlp"]
    assert "mlp" not in values["settings"]
    done = run(finished(1), "--evals=mlp", few[1], module="evaluate", check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: the mlp probe needs 10")


@pytest.mark.slow
def test_evaluations_of_a_checkpoint_add_up(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished(1), workdir, ignore=shutil.ignore_patterns("evaluations"))

    def evaluate(*arguments):
        said = run(workdir, *arguments, module="evaluate").stdout
        return said, json.loads((workdir / "evaluations" / "30_digits.json").read_text())

    few = ("--set=linear.num_l2=1", "--set=linear.max_iterations=2")
    said, first = evaluate("--evals=linear", "--baselines=pixels", *few)
    assert (
        "keeps from earlier" not in said and first["settings"]["linear"]["options"]["num_l2"] == 1
    )
    said, both = evaluate("--evals=knn", "--train_split=train[:200]")
    assert "the file keeps from earlier: linear (train_split=train, train_examples=1438)" in said
    assert both["linear/top1"] == first["linear/top1"] and "knn/top1" in both
    assert both["baselines"] == first["baselines"]
    assert both["settings"]["knn"]["data"]["train_examples"] == 200
    assert both["checkpoint"] == Manifest.read(workdir / "checkpoints" / "30").fingerprint
    said, again = evaluate("--evals=knn", "--baselines=pixels")
    assert again["settings"]["knn"]["data"]["train_examples"] == 1438
    assert again["baselines"]["raw pixels"].keys() >= {"knn/top1", "linear/top1"}


@pytest.mark.slow
def test_probes_of_layers_and_attentive_probe_by_command(finished):
    flags = ("--evals=attentive,linear", "--feature=last2/mean")
    done = run(finished(1), *flags, module="evaluate")
    assert "attentive" in done.stdout and "linear" in done.stdout
    values = json.loads((finished(1) / "evaluations" / "30_digits_last2-mean.json").read_text())
    assert values["feature"] == "last2/mean" and values["attentive/steps"] == 6  # one epoch
    assert 0.1 < values["linear/top1"] <= 1 and 0 < values["attentive/top1"] <= 1
    flags = ("--evals=linear", "--feature=last9/mean")
    done = run(finished(1), *flags, module="evaluate", check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: there is no output 'last9/mean'")
    assert "the encoder has 3 layers" in done.stderr


def test_evaluate_embed_and_the_python_interface_agree(finished, tmp_path):
    workdir = finished(1)
    beside = "--baselines=pixels,untrained"
    done = run(workdir, "--evals=knn,few_shot", beside, module="evaluate")
    assert "kNN" in done.stdout and "untrained encoder" in done.stdout
    values = json.loads((workdir / "evaluations" / "30_digits.json").read_text())
    assert values["step"] == 30 and 0.1 < values["knn/top1"] <= 1
    final = json.loads((workdir / "results.json").read_text())["results"]
    np.testing.assert_allclose(values["knn/top1"], final["SimCLR"]["knn/top1"], atol=1e-6)
    scores = {row: found["knn/top1"] for row, found in values["baselines"].items()}
    assert set(scores) == {"raw pixels", "untrained encoder"}
    assert scores["raw pixels"] > 0.9 and 0.1 < scores["untrained encoder"] < 1
    done = run(workdir, "--evals=knn", "--baselines=pixel", module="evaluate", check=False)
    assert done.returncode == 1 and "pixel" in done.stderr and "untrained" in done.stderr
    done = run(workdir, "--evals=knn,segmentation", module="evaluate", check=False)
    needs = "error: evaluation 'segmentation' needs 'masks', but digits has"
    assert done.returncode == 1 and done.stderr.startswith(needs) and done.stderr.count("\n") == 1
    few = ("--evals=linear", "--train_split=train[:1]")
    done = run(workdir, *few, module="evaluate", check=False)
    assert done.returncode == 1 and "a probe needs two classes" in done.stderr

    output = tmp_path / "features.npz"
    # On three devices, over which the run's own batch of 64 would not divide.
    arguments = (f"--output={output}", "--data=digits", "--split=test")
    run(workdir, *arguments, devices=3, module="embed")
    with np.load(output) as stored:
        h, label = stored["h"], stored["label"]
    source = data.load("digits", "test", channels=1)
    np.testing.assert_array_equal(label, source.labels)
    images = source.batch(np.arange(len(source)))["image"]
    encoder = trained_run.load(str(workdir))
    np.testing.assert_allclose(encoder.features(images)["h"], h, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_page_of_a_finished_run_shows_the_maps_of_another_beside_its_own(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished(1), workdir)
    report = ("--config.log.report=True", f"--config.log.beside={finished(1)}")
    assert "report: " in run(workdir, *TINY, *report).stdout
    page = (workdir / "report.html").read_text()
    assert "Activation maps" in page and "stage1 *" in page
    assert f"marked by a star: {finished(1)}, step 30" in page
    (workdir / "report.html").unlink()
    done = run(workdir, *TINY, report[0], f"--config.log.beside={tmp_path}", check=False)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path} is not a run")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished(1), workdir)
    (workdir / "results.json").unlink()
    saved = sorted((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    data_files = [f for f in (saved[-1] / "state").rglob("*") if f.is_file()]
    victim = max(data_files, key=lambda f: f.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    done = run(workdir, *TINY)
    assert "30" in done.stderr and f"continuing from step {saved[-2].name}" in done.stdout
    assert "Traceback" not in done.stderr
    assert losses(workdir) == losses(finished(1))


@pytest.mark.slow
def test_a_full_disk_stops_with_one_line_and_leaves_the_older_checkpoint(finished, tmp_path):
    process = start(tmp_path, *TINY, "--config.steps=12")
    assert process.wait(timeout=120) == 0
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", *COMMAND, f"--workdir={tmp_path}", *TINY],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert limited.returncode == 1, limited.stdout + limited.stderr
    error = limited.stderr.strip().splitlines()[-1]
    assert error.startswith("error: saving step") and "step 12" in error, limited.stderr
    again = run(tmp_path, *TINY)
    assert "continuing from step 12 of 30" in again.stdout


@pytest.mark.slow
def test_what_the_readme_promises_of_the_digits_recipe(tmp_path):
    """One label a class: at least 10 points above raw pixels, and 75%."""
    run_optimised(
        tmp_path, "--config=simclr:digits", "--config.eval.every_epochs=0",
        "--config.eval.final_names=('few_shot',)", "--config.log.report=False", timeout=900,
    )  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    score, raw = (results[name]["few_shot/1"] for name in ("SimCLR", "raw pixels"))
    assert score >= max(0.75, raw + 0.10)
    assert not [row for row in metrics.read_metrics(tmp_path) if "warning" in row]


@pytest.mark.slow
def test_a_third_of_the_documented_run_on_the_embedded_text_beats_frequencies(tmp_path):
    """The whole one predicts three times as many hidden tokens as frequencies do."""
    run_optimised(tmp_path, "--config=bert:pydoc", "--config.epochs=4", "--config.log.report=False",
        "--config.eval.every_epochs=0", timeout=900)  # fmt: skip
    scores = json.loads((tmp_path / "results.json").read_text())["results"]
    trained, unigram = scores["BERT"], scores["unigram"]
    assert trained["held_out/accuracy"] > 2 * unigram["held_out/accuracy"]
    assert trained["held_out/perplexity"] < 0.65 * unigram["held_out/perplexity"]


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["blockwise", "ring"])
def test_two_processes_train_the_run_that_one_trains(finished, tmp_path, implementation):
    """And tile by tile the run that the whole matrix trains."""
    how = f"--config.method.implementation={implementation}", "--config.method.block_size=32"
    done = subprocess.run(
        [sys.executable, "launch/multiprocess_local.py", "--num_processes=2", "--",
         *COMMAND, f"--workdir={tmp_path}", *TINY, *how],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = losses(finished(1)), losses(tmp_path)
    assert one.keys() == two.keys()
    steps = sorted(one)[:8]  # Adam magnifies rounding later
    np.testing.assert_allclose([two[s] for s in steps], [one[s] for s in steps], rtol=1e-4)


@pytest.mark.slow
def test_a_folder_of_images_without_labels(tmp_path):
    """Unlabelled, of mixed sizes, one of them broken: trains, reports, embeds."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        height, width = rng.integers(20, 60, 2)
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:100])
    workdir = tmp_path / "run"
    arguments = [
        "--config=configs/simclr.py:folder", f"--config.data.name=folder:{folder}",
        "--config.data.image_size=16", "--config.views.random_resized_crop.size=16",
        "--config.model.name=convnet", "--config.model.widths=(4,8,8)", "--config.batch_size=8",
        "--config.data.workers=0", "--config.method.hidden_dim=8", "--config.method.output_dim=8",
        "--config.steps=6", "--config.log.every_steps=1", "--config.optimizer.warmup_epochs=0",
        "--config.profile_steps=(2,3)",
    ]  # fmt: skip
    done = run(workdir, *arguments)
    assert "no labels" in done.stdout and "07.png" in done.stdout
    assert (workdir / "report.html").exists()
    assert list((workdir / "profile").rglob("*.xplane.pb")), "a trace of steps 2 and 3"
    output = tmp_path / "out.parquet"
    run(workdir, f"--output={output}", module="embed")
    import pyarrow.parquet as pq

    table = pq.read_table(output)
    assert sorted(table["name"].to_pylist()) == sorted(
        f.name for f in folder.iterdir() if f.name != "07.png"
    )
