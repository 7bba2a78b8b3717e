"""The guides in docs/ are true: their commands are run, in order, in a copy of the project.

The blocks of a page that are marked `sh` are run. Blocks with `title="PATH"` or
`title="appended to PATH"` are written to the copy. Blocks marked `console` need an account, a
cluster or hours and are not run; `test_commands.py` reads their configs and options.

So that a page takes seconds, a test replaces some of its text (a folder of images, a TPU slice) and
adds options to its training commands; the page itself stays what a reader would type.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests import command_client, commands

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(
    r"^```(\w+)?(?: title=\"(appended to )?([\w./]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
MINUTES = 25  # until a page counts as hanging
COPIED = (
    "ssl_jax", "configs", "launch", "benchmarks", "tests", "docs", "setup.py", "pyproject.toml",
    "README.md",
)  # fmt: skip
# Options that make a training command quick.
SHORT = (
    "eval.every_epochs=0", "eval.baselines=()", "eval.final_names=('knn',)", "log.report=False",
)  # fmt: skip
DIGITS = ("steps=12", "model.widths=(4,8)", "method.hidden_dim=16", "method.output_dim=8")
TINY_BERT = (
    "steps=4", "batch_size=8", "model.dim=16", "model.depth=1", "model.num_heads=2",
    "eval.held_out.max_examples=32", "eval.every_epochs=0", "log.report=False",
)  # fmt: skip


def text_of(*names):
    return "\n".join((ROOT / "docs" / name).read_text() for name in names)


def python_of(document):
    """The code of a document's one Python block, without comments."""
    blocks = BLOCK.findall((ROOT / document).read_text())
    (code,) = [code for language, _, path, code in blocks if language == "python" and not path]
    return re.sub(r"  # .*", "", code)


def script(text, replaced=()):
    """One bash script of a page's blocks."""
    parts = ["set -euo pipefail"]
    for language, appended, path, code in BLOCK.findall(text):
        if language == "sh":
            parts.append(code)
        elif path:
            redirect = ">>" if appended else ">"
            parts.append(f"cat {redirect} {path} <<'END_OF_FILE'\n{code}END_OF_FILE")
    commands = "\n".join(parts) + "\n"
    for old, new in dict(replaced).items():
        assert old in commands, old
        commands = commands.replace(old, new)
    return commands


def write_program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(folder, *names, replaced=(), train=(), sweep=(), devices=1, changes_code=False):
    """Runs the scripts of some pages in one copy of the project; their output.

    `train` and `sweep` are options added to these commands (sweeps: unless they only list or
    collect). Commands run in forks of the session's command server, unless the page
    `changes_code`: then each starts an interpreter.
    """
    program = script(text_of(*names), replaced)
    for name in COPIED:
        if (ROOT / name).is_dir():  # with the bytecode, which Python would compile again
            shutil.copytree(ROOT / name, folder / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, folder)
    programs = folder / ".bin"
    programs.mkdir()
    write_program(programs / "python", f'exec {sys.executable} "$@"')
    write_program(programs / "ruff", f'exec {sys.executable} -m ruff "$@"')
    how = "-m ssl_jax" if changes_code else f"-S {command_client.__file__}"
    write_program(
        programs / "ssl_jax",
        'case "$*" in\n'
        'train*) set -- "$@" $TRAIN ;;\n'
        "*--dry_run* | *--collect*) ;;\n"
        'sweep*) set -- "$@" $SWEEP ;;\n'
        "esac\n"
        f'exec {sys.executable} {how} "$@"',
    )
    git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    (folder / ".gitignore").write_text(".bin/\npage.log\nruns/\n__pycache__/\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "copy"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    environment = {
        **commands.environment(devices),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),  # this copy's ssl_jax, wherever a command is run
        "TRAIN": " ".join(f"--config.{option}" for option in train),
        "SWEEP": " ".join(sweep),
    }
    server = commands.connection(commands.environment()).fileno()
    environment["COMMAND_SERVER"] = str(server)
    log = folder / "page.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-c", program], cwd=folder, env=environment, start_new_session=True,
            pass_fds=[server], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
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


@pytest.mark.slow
def test_evaluating_at_scale(tmp_path):
    short = ("steps=12", "model.widths=(4,8,8,8)", "log.report=False")
    output = run(tmp_path, "evaluating-at-scale.md", train=short)
    heading = "in %               best probe     h  stage3_mean  last2_mean  last1_patches"
    assert heading in output and heading in text_of("evaluating-at-scale.md")


@pytest.mark.slow
def test_getting_started_evaluating_and_exporting(tmp_path):
    short = [option for option in SHORT if "report" not in option]
    pages = ("getting-started.md", "configs.md", "evaluating.md", "exporting.md")
    output = run(tmp_path, *pages, train=(*DIGITS, *short))
    assert "negatives" in output and "Evaluates a checkpoint" in output
    assert re.search(r"^ +sweeps/methods  ", output, re.MULTILINE)
    runs = tmp_path / "runs"
    written = {path.name for path in (runs / "demo").iterdir()}
    workdir = (ROOT / "docs" / "configs.md").read_text().partition("## The workdir")[2]
    promised = set(re.findall(r"^\| `([\w.]+)", workdir, re.MULTILINE)) - {"tokenizer.json"}
    assert promised <= written
    assert (runs / "demo" / "evaluations").is_dir() and (runs / "features.npz").exists()
    assert (runs / "exported" / "model.safetensors").exists()
    assert python_of("README.md") == python_of("docs/getting-started.md")
    program = f"""
import numpy as np
images = np.zeros((3, 8, 8, 1), np.uint8)
{python_of("README.md")}
assert h.shape == (3, 8) and h.dtype == np.float32, (h.shape, h.dtype)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


@pytest.mark.slow
def test_your_own_images(tmp_path):
    output = run(
        tmp_path, "your-own-images.md", replaced={"images=~/Pictures": "images=sample"},
        train=("steps=4", "data.image_size=32", "data.workers=0",
               "views.random_resized_crop.size=32", "model.name=convnet", "model.widths=(4,8,8)",
               "method.hidden_dim=16", "method.output_dim=8"),
    )  # fmt: skip
    assert "10 classes" in output and "kNN" in output and output.count("is like") == 5
    assert "neighbours" in (tmp_path / "runs" / "images" / "report.html").read_text().lower()


@pytest.mark.slow
def test_resume(tmp_path):
    output = run(tmp_path, "resume.md", train=("steps=200", "model.widths=(4,8)", *SHORT))
    assert "exit code 143" in output and "saved; the same command continues" in output
    assert "continuing from step" in output and "nothing to do" in output


@pytest.mark.slow
def test_metric_learning(tmp_path):
    output = run(tmp_path, "metric-learning.md", train=("steps=8", "model.widths=(4,8)", *SHORT))
    assert "mining batch_hard" in output and "loss        arcface" in output
    assert output.count("metric learning, z") == 2


@pytest.mark.slow
def test_transfer(tmp_path):
    output = run(tmp_path, "transfer.md", train=("steps=8", "model.widths=(4,8)", *SHORT))
    assert "set=lesions" in output and "set=shapes_hue" in output and "start=random" in output


@pytest.mark.slow
def test_ablations(tmp_path):
    sweep = ("--cell=2", "--set=eval.final_names=('few_shot',)", "--set=model.widths=(8,16)")
    output = run(tmp_path, "ablations.md", sweep=sweep)
    assert "60 cells" in output and "48 cells" in output
    assert (tmp_path / "runs" / "figure9" / "results.csv").read_text().count("\n") == 2


@pytest.mark.slow
def test_tpu_pod_and_launching(tmp_path):
    pytest.importorskip("libtpu")
    output = run(
        tmp_path, "tpu-pod.md", "launching.md",
        replaced={
            "ssl_jax aot --config=simclr:imagenet":
                "ssl_jax aot --config=simclr:digits --config.batch_size=256",
            "\n$run -- $data": "\n$run --dry_run -- $data",
        },
    )  # fmt: skip
    assert "v5litepod-32" in output and output.count("gcloud compute tpus tpu-vm create") == 3
    assert "supervise.py start" in output and "data_dir=/mnt/data" in output
    assert "kubectl apply" in output


@pytest.mark.slow
def test_language_models_and_fine_tuning(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    lines = [line for line in (ROOT / "LICENSE").read_text().splitlines() if line.strip()]
    documents = ["\n".join(lines[start : start + 4]) for start in range(len(lines) - 4)]
    (texts / "license.txt").write_text("\n\n".join(documents))
    output = run(
        tmp_path, "language-models.md", "fine-tuning.md",
        replaced={"/path/*.txt": f"{texts}/*.txt", "/data/tokens": f"{tmp_path}/tokens",
                  "--vocab_size=30522": "--vocab_size=300",
                  "--config=bert:base": "--config=bert:base --config.data.options.vocab_size=300"},
        train=TINY_BERT,
    )  # fmt: skip
    assert "unigram" in output and "macro F1" in output


@pytest.mark.slow
def test_word_vectors(tmp_path):
    output = run(tmp_path, "word-vectors.md", train=("steps=20", "model.dim=8", "log.report=False"))
    assert "vectors.bin" in output


@pytest.mark.slow
def test_audio(tmp_path):
    small = ("data.options={'num_generated':20,'window':3200}", "model.channels=8", "steps=10")
    output = run(tmp_path, "audio.md", train=(*small, "eval.final_names=('phone',)"))
    assert "InfoNCE of the latents 1 to 12 frames ahead" in output and "MFCC" in output


@pytest.mark.slow
def test_add_a_method(tmp_path):
    output = run(
        tmp_path,
        "add-a-method.md",
        train=("steps=20", *SHORT, *DIGITS[1:]),
        devices=8,
        changes_code=True,
    )
    assert len(re.findall(r"\d+ passed", output)) == 2 and "All checks passed" in output
    assert "Align & uniform" in output


def test_the_losses_of_large_batches():
    values = np.random.default_rng(0).normal(size=(4, 8, 16)).astype(np.float32)
    names = dict(zip(("za", "zb", "queries", "keys"), values, strict=True), queue=values[0])
    exec(python_of("docs/large-batches.md"), names)
    assert np.isfinite(names["loss"])


# Pages without commands that are run.
UNRUN = {
    "index.md", "data.md", "large-batches.md", "parallelism.md", "will-it-fit.md", "gallery.md",
    "views.md", "which-method.md", "tables.md",
}  # fmt: skip


def test_every_page_with_commands_is_run():
    source = pathlib.Path(__file__).read_text()
    for path in PAGES:
        has_commands = any(
            language == "sh" or title for language, _, title, _ in BLOCK.findall(path.read_text())
        )
        assert has_commands == (path.name not in UNRUN), path.name
        assert f'"{path.name}"' in source, path.name
        commands = script(path.read_text())
        checked = subprocess.run(["bash", "-n"], input=commands, capture_output=True, text=True)
        assert checked.returncode == 0 and not checked.stderr, checked.stderr


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_lines_of_prose_are_not_endless(path):
    text = re.sub(BLOCK, "", path.read_text())
    assert max(len(line) for line in text.splitlines()) < 250
