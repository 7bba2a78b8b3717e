"""Rows of `eval.baselines` beside an encoder."""

import json
import typing

import numpy as np
import pytest
from sklearn.decomposition import PCA, FastICA, MiniBatchDictionaryLearning
from sklearn.neural_network import BernoulliRBM
from threadpoolctl import threadpool_limits

from ssl_jax import data
from ssl_jax.config.base import Baseline
from ssl_jax.core.errors import UserError
from ssl_jax.evals import decompositions
from ssl_jax.evals.model import Model
from ssl_jax.experiment.build import Experiment
from ssl_jax.modalities.image import IMAGE, Image
from ssl_jax.run import baselines, evaluation_checks, final_results, report_contents
from ssl_jax.run.dry_evaluation import dry_evaluation
from ssl_jax.run.probing import Prober
from ssl_jax.tasks import text_baselines
from tests.methods.table import ROWS

SHAPES = {
    "data__name": "shapes", "data__image_size": 8, "data__channels": 3,
    "data__options": {"num_generated": 96},
}  # fmt: skip
SMALL = {"eval__final_names": ("knn",), "eval__baseline_components": 4, "log__report": False}
OTHERS = (baselines.MFCC, baselines.COLUMNS)
EVERY = tuple(name for name in baselines.TITLES if name not in OTHERS)  # of images
ESTIMATORS = {
    "pca": lambda seed: PCA(4, random_state=seed),
    "ica": lambda seed: FastICA(4, whiten="unit-variance", random_state=seed),
    "dictionary": lambda seed: MiniBatchDictionaryLearning(
        4, max_iter=10, transform_algorithm="lasso_lars", random_state=seed
    ),
    "rbm": lambda seed: BernoulliRBM(4, random_state=seed),
}


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def built(**changes):
    """An experiment on small images of shapes, and its prober."""
    config = ROWS["simclr"].load(**{**SHAPES, **SMALL, **changes})
    experiment = Experiment.build(config, data.from_config(config.data, seed=0).spec)
    return experiment, Prober(experiment.config, experiment.mesh)


def pixels(prober, split):
    source = getattr(prober, split)
    return prober.features(IMAGE.raw_features, source)["h"]


def codes(name, prober, split="test"):
    return prober.features(baselines.model(name, prober).features, getattr(prober, split))["h"]


def test_every_name_is_of_images_or_of_texts():
    assert set(typing.get_args(Baseline)) == {*EVERY, *OTHERS, *text_baselines.NAMES}
    assert set(decompositions.NAMES) == set(ESTIMATORS) and set(baselines.COLORS) < set(EVERY)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_representation_is_that_of_scikit_learn_on_the_train_split(name):
    """Whatever the test split holds, and with the seed of the run."""
    experiment, prober = built(seed=3)
    x, y = pixels(prober, "train"), pixels(prober, "test")
    estimator = ESTIMATORS[name](3).fit(x)
    np.testing.assert_allclose(codes(name, prober), estimator.transform(y), atol=2e-3)
    swapped = Prober(experiment.config, experiment.mesh)
    swapped.test = prober.train
    np.testing.assert_allclose(codes(name, swapped), estimator.transform(x), atol=2e-3)
    if name != "pca":  # of so few numbers it has nothing random
        _, other = built(seed=4)
        assert not np.allclose(codes(name, other), estimator.transform(y), atol=1e-2)


def test_only_a_part_of_the_train_split_is_fitted_to(monkeypatch):
    """Drawn from the examples of the probes; a note says so before the run."""
    experiment, prober = built(
        eval__baselines=("pca", "ica", "rbm"), eval__max_train_examples=60,
        eval__baseline_fit_examples=20, eval__batch_size=8,
    )  # fmt: skip
    number = len(prober.train)
    note = f"eval.baselines: pca, ica, rbm fitted to 20 of {number} train examples"
    assert note in dry_evaluation(experiment, prober)
    rows = baselines._fitted_rows(prober, "pca")
    assert len(set(rows)) == 20 and set(rows) < set(prober.train_subset())
    x, y = pixels(prober, "train")[rows], pixels(prober, "test")
    exact = ESTIMATORS["pca"](0).fit(x).transform(y)
    np.testing.assert_allclose(codes("pca", prober), exact, atol=1e-4)
    # What does not fit in memory: PCA reads all of it in blocks, the others a part.
    monkeypatch.setattr(baselines, "_MAX_BYTES", 4 * 8 * 8 * 3 * 12)
    assert baselines.check_fits(prober) == [
        f"eval.baselines: pca fitted to 20 of {number} train examples",
        f"eval.baselines: ica, rbm fitted to 12 of {number} train examples",
    ]
    blocks = list(baselines._blocks(prober, rows, 4))
    assert [len(block) for block in blocks] == [8, 8, 4]
    streamed = decompositions.fit_incremental_pca(blocks, components=4)(y)
    np.testing.assert_array_equal(codes("pca", prober), streamed)


def test_bad_values_are_one_line():
    def message(function, *arguments, **changes):
        with pytest.raises(UserError) as told:
            function(*arguments, **changes)
        assert "\n" not in str(told.value)
        return str(told.value)

    unknown = message(built, eval__baselines=("pixel",))
    assert unknown.startswith("eval.baselines") and "Did you mean 'pixels'?" in unknown
    assert "eval.baselines" in message(built, eval__baselines=True)
    images = ROWS["simclr"].load(**SHAPES)
    check, spec = baselines.check, data.from_config(images.data, seed=0).spec
    assert "name each once" in message(check, ("pca", "pca"), spec)
    assert "'tf_idf', which is for texts" in message(check, ("tf_idf",), spec)
    texts = data.from_config(ROWS["bert"].load().data, seed=0).spec
    check(("untrained", "tf_idf"), texts)
    assert message(check, ("pca",), texts).endswith(
        "is for images and tables; these data are of modality 'text'"
    )
    # Before a run.
    grey = {"data__name": "digits", "data__channels": None, "data__options": {}}
    experiment, _ = built(eval__baselines=("pixels", "hsv"), **grey)
    assert "'hsv', which needs 3 channels (RGB); the images have 1" in message(
        evaluation_checks.check_evaluations, experiment
    )
    many = built(eval__baselines=("pca",), eval__baseline_components=100)
    assert "eval.baseline_components is 100, but pca of 96 train" in message(dry_evaluation, *many)


def test_a_run_ends_with_a_row_for_each(monkeypatch, tmp_path, capsys):
    """In the table, results.json and the report; one that fails costs its own row."""
    experiment, prober = built(eval__baselines=EVERY, log__report=True)
    evaluation_checks.check_evaluations(experiment)
    assert not [note for note in dry_evaluation(experiment, prober) if "baselines" in note]
    monkeypatch.setattr(Image, "report", lambda *_: {})
    monkeypatch.setattr(report_contents, "shown_items", lambda *_: {})
    fit = decompositions.fit

    def without_ica(name, *arguments, **options):
        if name == "ica":
            raise UserError("no independent components")
        return fit(name, *arguments, **options)

    monkeypatch.setattr(decompositions, "fit", without_ica)
    state = experiment.init_state()
    final_results.evaluate_and_report(
        experiment,
        prober,
        state,
        data.from_config(experiment.config.data, seed=0),
        tmp_path,
        [("a", "b")],
    )
    record = json.loads((tmp_path / "results.json").read_text())
    titles = [baselines.TITLES[name] for name in EVERY if name != "ica"]
    assert list(record["results"]) == [*titles, "SimCLR"]
    assert record["not_computed"] == {"ICA": {"features": "no independent components"}}
    said = capsys.readouterr()
    page = (tmp_path / "report.html").read_text()
    for title in titles:
        assert title in said.out and f'<th scope="row">{title}</th>' in page
    assert "warning: the features of ICA failed: no independent components\n" in said.err
    assert "<li>features of ICA: no independent components</li>" in page
    # Pixels and the untrained encoder have the scores of their features.
    for row, model in (
        ("raw pixels", Model(IMAGE.raw_features)),
        ("untrained encoder", experiment.model(state.weights)),
    ):
        assert record["results"][row] == prober.evaluate(model, ("knn",)), row


def test_nothing_is_fitted_for_evaluations_of_other_outputs(monkeypatch):
    experiment, prober = built(
        eval__baselines=("pca",), eval__final_names=("knn",), eval__knn={"feature": "z"}
    )
    monkeypatch.setattr(decompositions, "fit", pytest.fail)
    monkeypatch.setattr(prober, "evaluate", lambda *_, **__: {"knn/top1": 0.5})
    results, not_computed = final_results._evaluate(
        experiment, prober, experiment.init_state(), prober.train
    )
    assert list(results) == ["SimCLR"] and not not_computed


def test_baselines_of_tables():
    """The columns, standardised by those of train, and scikit-learn's PCA of them."""
    config = ROWS["simclr-table"].load(eval__baselines=("columns", "pca", "untrained"))
    prober = Prober(config, Experiment.build(config, data.from_config(config.data).spec).mesh)
    baselines.check(config.eval.baselines, prober.test.spec)
    train, test = prober.train.rows.astype(np.float64), prober.test.rows.astype(np.float64)
    x, y = ((rows - train.mean(axis=0)) / train.std(axis=0) for rows in (train, test))
    raw = codes("columns", prober)
    np.testing.assert_allclose(raw[:, ::2], y, atol=1e-4)
    assert not raw[:, 1::2].any()  # nothing is missing
    expected = PCA(4).fit(x).transform(y)
    got = baselines._fitted("pca", prober)(raw)[:, :4]
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=1e-2)
    with pytest.raises(UserError, match="'pixels', which is for images; these data are of modali"):
        baselines.check(("pixels",), prober.test.spec)
    with pytest.raises(UserError, match="'columns', which is for tables; these data"):
        baselines.check(("columns",), data.load("digits").spec)
