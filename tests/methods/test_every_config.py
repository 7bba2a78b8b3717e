"""Every variant of every config is built, and its train step traced at full scale without data."""

import ast
import functools
import re

import pytest

from ssl_jax import config as config_lib
from tests.marks import slow_unless
from tests.methods.paper_scale import build, trace_step
from tests.methods.rows.row import CONFIGS

# A second or two each. All others are slow tests, also those of which test_methods.py trains a row.
QUICK = {
    "finetune.py:pydoc",
    "moco_v3.py:digits",
    "roberta.py:pydoc",
    "simclr.py:fashion_60k",
    "supervised.py:linear_digits",
    "vae.py:digits",
}
# What the command line or the data would say, by the start of a variant's name.
PYDOC = {"data.num_examples": 10_000}
# Layers are the pretrained run's, and traced as one: what differs here is the data and the head.
BERT = {"model.name": "bert_base", "model.scan_layers": True}
# Whose number of examples is not known without the data.
UNSEEN = {"data.num_examples": 5864, "data.num_classes": 100}
SAID = {
    "bert.py:pydoc": PYDOC,
    "roberta.py:pydoc": PYDOC,
    "gpt.py:pydoc": PYDOC,
    "gpt.py:mappings": PYDOC,
    "t5.py:pydoc": PYDOC,
    "word2vec.py:pydoc": PYDOC,
    "distill.py": {"init_from": "runs/teacher"},  # read by the train command only
    "finetune.py:pydoc": {**PYDOC, "data.num_classes": 10, "model.name": "bert_tiny"},
    "finetune.py:csv": {**BERT, "data.num_examples": 10_000, "data.num_classes": 2},
    "finetune.py:glue": BERT,
    "finetune.py:squad": BERT,
    "finetune.py:conll": BERT,
    "finetune.py:roberta": {**BERT, "model.name": "roberta_base"},
    "finetune.py:gpt_pydoc": {**PYDOC, "data.num_classes": 10},
    **{
        f"finetune.py:gpt_{task}": {"model.name": "gpt1", "model.scan_layers": True}
        for task in ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "wnli")
    },
    "finetune.py:t5_pydoc": {**PYDOC, "data.num_classes": 10},
    **{
        f"finetune.py:t5_{task}": {"model.name": "t5_base", "model.scan_layers": True}
        for task in ("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "wnli")
    },
    "metric_learning.py:cub200": {"data.name": "cub200:birds", **UNSEEN},
    "metric_learning.py:cars196": {"data.name": "cars196:cars", **UNSEEN},
    "metric_learning.py:sop": {"data.name": "sop:products"},
    "metric_learning.py:market1501": {"data.name": "market1501:people"},
    "metric_learning.py:faces": {"data.name": "faces:people", **UNSEEN},
    "transfer.py": {"model.name": "resnet50"},  # of the pretrained run
    "transfer.py:birdsnap": UNSEEN,
    "transfer.py:aircraft": UNSEEN,
    "transfusion.py:chexpert": {"data.name": "image_csv:chexpert/{split}.csv"},
    "transfusion.py:retina": {"data.name": "image_csv:labels.csv"},
    "supervised.py:table": {"data.name": "table:wine"},
    "simclr.py:table": {"data.name": "table:wine"},
    "simclr.py:folder": {"data.name": "folder:images", "data.num_examples": 10_000},
}
ONE_VIEW = ("cpc_images.py", "ijepa.py", "instdisc.py", "metric_learning.py", "moco_v1.py:bank")


def shipped():
    """File -> its variants, of all that a command takes as --config for one run."""
    return {
        f"{name}.py": config_lib.load_module(name)[0].VARIANTS
        for name in config_lib.names()
        if "/" not in name
    }


VARIANTS = [f"{file}:{variant}" for file, variants in shipped().items() for variant in variants]


def said(name):
    """The overrides of a variant in SAID."""
    changes = {}
    for start, more in SAID.items():
        changes |= more if name.startswith(start) else {}
    return changes


def shallow(name):
    """Overrides that trace each layer or stage once: the depth of nets is test_make_encoder's."""
    net = config_lib.apply(config_lib.load(f"{CONFIGS}/{name}"), said(name)).model.name
    if net == "resnet18":
        return {"model.name": "resnet10"}
    if net.startswith("resnet_v2_"):
        return {"model.stages": 1}
    return {"model.scan_layers": True} if net.startswith("vit") else {}


@functools.cache
def traced_as():
    """Variant -> the first one of its file with the same method and family of nets.

    The rows of test_methods.py cover the options of a method.
    """
    first, same = {}, {}
    for name in VARIANTS:
        config = config_lib.apply(config_lib.load(f"{CONFIGS}/{name}"), said(name))
        net = re.match("[a-z]+(_encoder)?", config.model.name)[0]  # of any depth and width
        key = name.partition(":")[0], config.method.name, net
        same[name] = first.setdefault(key, name)
    return same


@pytest.mark.parametrize("name", slow_unless(QUICK.__contains__, VARIANTS))
def test_it_is_built_and_its_whole_step_traces_without_data(name):
    if traced_as()[name] != name:
        build(name, **said(name))  # raises what does not fit
        return
    experiment, outputs = trace_step(name, **said(name), **shallow(name))
    config = experiment.config
    assert outputs.keys() & {"h", "z"}
    for key, array in outputs.items():
        assert array.shape[0] == config.batch_size, key
    if "z" in outputs:
        method = config.method
        views = 1 if name.startswith(ONE_VIEW) else method.get("large_views", 2)
        assert outputs["z"].shape[:2] == (config.batch_size, views)
        if "output_dim" in method:
            assert outputs["z"].shape[2] == method.output_dim


def test_no_variant_is_left_out():
    """Of what is on disk, every variant is built, now or with the slow tests."""
    (mark,) = test_it_is_built_and_its_whole_step_traces_without_data.pytestmark
    traced = {param.values[0] for param in mark.args[1]}
    assert traced == {f"{file}:{name}" for file, names in shipped().items() for name in names}
    assert traced >= QUICK
    for start in (*SAID, *ONE_VIEW):
        assert any(name.startswith(start) for name in traced), start


def test_every_file_tells_of_its_variants():
    for file, variants in shipped().items():
        text = ast.get_docstring(ast.parse((CONFIGS / file).read_text()))
        table = text.partition("Variants:\n")[2].partition("\n\n")[0]
        entries = re.findall(r"^  (\w+(?:, \w+)*)  ", table, re.MULTILINE)
        told = [name for entry in entries for name in entry.split(", ")]
        assert len(told) == len(set(told)), file
        patterns = {name: re.compile(name.replace("TASK", r"\w+")) for name in told}
        for name, pattern in patterns.items():
            assert any(map(pattern.fullmatch, variants)), (file, name)
        for variant in variants:
            assert any(pattern.fullmatch(variant) for pattern in patterns.values()), (file, variant)
