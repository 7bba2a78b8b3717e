"""Sweeps as a user runs them: a grid, a failing cell, an interruption, the collected results."""

import csv
import dataclasses
import itertools
import json
import runpy
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest
from etils import epath

from ssl_jax import config as config_lib
from ssl_jax import data, evals
from ssl_jax.cli import sweep
from ssl_jax.core.errors import UserError
from ssl_jax.data import catalog, subsplit
from ssl_jax.experiment.build import Experiment
from ssl_jax.run import workdir_lock
from ssl_jax.sweeps import ablation, grid, results, runner
from ssl_jax.sweeps.ablation import Curve
from tests import commands
from tests.commands import ROOT, TINY, environment, wait_for_step

OVERRIDES = dict(flag.removeprefix("--config.").split("=", 1) for flag in TINY[1:])
SWEEP = f"""
from ssl_jax.sweeps.grid import Cell, Sweep, product

OVERRIDES = {{key: eval(value) if value[0] in "(0123456789TF" else value
              for key, value in {OVERRIDES!r}.items()}}
OVERRIDES |= {{"eval.baselines": ("pixels", "untrained")}}

def get_sweep(variant="good"):
    cells = [
        Cell(labels, "configs/simclr.py:digits",
             {{**OVERRIDES, "steps": 4, "method.temperature": labels["t"], "seed": labels["seed"]}})
        for labels in product(t=(0.1, 0.5), seed=(0,))
    ]
    if variant == "broken":
        more = {{"data.name": "folder:/nowhere/at/all"}}
        cells.insert(0, Cell({{"t": 0.0, "seed": 0}}, "configs/simclr.py:digits", more))
    if variant == "long":
        cells = [Cell({{"t": 0.1, "seed": 0}}, "configs/simclr.py:digits",
                      {{**OVERRIDES, "steps": 4000}})]
    if variant == "wrong":
        cells = [Cell({{"t": 0.1, "seed": 0}}, "configs/simclr.py:digits", {{"batch_sise": 4}})]
    return Sweep("temperatures", tuple(cells))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "temperatures.py"
    path.write_text(SWEEP)
    return path


def start(config, workdir, *arguments):
    arguments = (f"--config={config}", f"--workdir={workdir}", *arguments)
    return commands.launch("sweep", *arguments, environment=environment())


def run(config, workdir, *arguments):
    arguments = (f"--config={config}", *arguments)
    return commands.run(workdir, *arguments, module="sweep", check=False)


@pytest.mark.slow
def test_a_grid_with_a_failing_cell(file, tmp_path):
    listed = run(f"{file}:broken", tmp_path, "--dry_run")
    assert listed.returncode == 1 and "nowhere" in listed.stderr  # no data, no length
    one = run(file, tmp_path, "--cell=1")  # one cell may be asked for
    assert one.returncode == 0, one.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["t=0.5,seed=0"]
    collected = run(file, tmp_path, "--collect")
    assert "1 of 2 cells" in collected.stdout and (tmp_path / "results.csv").exists()
    done = run(f"{file}:broken", tmp_path)
    assert done.returncode == 1, done.stderr
    assert "[1/3] t=0.0,seed=0: FAILED with exit code 1" in done.stdout
    assert f"failed: t=0.0,seed=0, see {tmp_path}/t=0.0,seed=0/log.txt" in done.stdout
    assert "/nowhere/at/all" in (tmp_path / "t=0.0,seed=0" / "log.txt").read_text()
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["t"], row["seed"], row["step"]) for row in rows] == [
        ("0.1", "0", "4"),
        ("0.5", "0", "4"),
    ]
    for row in rows:
        found = json.loads((tmp_path / f"t={row['t']},seed=0" / "results.json").read_text())
        assert float(row["knn/top1"]) == found["results"]["SimCLR"]["knn/top1"]
        assert int(row["trained_parameters"]) == found["sizes"]["trained_parameters"] > 0
        # Parameters, and Adam's two moments of each.
        assert int(row["state_bytes"]) >= 3 * 4 * int(row["trained_parameters"])
        raw = found["results"]["raw pixels"]["knn/top1"]
        assert float(row["raw pixels/knn/top1"]) == raw

    # Again: the finished ones are skipped.
    before = (tmp_path / "t=0.1,seed=0" / "metrics.jsonl").stat().st_mtime_ns
    again = run(file, tmp_path)
    assert again.returncode == 0 and again.stdout.count("finished") == 2
    assert (tmp_path / "t=0.1,seed=0" / "metrics.jsonl").stat().st_mtime_ns == before
    listed = run(file, tmp_path, "--dry_run")
    assert listed.returncode == 0 and listed.stdout.count("finished") == 3
    assert "2 cells: 2 finished" in listed.stdout
    assert "512 examples in all (steps x batch); 0 examples to go" in listed.stdout
    # What a machine left of a results.json when it went down is no result.
    path = tmp_path / "t=0.5,seed=0" / "results.json"
    whole = path.read_text()
    path.write_text(whole[:-20])
    listed = run(file, tmp_path, "--dry_run")
    assert "2 cells: 1 finished, 1 begun" in listed.stdout
    assert "512 examples in all (steps x batch); 256 examples to go" in listed.stdout
    path.write_text(whole)


@pytest.mark.slow
def test_an_interrupted_sweep_continues(file, tmp_path):
    process = start(f"{file}:long", tmp_path)
    cell = tmp_path / "t=0.1,seed=0"
    wait_for_step(process, cell, 6)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143, process.output()
    assert "the same command continues" in process.output()
    assert list((cell / "checkpoints").iterdir())
    assert not (tmp_path / "results.csv").exists()
    assert "begun" in run(f"{file}:long", tmp_path, "--dry_run").stdout


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_a_cell_starts_stops_the_sweep_and_fails_nothing(
    signum, code, file, tmp_path
):
    process = start(file, tmp_path)
    deadline = time.monotonic() + 60
    while not process.output().endswith(": runs\n"):
        assert process.poll() is None and time.monotonic() < deadline, process.output()
        time.sleep(0.01)
    process.send_signal(signum)
    assert process.wait(timeout=60) == code, process.output()
    output = process.output()
    assert "the same command continues" in output and "FAILED" not in output
    assert output.count(": runs") == 1  # no other cell has begun


def test_the_exit_code_of_one_cell_is_that_of_its_training(file, tmp_path, monkeypatch, capsys):
    """So that a supervisor can tell what a restart may mend; of a whole sweep it is 1."""
    python = tmp_path / "python"  # whatever it is to run is killed for want of memory
    python.write_text("#!/bin/sh\nkill -9 $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    given = dict(config=str(file), workdir=str(tmp_path / "runs"), set=[])
    for cell, code in (("0", 137), (None, 1)):
        flags = types.SimpleNamespace(**given, cell=cell, dry_run=False, collect=False)
        monkeypatch.setattr(sweep, "flags", types.SimpleNamespace(FLAGS=flags))
        assert sweep.main() == code
        assert "FAILED with exit code 137" in capsys.readouterr().out


def test_what_is_wrong_is_said_before_anything_runs(file, tmp_path):
    for arguments, message in (
        ((f"{file}:wrong", tmp_path), "batch_sise"),
        ((file, tmp_path / "a[1]"), "the path of a workdir cannot contain [ ]"),
        ((file, tmp_path, "--cell=7"), "there is no cell '7'; cells are 0 to 1"),
        (("configs/simclr.py", tmp_path), "is not a sweep"),
        (("nowhere.py", tmp_path), "file 'nowhere.py' does not exist"),
        (("configs/sweeps/methods.py:digit", tmp_path), "Did you mean 'digits'"),
        (("configs/sweeps/linear.py", tmp_path), "needs --set=init_from=..., the pretrained run"),
    ):
        done = run(*arguments)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_ablation_is_averaged_over_seeds_and_drawn(file, tmp_path, capsys):
    cells = tuple(
        grid.Cell({"l2": True, "t": t, "seed": seed}, "configs/simclr.py:digits",
                  {"method.temperature": t, "seed": seed, "steps": 20})
        for t in (0.05, 0.1, 0.5, 1.0) for seed in (0, 1)
    )  # fmt: skip
    shared = dict(x="t", x_label="temperature", series="l2", published="simclr_table_5")
    curves = (
        Curve(measure="few_shot/1", measure_label="top-1", **shared),
        Curve(measure="train/entropy", measure_label="entropy", percent=False,
              published_measure="entropy", **shared),
    )  # fmt: skip
    swept = grid.Sweep("Temperatures", cells, setting="digits", curves=curves)
    for cell in cells[:-1]:  # the last one is not finished
        folder = tmp_path / cell.name
        folder.mkdir()
        t, seed = cell.labels["t"], cell.labels["seed"]
        of_z, of_h = {"few_shot/1": 0.2}, {"few_shot/1": t / 2 + seed / 10}
        found = {"step": 20, "results": {"SimCLR, z": of_z, "SimCLR": of_h}}
        (folder / "results.json").write_text(json.dumps(found))
        (folder / "config.json").write_text(config_lib.to_json(cell.load()))
        lines = [{"step": step, "train/entropy": step + t} for step in range(1, 21)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    rows = sweep.collect(swept, epath.Path(tmp_path))
    said = capsys.readouterr().out
    assert len(rows) == 7 and rows[1]["z/few_shot/1"] == 0.2
    assert rows[0]["train/entropy"] == pytest.approx(19.5 + 0.05)  # steps 19 and 20
    assert "mean over 1 seed that all settings have, std over up to 2" in " ".join(said.split())
    assert "7 of 8 cells" in said
    assert "2.5 ± 7.1" in said and "19.55 ± 0.00" in said
    # Ours grows with t; published: 59.7, 64.4, 60.7, 58.0.
    assert "top-1 beside SimCLR (Chen et al. 2020), Table 5: Spearman −0.40 over 4" in said
    assert "entropy beside SimCLR (Chen et al. 2020), Table 5: Spearman 1.00 over 4" in said
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    # A curve over what the cells do not have is refused at once.
    wrong = dict(measure="few_shot/1", measure_label="top-1", x_label="", x="tau")
    with pytest.raises(UserError, match="uses the label 'tau'; the cells have l2, t, seed"):
        grid.Sweep("", cells, curves=(Curve(**wrong),))
    with pytest.raises(UserError, match="has no cells"):
        grid.Sweep("empty", ())


CLASSES = """
from ml_collections import ConfigDict

from ssl_jax.configs import simclr

def get_config(variant="digits"):
    config = simclr.get_config(variant)
    config.eval.{name} = ConfigDict({{"evaluation": "linear"}})
    return config
"""


def finish(cell, workdir, scores):
    """Writes what a finished cell of 20 steps leaves behind."""
    folder = workdir / cell.name
    folder.mkdir()
    found = {"step": 20, "results": {"SimCLR": scores}}
    (folder / "results.json").write_text(json.dumps(found))
    (folder / "config.json").write_text(config_lib.to_json(cell.load()))


def test_the_best_cell_is_chosen_and_shown_as_the_metric_says(tmp_path, capsys):
    cells = tuple(
        grid.Cell({"seed": seed}, "simclr:digits", {"seed": seed, "steps": 20}) for seed in (0, 1)
    )
    for cell in cells:
        seed = cell.labels["seed"]
        scores = {"knn/top1": 0.25 * seed, "held_out/psnr": 18.28 - seed, "held_out/loss": 2 - seed}
        finish(cell, tmp_path, scores)
    for metric, said in (
        ("knn/top1", "best knn/top1: 25.0% with seed 1"),
        ("held_out/psnr", "best held_out/psnr: 18.28 dB with seed 0"),
        ("held_out/loss", "best held_out/loss: 1.000 nats with seed 1"),
    ):
        sweep.collect(grid.Sweep("", cells, metric=metric), epath.Path(tmp_path))
        assert capsys.readouterr().out.splitlines()[-1].startswith(said)


def test_evaluations_that_configs_add_are_averaged_too(tmp_path, capsys):
    for name in ("shape", "colour"):
        (tmp_path / f"{name}.py").write_text(CLASSES.format(name=name))
    cells = tuple(
        grid.Cell({"of": name, "seed": seed}, f"{tmp_path}/{name}.py", {"seed": seed, "steps": 20})
        for name in ("shape", "colour") for seed in (0, 1)
    )  # fmt: skip
    for cell in cells:
        scores = {f"{cell.labels['of']}/top1": 0.5 + cell.labels["seed"] / 10, "knn/top1": 0.25}
        finish(cell, tmp_path, scores)
    sweep.collect(grid.Sweep("Two evaluations", cells), epath.Path(tmp_path))
    head, _, shape, colour = capsys.readouterr().out.splitlines()[-4:]
    assert head.split() == ["of", "shape/top1,", "%", "knn/top1,", "%", "colour/top1,", "%"]
    assert shape.split() == ["shape", "55.0", "±", "7.1", "25.0", "±", "0.0", "–"]
    assert colour.split() == ["colour", "–", "25.0", "±", "0.0", "55.0", "±", "7.1"]


# Of ablations without images: the variants that are the paper's.
PAPERS = {
    "cpc_audio": ("librispeech",),
    "glue": ("bert_base",),
    "roberta_data_steps": ("paper", "finetune"),
}


def test_published_settings_are_cells_of_the_papers_variant():
    """Else a label is spelled differently, and a point would silently stand beside nothing."""
    # Columns and rows that only the papers have.
    unswept = {"AutoAugment", "supervised", "BiLSTM+ELMo", "GPT", "BERT-large", ablation.AVERAGE}
    for path in (ROOT / "configs" / "ablations").glob("[a-z]*.py"):
        variants = runpy.run_path(str(path))["VARIANTS"]
        papers = PAPERS.get(path.stem, ("imagenet",) if "imagenet" in variants else ())
        if not papers:
            curves = grid.load(f"{path}:{variants[0]}").curves
            assert not any(curve.published for curve in curves), path.name
        loaded = [grid.load(f"{path}:{variant}") for variant in papers]
        for swept, curve in ((one, curve) for one in loaded for curve in one.curves):
            for point in ablation.published_points(curve):
                if unswept & {point.x, point.series} or curve.published_measure == "order":
                    continue
                wanted = {curve.x: point.x, **curve.where}
                wanted |= {curve.series: point.series} if curve.series else {}
                found = [cell for cell in swept.cells if wanted.items() <= cell.labels.items()]
                assert found, (path.name, wanted)


def test_small_settings_stand_for_published_ones():
    others = [ROOT / "configs" / "sweeps" / "methods_vit.py"]
    for path in [*(ROOT / "configs" / "ablations").glob("[a-z]*.py"), *others]:
        for variant in runpy.run_path(str(path))["VARIANTS"]:
            swept = grid.load(f"{path}:{variant}")
            rows = [
                {**cell.labels, **{c.measure.format(**cell.labels): 0.5 for c in swept.curves}}
                for cell in swept.cells
            ]
            for curve in swept.curves:
                table = ablation.table_of(curve)
                if table is None or not table.rows:
                    continue
                points = ablation.points(rows, swept.labels, curve)
                beside = [point for point in points if point.published is not None]
                if (path.stem, variant) == ("glue", "roberta"):  # whose table has no RoBERTa
                    assert not beside
                    continue
                assert len(beside) >= (2 if curve.published.startswith("moco") else 3), path.name


# One cell of each, small enough for a test.
SMALL = {
    "cpc_audio": ("speech", "negatives=current,steps=12,seed=0"),
    "cpc_v2": ("small_shapes", "change=augmentation,seed=0"),
    "glue": ("bert_base", "model=BERT-base,task=stsb,score=spearman,seed=0"),
    "long_tail": ("small_shapes", "margin=adaptive,rarest=0.1,seed=0"),
    "moco_negatives": ("digits", "dictionary=bank,K=64,m=0.99,seed=0"),
    "moco_v2": ("small_shapes", "recipe=MLP,_aug+,_cos,seed=0"),
    "moco_v2_batch": ("digits", "length=short,method=moco_v2,batch=64,seed=0"),
    "roberta_data_steps": ("pydoc", "data=a_tenth,steps=400,seed=0"),
    "rotnet_epochs": ("digits", "epochs=5.0,seed=0"),
    "rotnet_rotations": ("digits", "rotations=0_180,seed=0"),
    "simclr_augmentations": ("small_shapes", "first=crop,second=color,seed=0"),
    "simclr_batch_size": ("digits", "scaling=sqrt,epochs=20,batch=32,seed=0"),
    "simclr_color": ("small_shapes", "training=SimCLR,strength=1_+_blur,seed=0"),
    "simclr_depth_width": (
        "small_shapes",
        "training=simclr,depth=10,width=0.125,seed=0,probe=linear,params=0.0774",
    ),
    "simclr_few_labels": ("digits", "method=SimCLR,fraction=0.01,seed=0"),
    "simclr_head": ("digits", "head=none,dim=128,seed=0"),
    "simclr_knows": ("small_shapes", "task=sobel,seed=0"),
    "simclr_losses": ("digits", "loss=NT-Xent,setting=0.1,lr=0.003,seed=0"),
    "simclr_temperature": ("digits", "l2=False,t=10.0,seed=0"),
    "two_views_know": ("digits", "method=byol,seed=0"),
    "vae_beta": ("small_shapes", "beta=4.0,seed=0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ("moco_negatives", "simclr_color", "simclr_head", "simclr_knows"))
def test_a_cell_of_an_ablation_runs_and_is_drawn(name, tmp_path):
    variant, cell = SMALL[name]
    source = f"configs/ablations/{name}.py:{variant}"
    small = ["model.widths=(4,8,8)", "eval.few_shot.draws=2", "eval.linear.num_l2=2"]
    done = run(source, tmp_path, f"--cell={cell}", "--set=steps=4",
               *(f"--set={text}" for text in small))  # fmt: skip
    log = tmp_path / cell / "log.txt"
    assert done.returncode == 0, log.read_text() if log.exists() else done.stderr
    collected = run(source, tmp_path, "--collect", "--set=steps=4",
                    *(f"--set={text}" for text in small))  # fmt: skip
    assert collected.returncode == 0, collected.stderr
    assert (tmp_path / "results.png").exists(), collected.stdout
    (row,) = csv.DictReader((tmp_path / "results.csv").open())
    for curve in grid.load(source).curves:
        if all(str(value) == row[label] for label, value in curve.where.items()):
            assert 0 <= float(row[curve.measure.format(**row)]) < 10, curve.measure


@pytest.mark.parametrize("name", SMALL)
def test_a_cell_of_each_ablation_measures_what_is_drawn(name):
    variant, cell_name = SMALL[name]
    swept = grid.load(f"configs/ablations/{name}.py:{variant}")
    (cell,) = (cell for cell in swept.cells if cell.name == cell_name)
    config = named(cell).load()
    names = (*config.eval.names, *config.eval.final_names)
    evaluations = (*evals.load_all(names, config.eval), *evals.automatic(config.eval))
    known = {evaluation.name: evaluation for evaluation in evaluations}
    for curve in swept.curves:
        measure = curve.measure.format(**cell.labels)
        if measure.startswith("train/"):  # of the log
            continue
        for feature in config.eval.features:
            measure = measure.removeprefix(f"{feature}/")
        evaluation, _, metric = measure.partition("/")
        assert known[evaluation].metric(metric) is not None, measure


def test_every_ablation_has_a_cell_that_is_checked():
    assert set(SMALL) == {path.stem for path in (ROOT / "configs" / "ablations").glob("[a-z]*.py")}


@pytest.mark.parametrize(
    ("source", "label", "repeated"),
    (
        ("ablations/moco_v2_batch", "length", {"short"}),
        ("ablations/rotnet_epochs", "epochs", {1.0, 8.0}),
        ("ablations/simclr_batch_size", "epochs", {5}),
        ("sweeps/few_labels", "labels", {8}),
    ),
)
def test_some_settings_on_photos_have_three_seeds_and_the_others_one(source, label, repeated):
    cells = grid.load(f"configs/{source}.py:fashion").cells
    assert {cell.labels[label] for cell in cells} > repeated
    for cell in cells:
        seeds = [
            other.labels["seed"]
            for other in cells
            if {**other.labels, "seed": 0} == {**cell.labels, "seed": 0}
        ]
        assert seeds == ([0, 1, 2] if cell.labels[label] in repeated else [0])


def test_longer_runs_of_moco_v2_keep_the_checkpoints_of_their_configs():
    for cell in grid.load("configs/ablations/moco_v2_batch.py:imagenet").cells:
        config, default = cell.load(), config_lib.load(cell.config)
        assert config.checkpoint.every_epochs == default.checkpoint.every_epochs
        assert config.epochs >= 200
    for cell in grid.load("configs/ablations/moco_v2_batch.py:fashion").cells:
        config = cell.load()
        assert config.checkpoint.every_epochs == config.epochs
        assert config.optimizer.base_lr == pytest.approx(2e-3 * (config.batch_size / 256) ** 0.5)


def test_panels_of_moco_v2_say_how_long_runs_are():
    curves = grid.load("configs/ablations/moco_v2_batch.py:fashion").curves
    assert [curve.panel for curve in curves] == ["8 epochs", "20 epochs"]
    assert [curve.published_panel for curve in curves] == ["200 epochs", "1000 and 800 epochs"]


def test_batches_of_the_paper_warm_up_for_ten_epochs_however_long_they_train():
    for cell in grid.load("configs/ablations/simclr_batch_size.py:imagenet").cells:
        config = cell.load()
        assert config.optimizer.warmup_epochs == 10 and config.epochs in (100, 200, 400, 800)
        assert config.optimizer.base_lr == pytest.approx(
            {"linear": 0.3, "sqrt": 0.075}[cell.labels["scaling"]]
        )


_HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_cell_that_another_sweep_runs_is_left_to_it(tmp_path, capsys):
    cell = grid.Cell({"seed": 0}, "configs/simclr.py:digits")
    folder = tmp_path / cell.name
    folder.mkdir()
    (folder / runner.LOG).write_text("of the other sweep")
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, folder / "lock.json"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout.readline() == "held\n"
        failed, stopped = runner.run([cell], epath.Path(tmp_path))
        assert (failed, stopped) == ({cell.name: 1}, 0)  # it is not finished
        assert workdir_lock.is_held(folder)
        holder.stdin.close()
    assert "[1/1] seed=0: runs in another process" in capsys.readouterr().out
    assert (folder / runner.LOG).read_text() == "of the other sweep"
    assert not workdir_lock.is_held(folder) and not workdir_lock.is_held(tmp_path / "none")


def test_to_ask_whether_a_cell_runs_takes_and_frees_no_lock(tmp_path):
    workdir = epath.Path(tmp_path) / "cell"
    lock = workdir_lock.acquire(workdir)
    try:
        assert not workdir_lock.is_held(workdir)  # by another process
        command = [sys.executable, "-c", _HOLD.replace("LOCK_EX", "LOCK_EX | fcntl.LOCK_NB"),
                   workdir / "lock.json"]  # fmt: skip
        assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    finally:
        lock.release()


def test_a_cell_that_another_sweep_finished_meanwhile_did_not_fail(tmp_path, monkeypatch, capsys):
    cell, found = grid.Cell({"seed": 0}, "configs/simclr.py:digits"), iter([None, {}, {}])
    monkeypatch.setattr(runner, "results_of", lambda *_: next(found))
    monkeypatch.setattr(runner, "_train", lambda *_: 1)  # refused
    assert runner.run([cell], epath.Path(tmp_path)) == ({}, 0)
    assert "was run in another process" in capsys.readouterr().out


def test_the_log_keeps_the_parts_of_an_interrupted_cell(tmp_path, monkeypatch):
    cell = grid.Cell({"seed": 0}, "configs/simclr.py:digits")
    monkeypatch.setattr(sys, "executable", shutil.which("echo"))
    for _ in range(2):
        assert runner.run([cell], epath.Path(tmp_path)) == ({}, 0)
    assert (tmp_path / cell.name / runner.LOG).read_text().count("-m ssl_jax train") == 2


def test_cells_have_names_of_their_own():
    cell = grid.Cell({"m": "a/b c", "seed": 1}, "x.py")
    assert cell.name == "m=a_b_c,seed=1"
    with pytest.raises(UserError, match="share a name: m=a_b_c,seed=1"):
        grid.Sweep("", (cell, cell))
    with pytest.raises(UserError, match="different labels"):
        grid.Sweep("", (cell, grid.Cell({"m": "a"}, "x.py")))
    assert grid.product(a=(1, 2), b="xy")[1] == {"a": 1, "b": "y"}
    cells = [grid.Cell(labels, "x.py") for labels in grid.product(a="xy", seed=(0, 1))]
    assert [cell.name for cell in grid.by_seed(cells)] == [
        "a=x,seed=0", "a=y,seed=0", "a=x,seed=1", "a=y,seed=1",
    ]  # fmt: skip
    assert [cell.name for cell in grid.by_seed(cells, lambda labels: labels["a"] == "y")] == [
        "a=x,seed=0", "a=y,seed=0", "a=y,seed=1",
    ]  # fmt: skip
    assert len(grid.by_seed(cells, lambda labels: False)) == 2


def test_settings_reach_every_cell_as_text():
    assert grid.parse_settings(["a.b=c=d", "config.x=1"]) == {"a.b": "c=d", "x": "1"}
    for given, message in (
        (["steps"], "--set=steps: write key=value"),
        (["=3"], "--set==3: write key=value"),
        (["steps=3", "config.steps=4"], "--set gives steps twice: '3' and '4'"),
    ):
        with pytest.raises(UserError, match=message):
            grid.parse_settings(given)
    cells = tuple(
        grid.Cell({"t": t}, "configs/simclr.py:digits", {"method.temperature": t, "batch_size": 32})
        for t in (0.1, 0.5)
    )
    wanting = grid.Sweep("", cells, needs={"init_from": "the run to start from"})
    given = {
        "init_from": "runs/t=0.1,seed=0", "model.widths": "(4, 8)", "steps": "7", "batch_size": "8",
        "eval.baselines": "()", "method.l2_normalize": "true", "optimizer.base_lr": "1e-2",
    }  # fmt: skip
    for cell, t in zip(wanting.with_overrides(given).cells, (0.1, 0.5), strict=True):
        config = cell.load()
        assert config.init_from == "runs/t=0.1,seed=0" and config.model.widths == (4, 8)
        assert (config.steps, config.epochs, config.batch_size) == (7, None, 8)
        assert config.eval.baselines == () and config.method.l2_normalize is True
        assert config.optimizer.base_lr == 0.01 and config.method.temperature == t
        assert cell.name == f"t={t}"
    # A length given for all takes the place of the other kind in the cells.
    long = grid.Sweep("", (dataclasses.replace(cells[0], overrides={"epochs": 9.0}),))
    config = long.with_overrides({"steps": "3"}).cells[0].load()
    assert (config.steps, config.epochs) == (3, None)
    lengths = tuple(
        grid.Cell({"epochs": epochs}, "configs/simclr.py:digits", {"epochs": epochs})
        for epochs in (5.0, 8.0)
    )
    with pytest.raises(UserError, match=r"--set=steps=... .* differ in epochs \(5.0, 8.0\)"):
        grid.Sweep("", lengths).with_overrides({"steps": "3"})
    for values, message in (
        ({"init_from": "x", "method.temperature": "1"}, r"cells .* differ in it \(0.1, 0.5\)"),
        ({}, "this sweep needs --set=init_from=..., the run to start from"),
    ):
        with pytest.raises(UserError, match=message):
            wanting.with_overrides(values)
    for values, message in (
        ({"optimizer.base_rl": "1"}, "cell t=0.1: unknown config key optimizer.base_rl.*'base_lr'"),
        ({"steps": "many"}, "cell t=0.1: steps is .many.; use a whole number"),
        ({"steps": "1", "epochs": "2"}, "exactly one of epochs and steps"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            wanting.with_overrides({"init_from": "x", **values}).cells[0].load()
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_learning_rate_of_a_linear_probe_is_chosen_without_the_test_split(tmp_path, capsys):
    pretrained, swept = tmp_path / "pre=1,train", tmp_path / "rates"
    commands.run(pretrained, *TINY, "--config.steps=4", "--config.eval.final_names=()")
    settings = [
        f"init_from={pretrained}", "steps=6", "batch_size=64", "model.widths=(4,8,8)",
        "log.report=False", "log.tensorboard=False",
    ]  # fmt: skip
    for number in (0, 4):
        done = run("configs/sweeps/linear.py:digits", swept, f"--cell={number}",
                   *(f"--set={text}" for text in settings))  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    chosen = grid.load("configs/sweeps/linear.py:digits")
    chosen = chosen.with_overrides(grid.parse_settings(settings))
    assert f"starts from {pretrained}: step 4" in (
        (swept / chosen.cells[0].name / "log.txt").read_text()
    )
    rows = sweep.collect(chosen, epath.Path(swept))
    assert [row["base_lr"] for row in rows] == [0.03, 3.0]
    best = max(rows, key=lambda row: row["accuracy/top1"])
    said = capsys.readouterr().out
    assert "2 of 5 cells" in said
    assert f"best accuracy/top1: {best['accuracy/top1']:.1%} with base_lr {best['base_lr']}" in said
    # A share of the 288 examples held out.
    hits = 288 * best["accuracy/top1"]
    assert len(data.load("digits", "train[80%:]")) == 288 and abs(hits - round(hits)) < 1e-6

    # Of another encoder nothing is known, and the folder says whose results it holds.
    other = {**grid.parse_settings(settings), "init_from": "runs/other"}
    other = grid.load("configs/sweeps/linear.py:digits").with_overrides(other)
    with pytest.raises(UserError, match="base_lr=0.03 contains a run of another config .init_from"):
        sweep.collect(other, epath.Path(swept))


def all_sweeps():
    files = (
        (ROOT / "configs").glob("sweeps/[a-z]*.py"),
        (ROOT / "configs").glob("ablations/[a-z]*.py"),
    )
    for path in itertools.chain(*files):
        for variant in runpy.run_path(str(path))["VARIANTS"]:
            yield f"{path}:{variant}"


def test_the_cells_of_the_projects_sweeps_load():
    for source in all_sweeps():
        # One of each kind: the others differ in values only.
        cells = grid.load(source).cells
        kinds = {(cell.config.partition(":")[0], *cell.overrides): cell for cell in cells}
        for cell in kinds.values():
            named(cell).load()


def shaping(cell):
    """The overrides of a cell that decide which parameters there are, numbers by their type."""
    sections = ("method", "model", "nets", "optimizer", "adapt")
    return tuple(
        (key, type(value) if value and isinstance(value, int | float) else value)
        for key, value in cell.overrides.items()
        if key.partition(".")[0] in sections
    )


@pytest.mark.slow
def test_the_parameters_of_every_kind_of_cell_have_an_optimizer():
    """A cell may leave out a net that the config names an optimizer group for."""
    for source in all_sweeps():
        if source.rpartition(":")[2] not in ("digits", "small_shapes", "speech"):
            continue
        kinds = {(cell.config, shaping(cell)): cell for cell in grid.load(source).cells}
        for cell in (cell for (_, overrides), cell in kinds.items() if overrides):
            config = cell.load()
            config.eval.online = False
            spec = data.spec_from_config(config.data)
            assert Experiment.build(config, spec).abstract_state.params, (source, cell.name)


def named(cell):
    """The cell; one that takes its net from a pretrained run names the net: there is no run."""
    nets = {"finetune": "bert_tiny", "transfer": "resnet50"}
    net = nets.get(cell.config.partition(":")[0])
    if net is None:
        return cell
    overrides = {key: value for key, value in cell.overrides.items() if key != "init_from"}
    return dataclasses.replace(cell, overrides={**overrides, "model.name": net})


def test_what_a_linear_probe_is_chosen_on_it_has_not_learnt_from():
    for variant in runpy.run_path(str(ROOT / "configs/sweeps/linear.py"))["VARIANTS"]:
        cells = grid.load(f"configs/sweeps/linear.py:{variant}").cells
        rates = [cell.load().optimizer.base_lr for cell in cells]
        assert len(set(rates)) == len(cells) and rates == sorted(rates)
        recipe = config_lib.load(cells[0].config)
        assert recipe.optimizer.base_lr in rates and recipe.data.split == "train"
        for cell in cells:
            config = cell.load()
            kind, location = catalog.kind_of(config.data.name)
            sizes = kind.facts(location, {}).splits
            learnt, chosen = (
                subsplit.parse(split, tuple(sizes), sizes.__getitem__)
                for split in (config.data.split, config.eval.test_split)
            )
            (learnt,), (chosen,) = learnt, chosen
            assert learnt.split == chosen.split == "train"
            assert (learnt.start, learnt.stop, chosen.stop) == (0, chosen.start, sizes["train"])


def test_representations_of_all_cells_stand_side_by_side(monkeypatch):
    cells = [grid.Cell({"method": name}, "simclr:digits") for name in ("a", "b", "c")]
    rows = {
        "a": {"raw pixels": {"x": 1.0}, "untrained encoder": {"x": 2.0}, "SimCLR, z": {"x": 3.0},
              "SimCLR": {"x": 4.0}},
        "b": {"raw pixels": {"x": 1.0}, "untrained encoder": {"x": 5.0}, "VAE": {"x": 6.0}},
    }  # fmt: skip

    def results_of(cell, workdir):
        found = rows.get(cell.labels["method"])
        return None if found is None else {"results": found, "step": 1}

    monkeypatch.setattr(results, "results_of", results_of)
    compared = results.representations_of(grid.Sweep("t", tuple(cells)), epath.Path("."))
    assert compared == {
        "raw pixels": {"x": 1.0}, "untrained SimCLR": {"x": 2.0}, "untrained VAE": {"x": 5.0},
        "SimCLR, z": {"x": 3.0}, "SimCLR": {"x": 4.0}, "VAE": {"x": 6.0},
    }  # fmt: skip
    assert next(iter(compared)) == "raw pixels" and list(compared)[-1] == "VAE"
    rows["c"] = {"SimCLR": {"x": 7.0}}  # two cells with one method
    names = list(results.representations_of(grid.Sweep("t", tuple(cells)), epath.Path(".")))
    assert names[-3:] == ["SimCLR, a", "VAE", "SimCLR, c"] and "untrained SimCLR, a" in names
