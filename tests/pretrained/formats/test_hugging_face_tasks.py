"""Fine-tuned heads go out under the names of transformers' classes, come in, and say the same."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.tree_paths import by_path
from ssl_jax.models import Net
from ssl_jax.models.classifier import Classifier, TextHead
from ssl_jax.models.layers import restack
from ssl_jax.pretrained import formats, torch_models
from ssl_jax.pretrained.formats import hugging_face, hugging_face_config, task_heads
from tests.pretrained.formats.texts import TINY, perturbed, texts, vocabulary_of

# Encoder, task, outputs, whether the head has a dense layer; and transformers' class.
CASES = {
    "classes of BERT": (
        dict(TINY, name="bert_tiny", pooler=True, pool="pooler"), "classify", 3, False,
        "BertForSequenceClassification",
    ),
    "classes of BERT, dense": (
        dict(TINY, name="bert_tiny", pool="cls"), "classify", 3, True,
        "BertForSequenceClassification",
    ),
    "classes of RoBERTa": (
        dict(TINY, name="roberta_tiny", pool="cls"), "classify", 3, True,
        "RobertaForSequenceClassification",
    ),
    "classes of RoBERTa, pooler": (
        dict(TINY, name="roberta_tiny", pooler=True, pool="pooler", scan_layers=True), "classify",
        2, False, "RobertaForSequenceClassification",
    ),
    "numbers": (
        dict(TINY, name="bert_tiny", pooler=True, pool="pooler"), "regress", 1, False,
        "BertForSequenceClassification",
    ),
    "tags of BERT": (
        dict(TINY, name="bert_tiny"), "tags", 5, False, "BertForTokenClassification"
    ),
    "tags of RoBERTa": (
        dict(TINY, name="roberta_tiny"), "tags", 5, False, "RobertaForTokenClassification"
    ),
    "spans": (dict(TINY, name="bert_tiny"), "span", 2, False, "BertForQuestionAnswering"),
}  # fmt: skip


def made(case):
    """(classifier, params, heads) with every weight random."""
    model, task, outputs, dense, _ = CASES[case]
    module, params = perturbed(model, False)
    head = Net(TextHead(outputs, dense))
    reads = "tokens" if task in ("tags", "span") else "h"
    shapes = jax.eval_shape(head.init, jax.random.key(0), jnp.zeros((1, module.dim)))[0]
    rng = np.random.default_rng(1)
    weights = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), shapes)
    heads = task_heads.make(
        hugging_face_config.family(module), task, outputs, pool=module.pool, dense=dense,
        dropout=0.1,
        class_names=[f"class {i}" for i in range(outputs)] if task == "classify" else None,
    )  # fmt: skip
    params = {"encoder": params["encoder"], "head": weights}
    return Classifier(Net(module), head, reads=reads), params, heads


@pytest.mark.parametrize("case", CASES)
def test_out_and_in_again(case, tmp_path):
    model, task, outputs, _, architecture = CASES[case]
    classifier, params, heads = made(case)
    module = classifier.encoder.module
    hugging_face.write(str(tmp_path), params, module, vocabulary_of(model), heads=heads)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == [architecture]
    names = ["class 0", "class 1"] if task == "classify" else ["LABEL_0", "LABEL_1"]
    assert [config["id2label"][str(i)] for i in range(min(2, outputs))] == names[:outputs]
    assert len(config["id2label"]) == len(config["label2id"]) == outputs

    state = formats.read(str(tmp_path / "model.safetensors"))
    arrays, unused = hugging_face.from_hugging_face(state, config, module, task)
    assert not unused
    expected = by_path(params)
    arrays = restack(arrays, expected)
    assert arrays.keys() == expected.keys()
    for path, x in expected.items():
        first = module.position_offset if "/position/" in path else 0  # rows that are never used
        np.testing.assert_array_equal(arrays[path][first:], x[first:], err_msg=path)
    # What was learned for another task is of no use, and said to be.
    other = {"classify": "tags", "regress": "span", "tags": "classify", "span": "tags"}[task]
    arrays, unused = hugging_face.from_hugging_face(state, config, module, other)
    assert not [path for path in arrays if path.startswith("head/")] and unused


@pytest.mark.parametrize(
    ("task", "problem"),
    [("classify", "multi_label_classification"), ("classify", "regression"),
     ("regress", "single_label_classification")],
)  # fmt: skip
def test_a_head_of_another_problem_is_not_taken(task, problem):
    """One class of the library does three kinds of problems; null leaves the kind to the labels."""
    case = "numbers" if task == "regress" else "classes of BERT"
    classifier, params, heads = made(case)
    module = classifier.encoder.module
    state = hugging_face.to_hugging_face(params, module, vocabulary_of(CASES[case][0]), heads)
    config = hugging_face_config.description(module, vocabulary_of(CASES[case][0]), params, heads)
    for value, taken in ((problem, False), (None, True), (config["problem_type"], True)):
        config["problem_type"] = value
        arrays, unused = hugging_face.from_hugging_face(state, config, module, task)
        assert ("head/out/kernel" in arrays) == taken, value
        assert ("classifier.weight" in unused) != taken, value


def test_there_is_no_classifier_on_the_mean_or_without_the_dense_layer():
    for pool, dense in (("mean", False), ("mean", True), ("cls", False), ("pooler", True)):
        found = task_heads.make("bert", "classify", 2, pool=pool, dense=dense, dropout=0.1)
        assert found is None, (pool, dense)


@pytest.mark.parametrize("case", CASES)
def test_the_same_logits_as_the_librarys(case, tmp_path):
    reason = torch_models.missing("torch", "transformers", needed="BertForSequenceClassification")
    if reason:
        pytest.skip(reason)
    import torch
    import transformers

    model, task, _, _, architecture = CASES[case]
    classifier, params, heads = made(case)
    module = classifier.encoder.module
    hugging_face.write(str(tmp_path), params, module, vocabulary_of(model), heads=heads)
    kind = getattr(transformers, architecture)
    net, said = kind.from_pretrained(tmp_path, output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not said[what], (what, said[what])
    text = texts(module)
    given = {
        "input_ids": np.where(text["segment"] > 0, text["tokens"], net.config.pad_token_id),
        "attention_mask": text["segment"],
        "token_type_ids": text["type"],
    }
    with torch.no_grad():
        out = net.eval()(**{k: torch.from_numpy(x.astype(np.int64)) for k, x in given.items()})
    theirs = (
        np.stack([out.start_logits.numpy(), out.end_logits.numpy()], axis=2)
        if task == "span"
        else out.logits.numpy()
    )
    (_, ours), _ = classifier.apply(params, {"encoder": {}}, text, train=False)
    ours = np.asarray(ours)
    if task in ("tags", "span"):
        real = text["segment"] > 0
        ours, theirs = ours[real], theirs[real]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
