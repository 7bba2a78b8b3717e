import gc
import logging
import shutil
import threading
import warnings
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.checkpoint import Checkpointer, CheckpointError, NonFiniteStateError, quiet, steps
from ssl_jax.core.errors import UserError


class State(flax.struct.PyTreeNode):
    step: jax.Array
    key: jax.Array
    params: Any
    buffers: Any
    opt_state: Any
    probe: Any = None


TX = optax.MultiSteps(optax.adamw(1e-2, weight_decay=0.1), 2)


def init(key):
    kernel = jax.random.normal(key, (16, 24))
    params = {"encoder": {"dense": {"kernel": kernel, "bias": jnp.zeros(24, jnp.bfloat16)}}}
    buffers = {"mean": jnp.arange(3.0), "used": jnp.array([True, False]), "none": jnp.zeros((0, 4))}
    return State(jnp.int32(0), key, params, buffers, TX.init(params))


def train_step(state):
    grads = jax.tree.map(lambda p: jnp.sin(p * (1 + state.step)).astype(p.dtype), state.params)
    updates, opt_state = TX.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state)


class Run:
    """A state on some devices and its compiled step."""

    def __init__(self, devices=8, fsdp=1):
        mesh = parallel.make_mesh(fsdp=fsdp, devices=jax.devices()[:devices])
        self.state, self.shardings = parallel.init_sharded(
            init, jax.random.PRNGKey(0), mesh=mesh, min_size=1
        )
        self.abstract = parallel.abstract_with(self.shardings, self.state)
        self.step = jax.jit(train_step, out_shardings=self.shardings, donate_argnums=0)

    def advance(self, steps=1):
        for _ in range(steps):
            self.state = self.step(self.state)
        return self.state


@pytest.fixture(scope="module")
def module_run():
    return Run(fsdp=4)


@pytest.fixture
def run(module_run):
    """States of one compiled run; each test starts from step 0."""
    module_run.state = jax.device_put(jax.jit(init)(jax.random.PRNGKey(0)), module_run.shardings)
    return module_run


def copy(state):
    return jax.tree.map(np.array, state)


def assert_same(state, expected):
    chex.assert_trees_all_equal_structs(state, expected)
    for leaf, other in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == other.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes()


def test_resumed_run_is_bit_identical(tmp_path, run):
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(run.abstract) is None
        assert (checkpointer.latest_step(), checkpointer.all_steps()) == (None, [])
        checkpointer.save(3, run.advance(3))
        # The step donates its input while the save is still writing it.
        final = copy(run.advance(4))
    with Checkpointer(tmp_path) as checkpointer:
        run.state, step = checkpointer.restore(run.abstract)
    assert step == 3
    assert run.state.params["encoder"]["dense"]["kernel"].sharding.spec == P(None, "fsdp")
    assert_same(run.advance(4), final)
    assert (tmp_path / "checkpoints" / "3" / "state").is_dir()


@pytest.mark.parametrize("devices, fsdp", [(8, 1), (4, 1), (4, 2), (1, 1)])
def test_restores_on_other_devices(tmp_path, run, devices, fsdp):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(3, run.advance(3))
        expected = copy(run.state)
    other = Run(devices, fsdp)
    with Checkpointer(tmp_path) as checkpointer:
        state, _ = checkpointer.restore(other.abstract)
    assert_same(state, expected)
    kernel = state.params["encoder"]["dense"]["kernel"]
    assert len(kernel.sharding.device_set) == devices
    assert kernel.sharding.is_equivalent_to(
        other.shardings.params["encoder"]["dense"]["kernel"], kernel.ndim
    )


def test_restore_from_arrays_and_without_shardings(tmp_path, run):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, run.advance())
        state, _ = checkpointer.restore(run.state)
        assert_same(state, copy(run.state))
        plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), run.state)
        state, _ = checkpointer.restore(plain)
        assert_same(state, copy(run.state))
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {1}


def test_latest_and_best_are_kept(tmp_path, run):
    scores = {1: 0.5, 2: 0.9, 3: 0.7, 4: None, 5: 0.6, 6: np.nan}
    options = {"keep_latest": 2, "keep_best": 1, "best_metric": "knn"}
    with Checkpointer(tmp_path, **options) as checkpointer:
        for step, score in scores.items():
            metrics = {} if score is None else {"knn": jnp.float32(score), "loss": 1.0}
            checkpointer.save(step, run.state, metrics)
    for read_only in (False, True):
        with Checkpointer(tmp_path, **options, read_only=read_only) as checkpointer:
            assert checkpointer.all_steps() == [2, 5, 6]
            assert (checkpointer.best_step(), checkpointer.latest_step()) == (2, 6)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"2", "5", "6"}
    # The best of an earlier session stays until a better one is there.
    with Checkpointer(tmp_path, **options) as checkpointer:
        checkpointer.save(7, run.state, {"knn": 0.8}, wait=True)
        assert checkpointer.all_steps() == [2, 6, 7]
        checkpointer.save(8, run.state, {"knn": 0.95}, wait=True)
        assert checkpointer.all_steps() == [7, 8]
        checkpointer.save(9, run.state, wait=True)
        checkpointer.save(10, run.state, wait=True)
        assert checkpointer.all_steps() == [8, 9, 10]


def test_steps_to_keep():
    scores = {1: 0.9, 2: 0.1, 3: 0.9, 4: 0.5, 5: None}
    keep = lambda **options: steps.to_keep(scores, **options)  # noqa: E731
    assert keep(keep_latest=1, keep_best=1, best_mode="max") == {3, 5}
    assert keep(keep_latest=1, keep_best=2, best_mode="max") == {1, 3, 5}
    assert keep(keep_latest=1, keep_best=2, best_mode="min") == {2, 4, 5}
    assert keep(keep_latest=9, keep_best=0, best_mode="max") == {1, 2, 3, 4, 5}


def test_one_save_a_step(tmp_path, run):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, run.state)
        expected = copy(run.state)
        checkpointer.save(1, run.advance(), wait=True)
        assert_same(checkpointer.restore(run.abstract)[0], expected)


def test_going_back_leaves_later_steps_behind(tmp_path, run):
    with Checkpointer(tmp_path) as checkpointer:
        for step in (10, 20):
            checkpointer.save(step, run.advance())
    with Checkpointer(tmp_path) as checkpointer:
        run.state, step = checkpointer.restore(run.abstract, step=10)
        assert step == 10
        assert checkpointer.all_steps() == [10, 20]  # looking back does not change anything
        assert checkpointer.restore(run.abstract)[1] == 20
        run.state, _ = checkpointer.restore(run.abstract, step=10)
        run.advance(5)
        checkpointer.save(15, run.state)
        assert checkpointer.all_steps() == [10]
        checkpointer.save(20, run.state, wait=True)
        assert checkpointer.all_steps() == [15, 20]
        assert_same(checkpointer.restore(run.abstract)[0], copy(run.state))


def test_restore_parameters_needs_no_optimizer(tmp_path, run):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, run.advance(2))
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        parts, step = checkpointer.restore_parameters()
        assert step == 2
        assert_same(parts, {"params": copy(run.state.params), "buffers": copy(run.state.buffers)})
        sharding = parallel.replicated(parallel.make_mesh())
        parts, _ = checkpointer.restore_parameters(
            2, prefixes=("opt_state/inner_opt_state/0/mu", "probe"), sharding=sharding
        )
        assert parts["probe"] == {}
        mean = parts["opt_state/inner_opt_state/0/mu"]
        assert_same(mean, copy(run.state.opt_state.inner_opt_state[0].mu))
        assert len(jax.tree.leaves(mean)[0].sharding.device_set) == 8
        with pytest.raises(UserError, match=r"no checkpoint of step 7 in .*; there are 2$"):
            checkpointer.restore_parameters(7)
    with Checkpointer(tmp_path / "empty", read_only=True) as checkpointer:
        assert checkpointer.restore_parameters() is None
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_state_is_refused(tmp_path, run, bad):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, run.state)
        expected = copy(run.state)
        kernel = run.state.params["encoder"]["dense"]["kernel"].at[3, 4].set(bad)
        poisoned = run.state.replace(params={"encoder": {"dense": {"kernel": kernel}}})
        message = (
            "step 2 not saved: params/encoder/dense/kernel is not finite; the last checkpoint is "
            "step 1"
        )
        with pytest.raises(NonFiniteStateError, match=message):
            checkpointer.save(2, poisoned)
        assert checkpointer.all_steps() == [1]
        assert_same(checkpointer.restore(run.abstract)[0], expected)


def test_different_structure(tmp_path, run):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, run.state)
        dense = {"kernel": jnp.zeros((16, 32)), "scale": jnp.zeros(2)}
        other = run.state.replace(params={"encoder": {"dense": dense}})
        with pytest.raises(UserError) as raised:
            checkpointer.restore(other)
    message = str(raised.value)
    assert "\n" not in message
    assert "it lacks params/encoder/dense/scale;" in message
    assert "it also has params/encoder/dense/bias" in message
    assert "params/encoder/dense/kernel is float32[16,24] there and float32[16,32] here" in message


def test_different_dtype(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"params": {"w": jnp.ones(3)}})
        with pytest.raises(UserError, match=r"w is float32\[3\] there and bfloat16\[3\] here"):
            checkpointer.restore({"params": {"w": jnp.ones(3, jnp.bfloat16)}})


def test_only_arrays(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(TypeError, match="step is a int, not a plain array"):
            checkpointer.save(1, {"step": 3})
        with pytest.raises(TypeError, match="key is a PRNGKeyArray"):
            checkpointer.save(1, {"key": jax.random.key(0)})
        with pytest.raises(ValueError, match="both called 'a/b'"):
            checkpointer.save(1, {"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(3)})


def test_read_only(tmp_path, run):
    with Checkpointer(tmp_path) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, run.state)
    unfinished = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with Checkpointer(tmp_path, keep_latest=1, read_only=True) as checkpointer:
        checkpointer.restore(run.abstract, step=1)
        with pytest.raises(CheckpointError, match="opened read-only; step 3 not saved"):
            checkpointer.save(3, run.state)
    assert {path.name for path in unfinished.parent.iterdir()} == {"1", "2", unfinished.name}


def test_leftovers_go_and_nothing_else(tmp_path, run):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, run.state)
    directory = tmp_path / "checkpoints"
    for name in ("2.orbax-checkpoint-tmp", "0.deleted", "1.mine", "notes"):
        (directory / name).mkdir()
        (directory / name / "file").write_text("x")
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.all_steps() == [1]
    assert {path.name for path in directory.iterdir()} == {"1", "1.mine", "notes"}


def test_the_error_that_ends_a_block_is_the_one_reported(tmp_path, run):
    with pytest.raises(KeyError), Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, run.state)
        raise KeyError("training went wrong")
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.all_steps() == [1]


def test_directories_that_cannot_be_made(tmp_path, run):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write to .*/file/checkpoints: "):
        Checkpointer(tmp_path / "file")
    checkpointer = Checkpointer(tmp_path)
    shutil.rmtree(checkpointer.directory)
    checkpointer.directory.write_text("in the way")
    message = r"saving step 1 to .* failed: .*; there is no checkpoint$"
    with pytest.raises(CheckpointError, match=message):
        checkpointer.save(1, run.state, wait=True)
    assert not [thread for thread in threading.enumerate() if "save" in thread.name]
    checkpointer.close()


def test_quiet(tmp_path, run, capfd):
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.INFO)
    try:
        with Checkpointer(tmp_path, best_metric="knn") as checkpointer:
            checkpointer.save(1, run.state)
            checkpointer.save(2, run.state, {"knn": 0.1})
            checkpointer.restore(run.abstract)
    finally:
        absl.setLevel(level)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest.mark.parametrize(
    "name, is_reported",
    [
        ("async_serialize_from_host.<locals>.write_fragment", False),
        ("_async_serialize_shardings", False),
        ("another_library.<locals>.write", True),
    ],
)
def test_writes_that_orbax_never_started_are_not_reported(name, is_reported):
    async def write():
        pass

    with warnings.catch_warnings(record=True) as reported:
        warnings.simplefilter("always")
        quiet.silence_orbax()
        aborted = write()
        aborted.__qualname__ = name
        del aborted
        gc.collect()
    assert bool(reported) == is_reported
