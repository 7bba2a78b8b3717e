"""Probes as a user trains them: on a pretrained run, killed and continued, chosen at the end."""

import json

import jax
import numpy as np
import pytest

from ssl_jax.checkpoint.manifest import Manifest
from ssl_jax.pretrained import trained_run
from tests.commands import TINY, run, start, wait_for_step

STEPS = 24
FLAGS = (
    "--config=probe_grid:digits",
    "--config.model.widths=(4,8,8)",
    "--config.method.features=('h','stage2/mean','last1/patches')",
    "--config.batch_size=64",
    f"--config.steps={STEPS}",
    "--config.checkpoint.every_steps=6",
    "--config.log.every_steps=1",
    "--config.log.tensorboard=False",
    "--config.log.report=False",
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrained") / "run"
    run(workdir, *TINY, "--config.steps=8", "--config.eval.final_names=()")
    return workdir


@pytest.fixture(scope="module")
def whole(pretrained):
    workdir = pretrained.parent / "whole"
    said = run(workdir, *FLAGS, f"--config.init_from={pretrained}").stdout
    return workdir, said


def digests(workdir):
    return Manifest.read(workdir / "checkpoints" / str(STEPS)).arrays


@pytest.mark.slow
def test_the_encoder_has_the_bits_of_the_pretrained_run(pretrained, whole):
    workdir, said = whole
    before, after = (trained_run.load(str(path)).weights for path in (pretrained, workdir))
    pairs = (
        (before.params["encoder"], after.buffers["frozen"]["encoder"]),
        (before.buffers["encoder"], after.buffers["encoder"]),
    )
    for was, now in pairs:
        assert jax.tree.structure(was) == jax.tree.structure(now)
        for a, b in zip(jax.tree.leaves(was), jax.tree.leaves(now), strict=True):
            np.testing.assert_array_equal(a, b)
    assert "probes      18 linear of h: 6 rates from 0.003 to 1 x 3 weight decays" in said
    assert "best probe" in said and "convnet, frozen" in said
    results = json.loads((workdir / "results.json").read_text())["results"]["probe grid"]
    assert {"probe_grid/top1", "probe_grid/val_h", "probe_grid/test_last1_patches"} <= set(results)
    assert sum(key.startswith("probe_grid/head_") for key in results) == 46


@pytest.mark.slow
def test_killed_and_continued_is_as_uninterrupted(pretrained, whole):
    workdir = pretrained.parent / "killed"
    flags = (*FLAGS, f"--config.init_from={pretrained}")
    for step in (8, 20):
        process = start(workdir, *flags)
        wait_for_step(process, workdir, step)
        process.kill()
        assert process.wait(60) == -9
    said = run(workdir, *flags).stdout
    assert "continuing from step" in said
    assert digests(workdir) == digests(whole[0])
    a, b = (json.loads((path / "results.json").read_text()) for path in (workdir, whole[0]))
    assert a["results"] == b["results"]
