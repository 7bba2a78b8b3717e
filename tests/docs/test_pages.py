"""The pages of docs/ do what they say: their commands are run, in order, in a copy of the project.

Of a page, blocks marked `sh` are run. In `name=value   # or: name=other` the second one is taken,
with which a page says how to be quick. Blocks marked `python file=PATH` or `append=PATH` are
written to the copy. Blocks marked `console` need an account somewhere and are not run.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)?(?: (file|append)=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICKLY = re.compile(r"^(\w+)=.*?# or: (\1=.*)$", re.MULTILINE)
MINUTES = 25  # until a page counts as hanging


def script(page):
    """One bash script of a page's blocks."""
    parts = ["set -euo pipefail"]
    for language, how, path, text in BLOCK.findall(page.read_text()):
        if language == "sh":
            parts.append(QUICKLY.sub(r"\2", text))
        elif how:
            redirect = {"file": ">", "append": ">>"}[how]
            parts.append(f"cat {redirect} {path} <<'END_OF_FILE'\n{text}END_OF_FILE")
    return "\n".join(parts) + "\n"


def run(page, folder):
    """Runs a page's script in a copy of the project; its output."""
    names = ("ssl_jax", "configs", "launch", "tests", "setup.py", "pyproject.toml", "README.md")
    for name in names:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    tools = folder / ".bin"
    tools.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python").chmod(0o755)
    git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    (folder / ".gitignore").write_text(".bin/\npage.log\nruns/\n__pycache__/\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "copy"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=1",
    }
    if "tests/methods" in page.read_text():  # the shared tests want the devices they are given
        del environment["XLA_FLAGS"]
    log = folder / "page.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-c", script(page)], cwd=folder, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        code = process.wait(timeout=MINUTES * 60)
    except subprocess.TimeoutExpired:
        code = f"none after {MINUTES} minutes"
    finally:
        with contextlib.suppress(ProcessLookupError):  # also what the page has left running
            os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, f"exit code {code}\n{log.read_text()}"
    return log.read_text()


def page(name):
    return ROOT / "docs" / name


@pytest.mark.slow
def test_your_own_images(tmp_path):
    output = run(page("your-own-images.md"), tmp_path)
    assert "10 classes" in output and "kNN" in output and output.count("is like") == 5
    assert "neighbours" in (tmp_path / "runs" / "images" / "report.html").read_text().lower()


@pytest.mark.slow
def test_resume(tmp_path):
    output = run(page("resume.md"), tmp_path)
    assert "exit code 143" in output and "saved; the same command continues" in output
    assert "continuing from step" in output and "nothing to do" in output


@pytest.mark.slow
def test_figure_9(tmp_path):
    pytest.importorskip("libtpu")
    output = run(page("figure-9.md"), tmp_path)
    assert "48 cells" in output and "a device" in output
    assert (tmp_path / "runs" / "figure9" / "results.csv").read_text().count("\n") == 2


@pytest.mark.slow
def test_tpu_pod(tmp_path):
    pytest.importorskip("libtpu")
    output = run(page("tpu-pod.md"), tmp_path)
    assert "v5litepod-32" in output and output.count("gcloud compute tpus tpu-vm create") >= 2
    assert "supervise.py start" in output and "--config.batch_size=256" in output


@pytest.mark.slow
def test_add_a_method(tmp_path):
    output = run(page("add-a-method.md"), tmp_path)
    assert re.search(r"\d+ passed", output) and "Align & uniform" in output


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_page_is_tested_linked_and_its_links_lead_somewhere(path):
    assert f"test_{path.stem.replace('-', '_')}" in globals()
    readme = (ROOT / "README.md").read_text()
    assert f"(docs/{path.name})" in readme
    text = path.read_text()
    assert max(len(line) for line in re.sub(BLOCK, "", text).splitlines()) < 250
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target
    for anchor in re.findall(r"README\.md#([\w-]+)\)", text):
        headings = [
            re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", readme, re.MULTILINE)
        ]
        assert anchor in headings
    checked = subprocess.run(["bash", "-n"], input=script(path), capture_output=True, text=True)
    assert checked.returncode == 0 and not checked.stderr, checked.stderr
