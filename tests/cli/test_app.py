"""Command lines that are wrong end in one clear line and exit code 1."""

import os
import subprocess
import sys

import pytest

from tests import commands


def run(*arguments, module="train"):
    return commands.finish(module, *arguments, environment=commands.environment())


WRONG = [
    ((), "--workdir is missing"),
    (("--workdir=x",), "--config is missing"),
    (("--workdir=x", "--config=configs/nope.py"), "'configs/nope.py' does not exist"),
    (("--workdir=x", "--config=configs/simclr.py:imagnet"), "Did you mean 'imagenet'?"),
    (
        ("--workdir=x", "--config=configs/simclr.py", "--config.optimizer.base_l=1"),
        "unknown config key optimizer.base_l;",
    ),
    (
        ("--workdir=x", "--config=configs/simclr.py", "--config.method.temprature=1"),
        "Did you mean 'temperature'?",
    ),
    (("--workdir=x", "--config=configs/simclr.py", "--config.epochs=ten"), "'ten'"),
    (
        ("--workdir=x", "--config=configs/bert.py", "--config.data.options.sequence_lenth=9"),
        "Did you mean 'sequence_length'?",
    ),
    (
        ("--workdir=x", "--config=configs/bert.py", "--config.data.options.rows=pair"),
        "Did you mean 'pairs'?",
    ),
    (("--workdir=x", "--config=configs"), "configs is no config file"),
    (("--workdir=x", "--config=README.md"), "README.md is no config file"),
    (
        ("--workdir=x", "--config=configs/sweeps/methods.py:digits"),
        "is a sweep: ssl_jax sweep --config=configs/sweeps/methods.py:digits",
    ),
    (
        ("--workdir=x", "--config=configs/simclr.py", "--config.steps=-4"),
        "steps is '-4'; use a whole number above 0",
    ),
    (
        ("--workdir=x", "--config=configs/simclr.py", "--config.optimizer.base_lr=-1"),
        "optimizer.base_lr is '-1'; use a number of at least 0",
    ),
    (("--workdr=x",), "there is no option --workdr. Did you mean 'workdir'?"),
    (
        ("--workdir=x", "--epochs=3"),
        "there is no option --epochs; a key of the config is --config.epochs=",
    ),
    (("--workdir=x", "--dry_run=maybe"), "use true or false"),
    (("--workdir=x", "--config=simcrl:digits"), "Did you mean 'simclr'? `ssl_jax list configs`"),
    (
        ("--workdir=x", "--config=configs/simclr.py", "--config.init_from=runs/nothing"),
        "init_from=runs/nothing: there is no such run, file or folder",
    ),
    (("stray",), "unexpected argument 'stray'"),
    (
        ("--workdir=x", "--config=configs/simclr.py", "--config.data.name=digit"),
        "did you mean 'digits'?",
    ),
    (
        ("--workdir=x", "--config=configs/simclr.py", "--config.batch_size=5000"),
        "larger than the data set",
    ),
    (
        ("--workdir=/proc/x", "--config=configs/simclr.py"),
        "--workdir=/proc/x cannot be written",
    ),
    (
        ("--workdir=x", "--config=configs/simclr.py", "--config.method.name=simclear"),
        "Did you mean 'simclr'?",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: " ".join(value))
def test_a_wrong_command_line_is_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert message in lines[0]
    assert not os.path.exists("x")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--step=last", "--step=last; use a whole number"),
        ("--weights=emma", "--weights=emma; use params, ema, polyak"),
        ("--config.steps=3", "--config.steps=3: this command takes the config of the run as it is"),
    ],
)
def test_a_wrong_option_of_a_run_is_one_line(argument, message):
    done = run("--workdir=x", argument, module="evaluate")
    assert done.returncode == 1 and done.stderr == f"error: {message}\n"


@pytest.mark.slow
def test_so_it_is_of_a_new_interpreter():
    command = [sys.executable, "-m", "ssl_jax", "train", "stray"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: unexpected argument 'stray'")


@pytest.mark.slow
def test_a_workdir_that_the_locale_cannot_name_is_refused_at_once(tmp_path):
    """In the locale C, checkpoints below it could not be written."""
    workdir, config = tmp_path / "grün", "--config=configs/simclr.py:digits"
    command = [sys.executable, "-m", "ssl_jax", "train", f"--workdir={workdir}", config]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        command, env={**os.environ, **plain}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and not workdir.exists()
    (line,) = done.stderr.strip().splitlines()
    assert "has letters that are not ASCII" in line and line.endswith("PYTHONUTF8=1")


@pytest.mark.parametrize("workdir", ["{tmp}/file", "{tmp}/file/x", "/proc/x"])
def test_a_sweep_has_a_workdir_that_can_be_written(tmp_path, workdir):
    (tmp_path / "file").touch()
    workdir = workdir.format(tmp=tmp_path)
    done = run(f"--workdir={workdir}", "--config=configs/sweeps/methods.py:digits", module="sweep")
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: --workdir={workdir} cannot be written: ")


@pytest.mark.slow
def test_a_warning_is_printed_once(tmp_path):
    """Libraries log while they are imported, for which absl adds a handler of its own."""
    (tmp_path / "empty.txt").touch()
    command = [
        sys.executable, "-m", "ssl_jax", "train", "--config=configs/bert.py:pydoc",
        f"--workdir={tmp_path}/x", f"--config.data.name=text:{tmp_path}/empty.txt",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    *lines, error = done.stderr.splitlines()
    assert error.endswith("has no text to train a tokenizer on")
    assert sum("training a wordpiece tokenizer" in line for line in lines) == 1


def test_a_config_file_with_a_mistake_is_named_with_its_line(tmp_path):
    (tmp_path / "c.py").write_text("x = 1\ndef get_config(:\n")
    done = run("--workdir=x", f"--config={tmp_path}/c.py")
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line == f"error: config file {tmp_path}/c.py, line 2: invalid syntax"


def test_a_sweep_says_how_keys_of_its_cells_are_set():
    sweep = "--config=configs/ablations/simclr_temperature.py:digits"
    done = run(sweep, "--workdir=x", "--dry_run", "--config.epochs=3", module="sweep")
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line == "error: --config.epochs=3: every cell is set by --set=epochs=3"


@pytest.mark.parametrize("module", ["evaluate", "embed"])
def test_a_workdir_that_is_no_run(module, tmp_path):
    done = run(f"--workdir={tmp_path}", f"--output={tmp_path}/x.npz", module=module)
    if module == "evaluate":
        done = run(f"--workdir={tmp_path}", module=module)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        f"error: {tmp_path} is not a run: it has no config.json"
    ]


@pytest.mark.slow
def test_what_takes_seconds_to_import_waits_until_it_is_needed():
    code = (
        "import sys; import ssl_jax.cli.train; from ssl_jax import evals; "
        "from ssl_jax.run import final_results, loop; evals.names(); "
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    heavy = {"scipy", "sklearn", "matplotlib", "tensorflow", "tensorflow_datasets", "torch"}
    assert not heavy & set(done.stdout.split())
