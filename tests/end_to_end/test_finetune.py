"""Fine-tuning as a user does it: from a pretrained run to scores, predictions and an export."""

import json
import shutil

import jax
import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.pretrained import formats, trained_run
from ssl_jax.run import metrics
from tests.commands import run
from tests.methods import labelled_texts
from tests.methods.rows.row import CONFIGS
from tests.pretrained.formats.test_hugging_face import workdir_of

FLAGS = (
    "--config=configs/finetune.py:csv",
    f"--config.data.name=csv:{labelled_texts.path('reviews.csv')}",
    "--config.data.options.sequence_length=24",
    "--config.dtype=float32",
    "--config.model.pool=mean",
    "--config.model.dropout=0.0",
    "--config.model.attention_dropout=0.0",
    "--config.batch_size=17",  # 51 rows of 64 are for training: 3 steps an epoch
    "--config.epochs=30",
    "--config.optimizer.base_lr=3e-3",
    "--config.log.tensorboard=False",
    "--config.log.report=False",
)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuned")
    experiment, _ = workdir_of("bert", folder / "bert")
    tokenizer = data.from_config(experiment.config.data, seed=0).tokenizer_json()
    (folder / "bert" / "tokenizer.json").write_text(tokenizer)
    said = run(folder / "run", *FLAGS, f"--config.init_from={folder}/bert@3").stdout
    return folder, said


@pytest.mark.slow
def test_model_and_tokenizer_come_from_the_pretrained_run(finetuned):
    folder, said = finetuned
    config = trained_run.read_config(folder / "run")
    there = trained_run.read_config(folder / "bert")
    assert config.data.options.tokenizer == f"{folder}/bert"
    for name in ("name", "dim", "depth", "num_heads", "max_length"):
        assert config.model[name] == there.model[name], name
    assert config.model.dropout == 0.0 and config.data.options.class_names == ("no", "yes")
    assert "starts from" in said and "step 3" in said
    assert "not found: params/head/out/bias, params/head/out/kernel" in said
    tokenizers = [(folder / name / "tokenizer.json").read_text() for name in ("run", "bert")]
    assert tokenizers[0] == tokenizers[1]


@pytest.mark.slow
def test_it_stops_by_the_validation_split_and_is_scored_on_the_test_split(finetuned):
    folder, said = finetuned
    rows = [row for row in metrics.read_metrics(folder / "run") if "eval/task/accuracy" in row]
    assert [row["step"] for row in rows] == list(range(3, 3 * len(rows) + 1, 3))
    results = json.loads((folder / "run" / "results.json").read_text())
    assert list(results["results"]) == ["most frequent class", "TF-IDF, logistic", "supervised"]
    scores = results["results"]["supervised"]
    assert set(scores) == {"task/accuracy", "task/macro_f1"}
    assert "task/accuracy" in said and "macro F1" in said and "most frequent class" in said
    if results["step"] < 90:
        assert results["stopped_early"] and "3 evaluations without a better" in said
    best = max(rows, key=lambda row: (row["eval/task/accuracy"], row["step"]))["step"]
    assert results.get("best_step", results["step"]) == best

    done = run(folder / "run", module="evaluate").stdout  # of the best one too
    assert "macro F1" in done and f"step {best}," in done
    (record,) = (folder / "run" / "evaluations").glob("*.json")
    again = json.loads(record.read_text())
    assert {key: again[key] for key in scores} == pytest.approx(scores)


def test_it_predicts_texts_in_memory(finetuned):
    folder, _ = finetuned
    classifier = trained_run.load(str(folder / "run"))
    texts = ["a great old ship", "the awful garden", "a " * 100]
    found = classifier.text_features(texts, batch_size=2)
    assert found["logits"].shape == (3, 2) and found["h"].shape == (3, 16)
    alone = classifier.text_features(texts[1:2])
    np.testing.assert_allclose(alone["logits"][0], found["logits"][1], rtol=1e-5, atol=1e-6)
    pairs = classifier.text_features(texts, texts[::-1])
    assert np.any(pairs["h"] != found["h"])
    for call, message in (
        (lambda: classifier.text_features([]), "at least one text"),
        (lambda: classifier.text_features(texts, ["one"]), "got 3 and 1"),
        (
            lambda: classifier.features(np.zeros((1, 8, 8, 1), np.uint8)),
            "encodes texts, not images",
        ),
    ):
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.slow
def test_other_texts_have_the_same_classes_and_it_is_exported(finetuned, tmp_path):
    folder, _ = finetuned
    # Only one of the classes occurs here, and it keeps its number.
    lines = [f"a {word} ship,yes" for word in ("good", "fine", "great")] + ["a poor river,no"]
    other = tmp_path / "other.csv"
    other.write_text("text,label\n" + "\n".join(lines * 3) + "\n")
    flags = (f"--data=csv:{other}", "--test_split=train")
    done = run(folder / "run", *flags, module="evaluate").stdout
    assert "macro F1" in done
    run(
        folder / "run",
        f"--data=csv:{other}",
        f"--output={tmp_path}/h.npz",
        module="embed",
    )
    with np.load(tmp_path / "h.npz") as stored:
        assert stored["h"].shape == (12, 16) and set(stored["label"]) == {0, 1}
        assert stored["label"][0] == 1

    said = run(folder / "run", f"--output={tmp_path}/hf", "--to=hf", module="export").stdout
    assert "without the head: transformers has no such head for model.pool=mean" in said
    assert (tmp_path / "hf" / "tokenizer.json").exists()
    pooled = tmp_path / "pooled"
    run(pooled, *(f for f in FLAGS if "pool" not in f and "epochs" not in f), "--config.epochs=1",
        "--config.early_stopping.patience=0", f"--config.init_from={folder}/bert")  # fmt: skip
    run(pooled, f"--output={tmp_path}/hf2", "--to=hf", module="export")
    config = json.loads((tmp_path / "hf2" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "no", "1": "yes"}
    state = formats.read(str(tmp_path / "hf2" / "model.safetensors"))
    head = trained_run.load(str(pooled)).weights.params["head"]["out"]
    np.testing.assert_array_equal(state["classifier.weight"], np.asarray(head["kernel"]).T)
    # And it is where the next run starts, head and all.
    again = tmp_path / "again"
    flags = [f for f in FLAGS if "pool" not in f and "epochs" not in f]
    said = run(again, *flags, "--config.epochs=1", f"--config.init_from={tmp_path}/hf2").stdout
    assert "bert, " in said and "not found" not in said


def load(variant, **changes):
    config = config_lib.load(f"{CONFIGS}/finetune.py:{variant}")
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config = config_lib.apply(config, changes)
    return config_lib.resolve(config, changes)


def test_what_init_from_says_of_a_folder_of_transformers(tmp_path):
    theirs = {
        "model_type": "roberta", "hidden_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 130,
        "pad_token_id": 1, "type_vocab_size": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    config = load("roberta_rte", init_from=str(tmp_path), model__depth=2)
    expected = dict(name="roberta_base", dim=64, num_heads=4, mlp_ratio=2.0, max_length=128,
                    num_types=1, activation="gelu", norm_eps=1e-5)  # fmt: skip
    assert {name: config.model[name] for name in expected} == expected
    assert config.model.depth == 2  # what is said here wins
    assert config.model.pool == "cls" and config.data.options.tokenizer == str(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**theirs, "model_type": "xlnet"}))
    message = f"{tmp_path}/config.json has model_type 'xlnet'; supported"
    with pytest.raises(UserError, match=message):
        load("roberta_rte", init_from=str(tmp_path))


def test_a_model_from_scratch_gives_way_to_the_pretrained_one(tmp_path):
    there = {"name": "gpt2_tiny", "depth": 3, "max_length": 128, "dropout": 0.3}
    (tmp_path / "config.json").write_text(json.dumps({"model": there}))
    config = load("gpt_pydoc", init_from=str(tmp_path))
    assert (config.model.depth, config.model.max_length) == (3, 128)
    assert (config.model.dropout, config.model.pool) == (0.1, "last")  # as fine-tuning has it
    assert config.data.options.tokenizer == str(tmp_path)
    assert load("gpt_pydoc", init_from=str(tmp_path), model__name="gpt2_mini").model.depth == 4
    assert load("gpt_pydoc").model.depth == 2
    # The tokens of a T5 from scratch give back what they were made of.
    options = load("t5_pydoc").data.options
    assert (options.tokenizer, options.vocab_size, options.sentinels) == ("bpe", 1024, 16)


def test_without_init_from_the_model_has_to_be_named(tmp_path):
    with pytest.raises(UserError, match="name a model to train from scratch"):
        load("glue_rte")
    config = load("glue_rte", model__name="bert_tiny")
    assert "tokenizer" not in config.data.options  # one that is trained
    with pytest.raises(UserError, match="does not say what its model is: .*config.json is not"):
        load("glue_rte", init_from=str(tmp_path))


@pytest.mark.parametrize(
    ("variant", "rate", "steps", "warmup"),
    [
        ("glue_rte", 2e-5, 231, 23),  # 2490 / 32 in 3 epochs
        ("glue_stsb", 2e-5, 537, 54),
        ("roberta_rte", 2e-5, 1550, 93),  # batch 16, 10 epochs, 6%
        ("roberta_cola", 1e-5, 5340, 320),
        ("squad", 3e-5, 5530, 553),
        ("conll", 5e-5, 1314, 131),
    ],
)
def test_the_recipes_are_the_papers(variant, rate, steps, warmup):
    config = load(variant, model__name="roberta_tiny" if "roberta" in variant else "bert_tiny")
    spec = data.spec_from_config(config.data)
    experiment = Experiment.build(config, spec, parallel.make_mesh(devices=jax.devices()[:1]))
    assert experiment.length.total_steps == steps
    roberta = "roberta" in variant
    at = np.arange(steps)
    start = warmup if roberta else 0  # from where BERT's line falls, though it is behind a warm-up
    expected = np.where(at < warmup, at / warmup, (steps - at) / (steps - start)) * rate
    rates = [float(experiment.schedule(step)) for step in range(steps)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-12)
    optimizer = config.optimizer
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.98 if roberta else 0.999, 1e-6)
    assert (optimizer.weight_decay, optimizer.clip.norm) == ((0.1, 0) if roberta else (0.01, 1))
    assert optimizer.bias_correction == roberta and optimizer.name == "adamw"
    assert config.batch_size == (16 if roberta else 32)
    name = {"squad": "question_answering", "conll": "token_classification"}.get(
        variant, "regression" if "stsb" in variant else "supervised"
    )
    assert config.method.name == name and experiment.method.classifier.head.module.dropout == 0.1


def test_a_workdir_that_moved_still_reads_text(finetuned, tmp_path):
    """Its own tokenizer.json is enough where the pretrained run is gone."""
    folder, _ = finetuned
    shutil.copytree(folder / "run", tmp_path / "run")
    found = trained_run.load(str(tmp_path / "run")).text_features(["a good ship"])
    assert found["logits"].shape == (1, 2)


@pytest.mark.slow
def test_a_t5_goes_to_a_folder_of_transformers_and_is_fine_tuned_from_there(tmp_path):
    experiment, state = workdir_of("t5", tmp_path / "t5")
    said = run(tmp_path / "t5", f"--output={tmp_path}/hf", "--to=hf", module="export").stdout
    assert "arrays, step 3" in said and "without the tokenizer" not in said
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == ["T5ForConditionalGeneration"]
    flags = [flag for flag in FLAGS if "csv" in flag or "log" in flag or "length" in flag]
    flags[0] = "--config=configs/finetune.py:t5_pydoc"
    said = run(
        tmp_path / "run",
        *flags,
        f"--config.init_from={tmp_path}/hf",
        "--config.data.split=train[:80%]",
        "--config.eval.test_split=train[80%:]",
        "--config.batch_size=17",
        "--config.steps=2",
        "--config.optimizer.base_lr=1e-9",
    ).stdout
    assert "t5, " in said and "not found" not in said
    begun = trained_run.load(str(tmp_path / "run"))
    module, like = begun.experiment.method.encoder.module, experiment.method.encoder.module
    for name in ("dim", "depth", "num_heads", "head_dim", "hidden_dim", "activation", "tied"):
        assert getattr(module, name) == getattr(like, name), name
    assert begun.experiment.spec.vocabulary == experiment.spec.vocabulary
    expected = by_path(state.params)
    found = by_path(begun.weights.params)
    assert found.keys() == expected.keys()
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, expected[path], atol=1e-6, err_msg=path)
