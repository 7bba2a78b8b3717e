"""Every target of the Makefile installs what it runs, in an empty folder too."""

import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# Programs of the environment, by the extra of setup.py that brings them.
EXTRAS = {"ssl_jax": ".", "python": "test", "ruff": "lint", "mypy": "lint", "mkdocs": "docs"}


@pytest.mark.parametrize("target", ["demo", "test", "lint", "docs", "slow"])
def test_a_target_installs_the_programs_that_it_runs(target, tmp_path):
    venv = tmp_path / "venv"
    environment = {name: v for name, v in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", target, f"VENV={venv}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    installed, ran = {"."}, set()
    assert lines[0].endswith(f"-m venv {venv}")
    for line in lines[1:]:
        if extra := re.search(r"pip install .*-e '?(\.)(?:\[(\w+)\])?", line):
            installed.add(extra[2] or extra[1])
        elif program := re.search(rf"{re.escape(str(venv))}/bin/(\w+)", line):
            ran.add(program[1])
            assert EXTRAS[program[1]] in installed, line
    assert ran
    if target == "slow":  # pytest's extra, and what the slow tests import
        assert {"test", "slow"} <= installed
