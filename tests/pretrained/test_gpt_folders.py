"""A GPT goes to a folder of transformers and comes back as the start of another run."""

import json

import jax
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.config.from_pretrained import fill_in
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.data.text.tokenizer_files import load as load_tokenizer
from ssl_jax.experiment.build import Experiment
from ssl_jax.pretrained import export, init_from
from ssl_jax.pretrained.trained_run import TrainedRun
from tests.methods import table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = table.ROWS["gpt"].load()
    source = data.from_config(config.data, seed=0)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    experiment = Experiment.build(config, source.spec, mesh)
    folder = tmp_path_factory.mktemp("run")
    (folder / "tokenizer.json").write_text(source.tokenizer_json())
    return TrainedRun(config, experiment, 0, experiment.init_state().weights, str(folder))


def test_a_run_starts_from_the_folder_of_another(run, tmp_path):
    lines = list(export.export(run, "hf", str(tmp_path)))
    assert "arrays, step 0" in lines[0] and "compared with transformers" in lines[-1]
    own = (tmp_path.parent / run.workdir / "tokenizer.json").read_text()
    made, other = load_tokenizer(str(tmp_path)), load_tokenizer(run.workdir)
    assert made.vocabulary == other.vocabulary
    loaded, said = init_from.load(str(tmp_path), run.experiment, own)
    expected = by_path(run.weights.params)
    assert loaded["params"].keys() == expected.keys() and "gpt2, " in said[0]
    for path, x in expected.items():
        np.testing.assert_array_equal(loaded["params"][path], x)
    # The folder says what the model is.
    config = run.config.copy_and_resolve_references()
    config.unlock()
    config.init_from, config.model = str(tmp_path), {"name": "init_from"}
    fill_in(config)
    for key in ("dim", "depth", "num_heads", "max_length"):
        assert config.model[key] == run.experiment.method.encoder.module.__dict__[key]
    # Of another vocabulary the rows that both have are loaded; of other tokens none.
    (tmp_path / "tokenizer.json").write_text(own.replace('"the"', '"hte"', 1))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(UserError, match="starts from openai-gpt and gpt2"):
        init_from.load(str(tmp_path), run.experiment)
