"""Commands in documents, docstrings and scripts name configs, keys and options that exist."""

import functools
import pathlib
import re

import pytest

from ssl_jax import adapt
from ssl_jax import config as config_lib
from ssl_jax.adapt.registry import ADAPTERS
from ssl_jax.cli.app import COMMANDS
from ssl_jax.config import fields
from ssl_jax.core.errors import UserError
from ssl_jax.data.samplers.registry import SAMPLERS

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in (
        "*.md",
        "Makefile",
        "docs/*.md",
        "configs/**/*.py",
        "launch/*",
        "benchmarks/*",
        "results/*.md",
        "ssl_jax/cli/*.py",
    )
    for path in ROOT.glob(pattern)
    if path.is_file()
)
SOURCE = r"--config=([\w/.]+)(?::(\w[\w,]*))?|CONFIG=([\w/.]+):(\w+)"
# What a page or docstring may leave open.
PLACEHOLDERS = {"NAME", "FILE", "my_config.py", "align_uniform"}


def text_of(path):
    """A document's text with continued lines joined."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = text.replace("\\n", "\n").replace('\\"', '"')
    return re.sub(r"\\\\?\n", " ", text)


@functools.cache
def load(name, variant):
    module, _ = config_lib.load_module(name)
    # The cells of some sweeps are configs of the same file.
    name = "get_sweep" if hasattr(module, "get_sweep") and "," not in variant else "get_config"
    get = getattr(module, name)
    return get(variant) if variant else get()


@functools.cache
def all_keys():
    """Every key of every variant of every config, dotted."""
    keys = set()
    for name in config_lib.names():
        module, _ = config_lib.load_module(name)
        if "/" not in name:
            for variant in module.VARIANTS:
                keys |= set(_flat(load(name, variant).to_dict()))
    for sampler in SAMPLERS.values():  # no config need use each of them
        keys |= {field.path for field in fields.describe(sampler, "data.sampler")}
    for name in ADAPTERS:
        keys |= {field.path for field in fields.describe(adapt.declaration(name), "adapt")}
    return keys


def _flat(section, prefix=""):
    for key, value in section.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


@functools.cache
def options(command):
    """The flags that a command's module, what it imports from `cli`, and `app.py` define."""
    folder = ROOT / "ssl_jax" / "cli"
    text = (folder / f"{command}.py").read_text() + (folder / "app.py").read_text()
    for module in re.findall(r"^from ssl_jax.cli import (\w+)$", text, re.MULTILINE):
        text += (folder / f"{module}.py").read_text()
    return set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text)) | {"help"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_configs_and_variants_exist(path):
    text = text_of(path)
    for match in re.finditer(SOURCE, text):
        name, variant = (match[1], match[2]) if match[1] else (match[3], match[4])
        if name.endswith("...") or name in PLACEHOLDERS:
            continue
        if variant in (None, "VARIANT"):
            variant = ""
        try:
            load(name, variant)
        except UserError as error:
            raise AssertionError(f"{match[0]}: {error}") from None
    assert "python -m ssl_jax " not in text.replace("`python -m ssl_jax COMMAND`", "") or (
        path.parent.name == "launch"
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_keys_exist(path):
    for key in re.findall(r"--config\.([\w.]*\w)=", text_of(path)):
        parent = key.rpartition(".")[0]
        is_open = parent == "data.options" or parent.startswith("views.")
        assert is_open or key in all_keys() or key in ("KEY", "key", "section.key"), key


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_their_options_exist(path):
    for command, rest in re.findall(
        r"(?<![\w/.])ssl_jax ([a-z_]+)((?: +[^\s`)|#]+)*)", text_of(path)
    ):
        if command not in COMMANDS:
            continue  # prose: "ssl_jax needs"
        for option in re.findall(r" --(\w+)(?![\w.])", rest.partition(" -- ")[0]):
            assert option in options(command), f"ssl_jax {command} --{option}"
