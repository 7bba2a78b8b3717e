"""Command lines that are wrong end in one clear line and exit code 1."""

import subprocess
import sys

import pytest


def run(*arguments, module="ssl_jax.train"):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
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
        (("--workdr=x",), "workdr"),
        (("stray",), "unexpected argument 'stray'"),
        (
            ("--workdir=x", "--config=configs/simclr.py", "--config.data.name=digit"),
            "Did you mean 'digits'?",
        ),
        (
            ("--workdir=x", "--config=configs/simclr.py", "--config.batch_size=5000"),
            "larger than the training set",
        ),
        (
            ("--workdir=/proc/x", "--config=configs/simclr.py"),
            "--workdir=/proc/x cannot be written",
        ),
        (
            ("--workdir=x", "--config=configs/simclr.py", "--config.method.name=simclear"),
            "Did you mean 'simclr'?",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, expected):
    done = run(*arguments)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert expected in lines[0]


@pytest.mark.parametrize("module", ["ssl_jax.evaluate", "ssl_jax.embed"])
def test_a_workdir_that_is_no_run(module, tmp_path):
    done = run(f"--workdir={tmp_path}", f"--output={tmp_path}/x.npz", module=module)
    if module == "ssl_jax.evaluate":
        done = run(f"--workdir={tmp_path}", module=module)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        f"error: {tmp_path} is not a run: it has no config.json"
    ]
