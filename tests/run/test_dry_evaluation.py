"""What an evaluation at the end would fail by is found before the first step."""

import numpy as np
import PIL.Image
import pytest

from ssl_jax import data, evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals.known import Known
from ssl_jax.run.loop import Run
from tests.methods import table
from tests.methods.rows.row import CONFIGS


def write_folder(root, train, test):
    """Image folders with so many images of each class; a class "." has no folder of its own."""
    rng = np.random.default_rng(0)
    for split, counts in (("train", train), ("test", test)):
        (root / split).mkdir(parents=True, exist_ok=True)
        for name, count in counts.items():
            folder = root / split / name
            folder.mkdir(exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (8, 8), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(folder / f"{number}.png")


def begin(workdir, row="simclr", **overrides):
    return Run(table.ROWS[row].load(**overrides), str(workdir))


def on_folder(tmp_path, train, test, **overrides):
    """Begins a run on image folders, with the default evaluations."""
    write_folder(tmp_path / "images", train, test)
    return begin(
        tmp_path / "run",
        data__name=f"folder:{tmp_path / 'images'}", data__channels=1, data__image_size=8,
        **{"batch_size": 8, **overrides},
    )  # fmt: skip


MANY = {"a": 16, "b": 16}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        # One image a class: nothing can be held out for the linear probe.
        (dict.fromkeys("abcdefgh", 1), dict.fromkeys("abcdefgh", 1),
         "evaluation 'linear' cannot be computed: the linear probe needs a class with at least two "
         "train examples; leave it out of eval.names and eval.final_names"),
        ({"a": 16, "b": 0}, {"a": 4, "b": 0}, "train_split are of class 'a'; a probe needs two"),
        (MANY, {"c": 4}, "eval.train_split has no example of a class that eval.test_split has"),
        (MANY, {".": 4}, r"eval.test_split: folder:.*\[test\] has no labels; leave it out"),
        (MANY, {}, "eval.test_split: no images"),
        (MANY, {"a": 0, "b": 0}, "eval.test_split: no images"),
    ],
)  # fmt: skip
def test_classes_that_no_probe_can_be_fitted_to(tmp_path, train, test, message):
    with pytest.raises(UserError, match=message) as told:
        on_folder(tmp_path, train, test)
    assert "\n" not in str(told.value)
    # The way out that the message names.
    on_folder(tmp_path, train, test, eval__names=(), eval__final_names=())


def test_limits_are_noted(tmp_path):
    run = on_folder(tmp_path, {"a": 16, "b": 1}, {"a": 2, "b": 2, "c": 2})
    assert run.notes == [
        "eval.test_split has examples of 1 of its 3 classes that eval.train_split lacks ('c'): no "
        "probe can predict them",
        "kNN: k=200 is more than the 17 train examples; using k=17",
        "few-shot: class 1 has only 1 labelled train examples; shots [2, 4, 8] are impossible and "
        "left out",
    ]
    assert begin(tmp_path / "digits").notes == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"eval__test_split": "train[:0]"}, r"eval.test_split: split 'train\[:0\]' is empty"),
        ({"eval__test_split": "train[99.99%:]"}, "eval.test_split: split .* is empty"),
        ({"eval__train_split": "train[5:5]"}, r"eval.train_split: split 'train\[5:5\]' is empty"),
        ({"eval__validation_split": "train[:0]"}, "eval.validation_split: split .* is empty"),
        ({"eval__few_shot__shots": (1000,)}, "'few_shot' cannot be computed: few-shot: class"),
        ({"eval__final_names": ("mig",)}, "'mig' needs 'factors', but digits has image, index, l"),
        ({"eval__final_names": ("transformations",), "eval__max_train_examples": 9},
         "'transformations' cannot be computed: the mlp probe needs 10 train examples"),
        ({"eval__final_names": ("mlp",), "eval__max_train_examples": 40},
         "'mlp' cannot be computed: the mlp probe (holds out a tenth|needs 10)"),
        ({"eval__names": ("knn",), "eval__knn__exclude_self": True},
         "exclude_self is for equal train and test splits, but there are 359 test and 1438 train"),
        ({"eval__data": "digits", "eval__max_train_examples": 1, "eval__names": ()},
         "train_split are of class '.'; a probe needs two classes"),
    ],
)  # fmt: skip
def test_options_that_the_data_do_not_allow(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message) as told:
        begin(tmp_path, **overrides)
    assert "\n" not in str(told.value)


def test_an_evaluation_of_an_array_that_the_data_lack(tmp_path):
    config = table.ROWS["simclr"].load()
    with config.unlocked():
        config.eval.phones = {"evaluation": "linear", "target": "phone"}
        config.eval.final_names = ("phones",)
    with pytest.raises(UserError, match="'phones' needs 'phone', but digits has image, index"):
        Run(config, str(tmp_path))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"checkpoint__best_metric": "eval/few_shot/16", "eval__names": ("few_shot",)},
         "'eval/few_shot/16', but on .* measures eval/few_shot/1, eval/few_shot/2, "),
        ({"checkpoint__best_metric": "eval/knn/top5"},
         "'eval/knn/top5', but on .* evaluation 'knn' measures eval/knn/top1, eval/knn/k."),
    ],
)  # fmt: skip
def test_a_metric_that_the_data_do_not_yield(tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        on_folder(tmp_path, MANY, MANY, **overrides)
    measured = overrides["checkpoint__best_metric"].replace("16", "8").replace("top5", "top1")
    on_folder(tmp_path, MANY, MANY, **overrides | {"checkpoint__best_metric": measured})


TAGS = "token-classification"


def test_tags_without_entities_have_no_entity_f1(tmp_path):
    """Parts of speech, or a comment that is read as a word, leave accuracy and macro F1."""
    words = ["anna NN", "sees VB", "oslo NN", ""] * 20
    path = tmp_path / "words.txt"
    path.write_text("\n".join(words))
    changes = {"data__name": f"conll:{path}", "eval__final_checkpoint": "last"}
    with pytest.raises(UserError) as told:
        begin(tmp_path / "run", TAGS, **changes)
    assert "checkpoint.best_metric is 'eval/task/entity_f1', but on conll" in str(told.value)
    assert "measures eval/task/accuracy, eval/task/macro_f1" in str(told.value)
    begin(tmp_path / "run", TAGS, **changes, checkpoint__best_metric="eval/task/accuracy")
    begin(tmp_path / "names", TAGS)  # with B- and I-


def test_other_data_without_labels(tmp_path):
    write_folder(tmp_path / "images", {".": 4}, {".": 4})
    with pytest.raises(UserError, match="eval.data: folder:.* has no class labels, and evaluation"):
        begin(tmp_path, eval__data=f"folder:{tmp_path / 'images'}", data__image_size=8)


def test_other_data_that_the_model_cannot_read(tmp_path):
    with pytest.raises(
        UserError, match="eval.data is 'text:.*': data.image_size is 8, but text is"
    ):
        begin(tmp_path, eval__data=f"text:{CONFIGS.parent}/LICENSE")


def test_every_evaluation_knows_what_it_measures():
    """One whose metrics are a family has to say which members there are."""
    label = np.arange(40, dtype=np.int32) % 4
    source = data.load("shapes", "train", image_size=16, num_generated=40)
    arrays = {"h": np.random.default_rng(0).normal(size=(40, 3)), "label": label}
    arrays["factors"] = source.factors
    known = Known(source, source, 40, num_classes=4, train_counts=np.bincount(label))
    several = data.load("lesions", "train", image_size=16, num_generated=40)
    arrays["labels"] = several.label_matrix
    of_labels = Known(several, several, 40)
    section = table.ROWS["simclr"].load(eval__alpha_req__first=1).eval  # of three features
    for evaluation in evals.load_all(evals.names(), section):
        families = [name for name in evaluation.module.METRICS if "{" in name]
        assert not families or hasattr(evaluation.module, "measures"), evaluation.name
        others = ("accuracy", "dci", "factor_vae_metric", "grades", "sap")
        if evaluation.of_model or evaluation.name in others:
            continue
        if evaluation.name == "multilabel":  # which scores a head's own logits
            arrays["logits"] = np.zeros(several.label_matrix.shape)
        measured = evals.evaluate(
            [evaluation], arrays, arrays, num_classes=4, factor_names=source.factor_names,
            label_names=several.label_names,
        )  # fmt: skip
        names = {name.partition("/")[2] for name in measured if not name.endswith("_std")}
        facts = of_labels if "labels" in evaluation.needs else known
        assert names == set(evaluation.measures(facts)), evaluation.name
