"""The package, installed into an environment of its own and used in an empty folder.

The environment sees the libraries of the present one through a path file, so only ssl_jax itself is
built and installed.
"""

import importlib.metadata
import pathlib
import re
import shutil
import site
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index"]


def run(*command, folder=None, code=0):
    result = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


def copy(names, target):
    """Copies files and folders of the checkout, without what running it left behind."""
    for name in names:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(
                ROOT / name, target / name, ignore=ignored, symlinks=True, dirs_exist_ok=True
            )
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def environment(folder):
    """A virtual environment with the present one's libraries, but without its ssl_jax."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Path files of these folders are not read, so an editable ssl_jax there is not visible.
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    copy(("ssl_jax", "configs", "setup.py", "pyproject.toml", "README.md"), source)
    target = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", *OFFLINE, f"--wheel-dir={target}", source)
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of the programs of an environment with the wheel in it."""
    programs = environment(tmp_path_factory.mktemp("environment"))
    run(*PIP, f"--python={programs / 'python'}", "install", *OFFLINE, wheel)
    return programs


def test_the_wheel_holds_every_file_of_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"ssl_jax"}
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "ssl_jax", "configs"], capture_output=True, text=True
    ).stdout.split()  # of an archive there is no list
    configs = [path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.py")]
    for path in map(str, tracked or configs):
        if (ROOT / path).is_file():
            assert re.sub("^configs/", "ssl_jax/configs/", path) in names
    assert "ssl_jax/py.typed" in names


@pytest.mark.slow
def test_an_installed_wheel_in_an_empty_folder(installed, tmp_path):
    configs = run(installed / "ssl_jax", "list", "configs", folder=tmp_path)
    for name in ("simclr", "bert", "sweeps/methods", "ablations/simclr_batch_size"):
        assert re.search(rf"^  {name} +\w", configs, re.MULTILINE), name
    where = "import ssl_jax, ssl_jax.configs as c; print(ssl_jax.__file__, c.__file__)"
    for path in run(installed / "python", "-c", where, folder=tmp_path).split():
        assert pathlib.Path(path).is_relative_to(installed.parent)
    assert "None" in run(
        installed / "python", "-c",
        "import importlib.util; print(importlib.util.find_spec('configs'))", folder=tmp_path,
    )  # fmt: skip
    assert importlib.metadata.version("ssl_jax") in run(installed / "ssl_jax", "--version")


@pytest.mark.slow
def test_an_installed_wheel_trains_and_sweeps_in_an_empty_folder(installed, tmp_path):
    tiny = ("model.widths=(4,8)", "eval.final_names=('knn',)", "eval.baselines=()")
    flags = [f"--config.{setting}" for setting in tiny]
    run(
        installed / "ssl_jax", "train", "--config=simclr:digits", "--workdir=runs/x",
        "--config.steps=2", *flags, folder=tmp_path,
    )  # fmt: skip
    assert {"report.html", "results.json"} <= {p.name for p in (tmp_path / "runs/x").iterdir()}
    listing = run(
        installed / "python", "-m", "ssl_jax", "sweep", "--config=sweeps/methods:digits",
        "--workdir=runs/m", "--dry_run", folder=tmp_path,
    )  # fmt: skip
    assert "60 cells" in listing


@pytest.mark.slow
def test_an_editable_installation_follows_the_checkout(tmp_path):
    checkout = tmp_path / "checkout"
    dockerfile = (ROOT / "launch" / "Dockerfile").read_text()
    before, _, _ = dockerfile.partition("RUN pip install")
    lines = [line.split()[1:-1] for line in before.splitlines() if line.startswith("COPY ")]
    copy([name for names in lines for name in names], checkout)  # as the image is built
    programs = environment(tmp_path / "environment")
    python = programs / "python"
    run(*PIP, f"--python={python}", "install", *OFFLINE, "--editable", checkout)
    copy(("ssl_jax", "configs"), checkout)
    (checkout / "configs" / "mine.py").write_text('"""My own experiment"""\n')
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "My own experiment" in run(programs / "ssl_jax", "list", "configs", folder=empty)
    assert "None" in run(
        python, "-c", "import importlib.util; print(importlib.util.find_spec('configs'))",
        folder=empty,
    )  # fmt: skip
