"""The beta-VAE and the FactorVAE metric: known codes, plain loops, and how examples are drawn."""

import collections
import types

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import beta_vae_metric, factor_vae_metric, shared_factor
from ssl_jax.evals.known import Known

LEVELS = (4, 3, 3)
FEW = {
    beta_vae_metric: {"train_points": 600, "test_points": 300},
    factor_vae_metric: {"train_votes": 600, "test_votes": 300},
}
both = pytest.mark.parametrize("metric", FEW)


def grid(n, seed):
    """Independent factors of a few levels."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, k, n) for k in LEVELS], axis=1).astype(np.float32)


def continuous(n, seed):
    return np.random.default_rng(seed).uniform(size=(n, 3)).astype(np.float32)


def splits(codes, factors=grid, sizes=(3000, 2000)):
    """Train and test split, whose codes are a function of the factors."""
    out = []
    for seed, n in enumerate(sizes):
        values = factors(n, seed)
        out.append({"h": np.asarray(codes(values), np.float32), "factors": values})
    return out


def noise_of(width):
    return lambda values: np.random.default_rng(len(values)).normal(size=(len(values), width))


def mixed(values):
    """Codes of which each depends on several factors, and some noise."""
    mixture = np.array([[1.0, 0.3, 0, 0.2], [0.2, 0.8, 0.4, 0], [0, 0.1, 1.5, 0.1]])
    return values @ mixture + 0.3 * noise_of(4)(values)


# ------------------------------------------------------------------------------------- known codes


@both
@pytest.mark.parametrize("factors", [grid, continuous])
@pytest.mark.parametrize(
    "codes",
    [
        lambda values: values,
        lambda values: 1 - 2 * values[:, ::-1],
        lambda values: np.concatenate([values, values[:, :1]], axis=1),
        lambda values: np.concatenate([values, np.ones((len(values), 1))], axis=1),
    ],
    ids=["factors", "permuted", "duplicated", "constant"],
)
def test_codes_that_are_the_factors_score_1(metric, factors, codes):
    got = metric.evaluate(*splits(codes, factors), **FEW[metric])
    assert got["score"] == pytest.approx(1, abs=0.01 * (metric is beta_vae_metric))
    assert got["score_train"] >= got["score"] - 0.01


@both
def test_noise_scores_as_guessing_one_factor(metric):
    """Groups of examples that have some code in common by chance tell nothing about others."""
    got = metric.evaluate(*splits(noise_of(5)))
    assert got["score"] == pytest.approx(1 / 3, abs=0.04)


def test_factor_vae_of_a_factor_without_a_code():
    """Both other codes vary alike if the third factor is fixed: each is voted for half the time."""
    got = factor_vae_metric.evaluate(*splits(lambda values: values[:, :2]))
    assert got["score"] == pytest.approx(2 / 3, abs=0.02)


def test_constant_codes_are_left_out():
    """A constant code has the smallest variance of all, and would get every vote."""
    train, test = splits(lambda values: np.insert(values, 1, 1e-3 * values[:, 0], axis=1))
    assert factor_vae_metric.evaluate(train, test, **FEW[factor_vae_metric])["codes"] == 3
    got = factor_vae_metric.evaluate(train, test, min_std=1e-6, **FEW[factor_vae_metric])
    assert got["codes"] == 4 and got["score"] == 1
    std = np.std(train["h"], axis=0, ddof=1).max()
    with pytest.raises(UserError, match=rf"all 4 codes .* min_std=10; the largest is {std:.3g}$"):
        factor_vae_metric.evaluate(train, test, min_std=10.0)


# ------------------------------------------------------------------------------------- plain loops


def draws(train, test, counts, smallest, seed):
    """The groups, chosen factors and generators of both splits, in the order of `evaluate`."""
    groups, _ = shared_factor.grouped("", [train["factors"], test["factors"]], 10, smallest)
    for group, count, rng in zip(groups, counts, np.random.default_rng(seed).spawn(2), strict=True):
        yield group, rng.integers(0, len(LEVELS), count), rng


def test_beta_vae_matches_plain_loops():
    train, test = splits(mixed, sizes=(300, 200))
    inputs, labels = [], []
    for split, (group, factor, rng) in zip(
        (train, test), draws(train, test, (200, 100), 2, seed=3), strict=True
    ):
        pairs = group.pairs(factor, 5, rng)
        codes = split["h"].astype(np.float64)
        means = []
        for first, second in zip(*pairs, strict=True):
            total = np.zeros(4)
            for i, j in zip(first, second, strict=True):
                total += abs(codes[i] - codes[j])
            means.append(total / 5)
        got = beta_vae_metric.mean_difference(split["h"], *pairs)
        np.testing.assert_allclose(got, means, rtol=1e-6)
        inputs.append(means)
        labels.append(factor)
    model = LogisticRegression().fit(inputs[0], labels[0])
    got = beta_vae_metric.evaluate(train, test, seed=3, train_points=200, test_points=100, pairs=5)
    assert got["score"] == pytest.approx(model.score(inputs[1], labels[1]), abs=1e-6)
    assert got["score_train"] == pytest.approx(model.score(inputs[0], labels[0]), abs=1e-6)
    assert 0.5 < got["score"] < 1


def test_factor_vae_matches_plain_loops():
    train, test = splits(mixed, sizes=(300, 200))
    subset = train["h"][np.linspace(0, 299, 50).astype(int)].astype(np.float64)
    spread = [sum((code - code.mean()) ** 2) / 49 for code in subset.T]
    votes = []
    for split, (group, factor, rng) in zip(
        (train, test), draws(train, test, (200, 100), 8, seed=3), strict=True
    ):
        codes = split["h"].astype(np.float64)
        batches = group.batches(factor, 8, rng)
        winners = []
        for rows in batches:
            ratios = []
            for number in range(4):
                values = [codes[row, number] for row in rows]
                mean = sum(values) / 8
                ratios.append(sum((value - mean) ** 2 for value in values) / 7 / spread[number])
            winners.append(ratios.index(min(ratios)))
        got = factor_vae_metric.least_varying(split["h"], np.array(spread), batches)
        np.testing.assert_array_equal(got, winners)
        votes.append(list(zip(winners, factor, strict=True)))
    majority = {}
    for code in range(4):
        counted = collections.Counter(k for winner, k in votes[0] if winner == code)
        majority[code] = max(range(3), key=lambda k, counted=counted: counted[k])
    expected = [np.mean([majority[code] == k for code, k in rows]) for rows in votes]
    got = factor_vae_metric.evaluate(
        train, test, seed=3, train_votes=200, test_votes=100, batch_size=8, variance_examples=50
    )
    assert got["score_train"] == pytest.approx(expected[0], abs=1e-6)
    assert got["score"] == pytest.approx(expected[1], abs=1e-6)
    assert 0.4 < got["score"] < 1


# ------------------------------------------------------------------------------------------ draws


def test_examples_that_are_drawn_share_the_value_of_the_factor():
    """Each example is as likely as any other, except those of a value that is too rare."""
    factors = np.array([[0, 5], [0, 6], [0, 5], [1, 6], [1, 5], [2, 7]], np.float32)
    (group,), left_out = shared_factor.grouped("", [factors], 10, smallest=2)
    assert left_out == []
    factor = np.repeat([0, 1], 6000)
    rng = np.random.default_rng(0)
    batches, pairs = group.batches(factor, 4, rng), group.pairs(factor, 3, rng)
    for rows in (batches, np.stack(pairs, axis=-1).reshape(len(factor), 3, 2)):
        values = factors[rows, factor.reshape(-1, *[1] * (rows.ndim - 1))]
        assert (values == values[..., :1]).all()
        for number in (0, 1):
            share = np.bincount(rows[factor == number].ravel(), minlength=6) / rows[:6000].size
            np.testing.assert_allclose(share, [0.2] * 5 + [0], atol=0.015)
    assert (pairs[0] != pairs[1]).all()


def test_the_seed_decides_the_score():
    rows = splits(noise_of(3))
    for metric, options in FEW.items():
        first, again, other = (metric.evaluate(*rows, seed=s, **options) for s in (0, 0, 1))
        assert first == again != other


# --------------------------------------------------------------------------------------- rendered


def drawn(rng, n):
    return rng.random((n, 3), np.float32)


def test_rendered_examples_share_one_value_and_draw_the_others_anew():
    new = shared_factor.Rendered(drawn, lambda factors: factors)
    factor = np.repeat([0, 1, 2], 50)
    rng = np.random.default_rng(0)
    batches = np.concatenate(list(new.batches(factor, 100, rng)))
    assert batches.shape == (150, 100, 3)
    first, second = map(np.concatenate, zip(*new.pairs(factor, 70, rng), strict=True))
    for row, shared in enumerate(factor):
        distinct = [len(np.unique(batches[row, :, column])) for column in range(3)]
        assert distinct == [1 if column == shared else 100 for column in range(3)]
        equal = (first[row] == second[row]).all(axis=0)
        assert equal.tolist() == [column == shared for column in range(3)]
        assert len(np.unique(first[row, :, shared])) == 70  # each pair has its own value
    assert len(np.unique(batches[factor == 1][:, 0, 1])) == 50


@both
def test_rendered_codes_score_like_codes_of_a_split(metric):
    train, test = splits(lambda values: values, continuous, (300, 200))
    exact = shared_factor.Rendered(drawn, lambda factors: factors[:, ::-1])
    assert metric.evaluate(train, test, rendered=exact, **FEW[metric])["score"] >= 0.99
    noise = shared_factor.Rendered(drawn, lambda factors: noise_of(3)(factors).astype(np.float32))
    got = metric.evaluate(train, test, rendered=noise, rendered_images=200_000)
    assert got["score"] == pytest.approx(1 / 3, abs=0.06)


def test_images_to_render_are_limited():
    assert shared_factor.affordable((10_000, 5_000), 64, 960_000) == (10_000, 5_000)
    assert shared_factor.affordable((10_000, 5_000), 64, 96_000) == (1000, 500)
    assert shared_factor.affordable((10_000, 5_000), 64, 1) == (2, 1)
    rendered = []

    def encode(factors):
        rendered.append(len(factors))
        return factors

    train, test = splits(lambda values: values, continuous, (300, 200))
    new = shared_factor.Rendered(drawn, encode)
    factor_vae_metric.evaluate(train, test, rendered=new, rendered_images=6400)
    assert sum(rendered) == 64 * (66 + 33)


def test_notes_say_what_is_rendered():
    evaluation = evals.load("beta_vae_metric")
    sources = known(grid(40, 0), grid(40, 1))
    sources.test.renderer = object()
    assert evaluation.check(sources) == (
        "beta_vae_metric: renders 99,840 images, all factors but one drawn, for 520 and 260 "
        "points; for 10,000 and 5,000 set eval.beta_vae_metric.rendered_images=1920000"
    )
    few = evals.load("beta_vae_metric", {"beta_vae_metric": FEW[beta_vae_metric] | {"pairs": 5}})
    assert few.check(sources) == (
        "beta_vae_metric: renders 9,000 images, all factors but one drawn"
    )


# -------------------------------------------------------------------------------------- what fails


def known(train, test, num_train=None):
    names = ("a", "b", "c")[: train.shape[1]]
    sources = (_Source(values, names) for values in (train, test))
    return Known(*sources, num_train=num_train or len(train))


class _Source(types.SimpleNamespace):
    def __init__(self, factors, names):
        super().__init__(name="toy", factors=factors, factor_names=names, renderer=None)

    def __len__(self):
        return len(self.factors)

    def read_factors(self):
        return self.factors


def message_of(name, factors, test_factors):
    """The one line with which both the check and the evaluation refuse these factors."""
    evaluation, lines = evals.load(name), []
    for refuse in (
        lambda: evaluation.check(known(factors, test_factors)),
        lambda: evaluation.call(
            train={"h": factors, "factors": factors},
            test={"h": test_factors, "factors": test_factors},
        ),
    ):
        with pytest.raises(UserError) as told:
            refuse()
        lines.append(str(told.value))
    assert lines[0] == lines[1] and "\n" not in lines[0]
    return lines[0]


@pytest.mark.parametrize("name", ["beta_vae_metric", "factor_vae_metric"])
def test_factors_that_cannot_be_scored_are_refused(name):
    factors = grid(500, 0)
    still = np.ones_like(factors)
    assert "no factor varies" in message_of(name, still, still)
    one = np.column_stack([factors[:, 0], still[:, 0]])
    assert f"{name} needs two factors that vary, but there is 1" in message_of(name, one, one)
    least, way_out = {
        "beta_vae_metric": (2, ""),
        "factor_vae_metric": (64, ", or set a smaller batch_size"),
    }[name]
    assert message_of(name, factors, factors[:1]) == (
        f"{name} needs two factors with a value that {least} examples of each split share, but "
        f"there is 0 (500 and 1 examples); evaluate on more examples{way_out}"
    )


def test_a_factor_without_a_frequent_value_is_left_out_with_a_note():
    factors = grid(400, 0)
    factors[:, 1] = np.arange(400) // 40  # 10 values of 40 examples
    evaluation = evals.load("factor_vae_metric")
    split = (
        "factor_vae_metric: draws from the examples of the splits, since toy cannot render others"
    )
    assert evaluation.check(known(factors, factors)) == (
        f"{split}; factors without a value that 64 examples of each split share are left out: b"
    )
    rows = {"h": factors[:, [0, 2]], "factors": factors}
    assert factor_vae_metric.evaluate(rows, rows, **FEW[factor_vae_metric])["score"] == 1
    assert evaluation.check(known(grid(400, 0), grid(400, 1))) == split
    # The note is about the examples that are encoded.
    with pytest.raises(UserError, match=r"there is 0 \(50 and 400 examples\)"):
        evaluation.check(known(factors, factors, num_train=50))


def test_they_run_by_name_with_options_of_the_config():
    train, test = splits(lambda values: values)
    config = {"beta_vae_metric": FEW[beta_vae_metric], "factor_vae_metric": FEW[factor_vae_metric]}
    got = evals.evaluate(list(config), train, test, config=config)
    assert got["beta_vae_metric/score"] == got["factor_vae_metric/score"] == 1
    for key in got:
        assert evals.describe(key) is not None
    with pytest.raises(UserError, match=r"factor_vae_metric.batch_size is 1; use .* from 2 to 256"):
        evals.load("factor_vae_metric", {"factor_vae_metric": {"batch_size": 1}})
