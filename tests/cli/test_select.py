"""`ssl_jax select`: checkpoints of a run and runs of a folder, ranked without labels."""

import json

import pytest

from ssl_jax.cli.select import Candidate, correlation, ranked
from tests import commands

pytestmark = pytest.mark.slow


def _candidates(values, probes):
    return [
        Candidate("run", step, {"alpha_req": value, "rankme": value}, probe)
        for step, (value, probe) in enumerate(zip(values, probes, strict=True))
    ]


def test_ranks_and_correlations():
    found = _candidates([2.0, 1.1, 0.8, 1.1], [0.1, 0.9, 0.5, 0.7])
    assert [one.step for one in ranked(found, "alpha_req")] == [3, 1, 2, 0]  # nearest to 1
    assert [one.step for one in ranked(found, "rankme")] == [0, 3, 1, 2]
    # Ranks of the quality: 1, 3.5, 2, 3.5; of the probe: 1, 4, 2, 3.
    assert correlation(found, "alpha_req") == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert correlation(_candidates([1, 1, 1], [1, 2, 3]), "rankme") is None
    assert correlation(_candidates([1, 2, 3], [1, 2, None]), "rankme") is None
    assert correlation(_candidates([1, 2], [1, 2]), "rankme") is None


def run(command, *arguments):
    """Exit code, lines of stdout, lines of stderr."""
    done = commands.finish(command, *arguments, environment=commands.environment(), timeout=300)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_checkpoints_and_runs(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        code, _, errors = run(
            "train", *commands.TINY, f"--workdir={tmp_path}/{name}", f"--config.seed={seed}",
            "--config.checkpoint.keep_latest=3", "--config.checkpoint.every_steps=10",
        )  # fmt: skip
        assert code == 0, errors
    small = ("--set=lidar.images=200", "--set=lidar.views=3")
    code, lines, errors = run(
        "select", f"--workdir={tmp_path}/a", "--by=lidar,rankme,alpha_req,clid", *small
    )
    assert code == 0, errors
    record = json.loads((tmp_path / "a" / "selection.json").read_text())
    found = record["candidates"]
    assert len(found) == 3 and {one["step"] for one in found} == {10, 20, 30}
    values = [one["values"]["lidar"] for one in found]
    assert values == sorted(values, reverse=True) and min(values) > 1
    assert all(0 < one["probe"] <= 1 for one in found)
    assert any(line.startswith(f"best by lidar: {tmp_path}/a@") for line in lines)
    code, lines, errors = run("select", f"--workdir={tmp_path}", "--by=rankme", "--probe=", *small)
    assert code == 0, errors
    assert any("a@30" in line for line in lines) and any("b@30" in line for line in lines)
    for arguments, message in (
        ((f"--workdir={tmp_path}/none",), "has no runs with checkpoints; select needs two"),
        ((f"--workdir={tmp_path}/a", "--by=lidr"), "--by=lidr is no measure"),
        ((f"--workdir={tmp_path}/a", "--by=rankme", "--probe=knn/top"), "--probe=knn/top is not"),
    ):
        code, _, errors = run("select", *arguments)
        assert code == 1 and message in errors[-1]
