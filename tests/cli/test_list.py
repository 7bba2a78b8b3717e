"""What there is, by name, and what each command is for."""

import sys

import pytest

from ssl_jax.cli import app
from ssl_jax.cli import list as list_command
from ssl_jax.core.errors import UserError
from tests import commands


def listed(monkeypatch, capsys, *kinds):
    monkeypatch.setattr(sys, "argv", ["ssl_jax list", *kinds])
    assert list_command.main() == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", ("simclr", "moco", "bert")),
        ("configs", ("simclr", "ablations/simclr_temperature", "sweeps/methods")),
        ("models", ("resnet50", "vit_b16", "bert_base")),
        ("data", ("digits", "folder:PATH", "csv:PATTERN")),
        ("evals", ("knn", "linear", "few_shot")),
    ],
)
def test_every_kind_is_listed_by_name(monkeypatch, capsys, kind, names):
    lines = [line.split()[0] for line in listed(monkeypatch, capsys, kind).splitlines()]
    assert set(names) <= set(lines)
    assert len(lines) == len(set(lines)) and not {"base", "common", "fashion", "scales"} & set(
        lines
    )


def test_with_no_argument_all_kinds_are_listed(monkeypatch, capsys):
    text = listed(monkeypatch, capsys)
    for kind in list_command.KINDS:
        assert f"{kind}:\n" in text


def test_an_unknown_kind_names_the_nearest(monkeypatch, capsys):
    with pytest.raises(UserError, match="'method'; list one of methods.*Did you mean 'methods'"):
        listed(monkeypatch, capsys, "method")


def test_help_has_a_line_for_each_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ssl_jax", "--help"])
    app.main()
    text = capsys.readouterr().out
    for name in app.COMMANDS:
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
        assert len(line.split()) > 3 and "ssl_jax" not in line


def test_an_unknown_command_names_the_nearest(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ssl_jax", "trian"])
    with pytest.raises(SystemExit):
        app.main()
    assert "unknown command 'trian'" in (error := capsys.readouterr().err)
    assert "Did you mean 'train'?" in error


@pytest.mark.parametrize("name", app.COMMANDS)
def test_help_of_a_command_says_what_each_option_means(name):
    done = commands.finish(name, "--help", environment=commands.environment())
    assert done.returncode == 0 and not done.stderr
    description, _, options = done.stdout.partition("\nOptions:\n")
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "repeat this option" not in options and "['" not in options
    starts = [line for line in options.splitlines() if line.startswith("  --")]
    assert all(len(line.split()) > 1 for line in starts)
    assert bool(starts) == (name != "list")
    assert "ssl_jax" in description
