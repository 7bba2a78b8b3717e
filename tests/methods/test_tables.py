"""Methods of two views, and the supervised one, on rows of a table."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import Experiment
from tests.marks import slow_unless
from tests.methods.rows.row import BATCH, CONFIGS
from tests.methods.test_methods import run

METHODS = (
    "simclr", "simclr_v2", "moco_v2", "moco_v3", "byol", "simsiam", "barlow_twins", "vicreg",
    "nnclr", "instdisc", "supervised",
)  # fmt: skip
TABLE = "table:wine"


def on_table(method, **method_options):
    """The config of a method's digits, on a table."""
    config = config_lib.load(f"{CONFIGS}/{method}.py:digits")
    config.data = ConfigDict({**config.data.to_dict(), "name": TABLE, "options": {}})
    config.data.update(image_size=None, channels=None)
    config.model = ConfigDict(dict(name="table_encoder", width=8, depth=1))
    config.views = ConfigDict(dict(ops=("corrupt_columns",)))
    config.eval.update(baselines=(), online=False)
    config.batch_size = BATCH
    widths = {"hidden_dim": 16, "output_dim": 8, "num_negatives": 32, "queue_size": 32}
    config.method.update({name: x for name, x in widths.items() if config.method.get(name)})
    config.method.update(method_options)
    return config_lib.resolve(config)


@pytest.mark.parametrize("method", slow_unless(("byol",).__contains__, METHODS))
def test_a_method_trains_on_rows(method):
    config = on_table(method)
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(config, source.spec)
    state, history = run(experiment, source, 3)
    assert all(np.isfinite(metrics["loss"]) for metrics, _ in history)
    features = experiment.features(state.weights, source.batch(np.arange(4)))
    assert features["h"].shape == (4, 8) and np.isfinite(features["h"]).all()
    grown = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), experiment.init_state().params, state.params
    )
    assert any(jax.tree.leaves(grown))


def test_a_run_is_fine_tuned_on_rows_by_its_own_columns(tmp_path):
    first = on_table("simclr")
    source = data.from_config(first.data, seed=0)
    saved = data.with_facts(first, source.spec, class_names=source.class_names)
    (tmp_path / "config.json").write_text(config_lib.to_json(saved))
    other = tmp_path / "other.csv"
    names = source.columns.names
    rows = ["0," * len(names) + kind for kind in ("class_0", "class_1") * 5]
    other.write_text(",".join((*names, "label")) + "\n" + "\n".join(rows) + "\n")
    config = config_lib.load(f"{CONFIGS}/supervised.py:table")
    config.data.name, config.init_from = f"table:{other}", str(tmp_path)
    resolved = config_lib.resolve(config)
    assert data.from_config(resolved.data, seed=0).columns == source.columns
    config.init_from = None
    assert data.from_config(config_lib.resolve(config).data, seed=0).columns != source.columns


def test_methods_and_models_of_other_data_are_refused():
    config = config_lib.load(f"{CONFIGS}/rotnet.py:digits")
    config.data = ConfigDict({**config.data.to_dict(), "name": TABLE, "options": {}})
    config.data.update(image_size=None, channels=None)
    config.batch_size = BATCH
    spec = data.spec_from_config(config.data)
    with pytest.raises(UserError, match="modality image, but table:wine has modality table"):
        Experiment.build(config_lib.resolve(config), spec)
    config = on_table("simclr").copy_and_resolve_references()
    with config.unlocked():
        config.model = ConfigDict(dict(name="convnet"))
    with pytest.raises(UserError, match="'convnet' does not read tables; use model.name=table_en"):
        Experiment.build(config_lib.resolve(config), spec)
