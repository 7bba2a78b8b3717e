import numpy as np
import pytest

from ssl_jax import evals
from ssl_jax.core.errors import UserError


def _exclusive_or(seed, n):
    """Two classes that no linear probe tells apart."""
    rng = np.random.default_rng(seed)
    h = rng.choice([-1.0, 1.0], (n, 2))
    label = (h[:, 0] * h[:, 1] > 0).astype(np.int32)
    return {"h": (5 + 100 * (h + 0.2 * rng.normal(size=h.shape))).astype(np.float32),
            "label": label}  # fmt: skip


def test_it_reads_what_no_linear_probe_can():
    train, test = _exclusive_or(0, 400), _exclusive_or(1, 400)
    config = {"mlp": {"learning_rate": 1e-2, "hidden_dim": 32}, "linear": {"num_l2": 1}}
    found = evals.evaluate(("mlp", "linear"), train, test, config=config)
    assert found["mlp/top1"] > 0.97 and found["linear/top1"] < 0.65
    assert found == evals.evaluate(("mlp", "linear"), train, test, config=config)


def test_labels_that_nothing_tells_are_guessed_by_chance():
    rng = np.random.default_rng(0)
    train, test = (
        {"h": rng.normal(size=(n, 8)).astype(np.float32), "label": rng.integers(0, 2, n)}
        for n in (400, 2000)
    )
    found = evals.evaluate(("mlp",), train, test)
    assert abs(found["mlp/top1"] - 0.5) < 0.05


@pytest.mark.parametrize(
    "rows, options, message",
    [
        (slice(0, 8), {}, "needs 10 train examples and 2 of each class; it has 8 of"),
        (np.arange(40), {}, "holds out a tenth .* of each class; it has 40 of 5 classes"),
        (slice(None), {"hidden_dim": 0}, "eval.mlp.hidden_dim is 0"),
        (slice(None), {"hiden_dim": 9}, "eval.mlp.hiden_dim.*Did you mean 'hidden_dim'"),
    ],
)
def test_what_cannot_be_is_named(rows, options, message):
    data = _exclusive_or(0, 40)
    if isinstance(rows, np.ndarray):
        data["label"] = rows % 5
    train = {name: array[rows] for name, array in data.items()}
    with pytest.raises(UserError, match=message):
        evals.evaluate(("mlp",), train, data, config={"mlp": options})
