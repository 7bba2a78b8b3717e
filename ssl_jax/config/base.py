"""The keys that every experiment shares: type, bounds, default and meaning of each.

Sections whose keys depend on a name in them (`method`, `model`, `nets`, `views`, the evaluations)
are open here; `ssl_jax.config.schema` completes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict

from ssl_jax.config import fields
from ssl_jax.config.fields import (
    Bound,
    Key,
    Section,
    at_least,
    between,
    each,
    increasing,
    not_empty,
    not_negative,
    positive,
    positive_fraction,
    regex,
)

seed_bound = between(0, 2**32 - 1)
Baseline = Literal[
    "pixels", "untrained", "pca", "ica", "dictionary", "rbm", "dominant_color", "rgb", "hsv", "lab",
    "majority", "bag_of_words", "tf_idf", "mfcc", "columns",
]  # fmt: skip
AxisSize = Literal[-1] | Annotated[int, positive]
with_h = Bound("'h' among them, each once", lambda a: "h" in a and len(set(a)) == len(a))
first_and_last = Bound("none, or a first and a last one", lambda items: len(items) in (0, 2))


@dataclass(frozen=True, kw_only=True)
class Data:
    name: Annotated[
        str,
        "Data set: digits, shapes, fashion_mnist, idx:DIR, folder:PATH, tfds:NAME, tar:PATTERN, "
        "cub200:DIR, cars196:DIR, sop:DIR, market1501:DIR, faces:DIR, pairs:FILE, triplets:FILE; "
        "of audio speech, folder:PATH, librispeech:DIR, tar:PATTERN; "
        "of text pydoc, text:PATTERN, jsonl:PATTERN, parquet:PATTERN, csv:PATTERN, tfds:NAME, "
        "tokens:DIR.",
    ] = "digits"
    split: Annotated[str, "Split to train on; sub-splits as in train[:80%], train[1000:]."] = (
        "train"
    )
    image_size: Annotated[
        int | None, between(1, 32_768), "Side of the images that the host delivers, pixels."
    ] = None
    channels: Annotated[Literal[1, 3] | None, "None: those of the data set."] = None
    host_crops: Annotated[
        Mapping[str, Any],
        "Random crops that the host cuts, by family of views: {'global': dict(count=2)}; none: the "
        "device crops from the whole image.",
    ]
    workers: Annotated[
        int, between(0, 1_024), "Decoding processes; 0: threads of this process."
    ] = 0
    prefetch: Annotated[int, between(1, 1_024), "Batches waiting on the device."] = 2
    strict: Annotated[
        bool, "Stop at an unreadable image; False: take the next one in its place."
    ] = False
    classes: Annotated[
        str | None,
        "The classes to train on: 'train half', '0-4,7', names or 'not 0-4'; evaluations see the "
        "others (eval.classes). None: all.",
    ] = None
    labelled_fraction: Annotated[
        float | None, positive_fraction, "Share of the examples that keep their label, per class."
    ] = None
    unlabelled: Annotated[
        Literal["drop", "keep"], "Whether the examples without a label are trained on."
    ] = "drop"
    labels_seed: Annotated[int, seed_bound, "Which examples keep their label."] = 0
    num_examples: Annotated[
        int | None, positive, "Examples in the split, where the data are not at hand."
    ] = None
    num_classes: Annotated[
        int | None, positive, "Classes of the labels, where the data are not at hand."
    ] = None
    class_names: Annotated[
        tuple[str, ...] | None,
        not_empty,
        "Their names by number; None: those of the data set, in its order.",
    ] = None
    sampler: Annotated[
        Mapping[str, Any], "Which examples a step sees: the name of a sampler, and its options."
    ] = field(default_factory=lambda: {"name": "shuffle"})
    options: Annotated[Mapping[str, Any], "Options of the data set."]


@dataclass(frozen=True, kw_only=True)
class Mesh:
    data: Annotated[AxisSize, "Devices that split the batch; -1: all that the others leave."] = -1
    fsdp: Annotated[AxisSize, "Devices that split batch, parameters and moments."] = 1
    tensor: Annotated[
        AxisSize, "Devices that split the matrices and heads of transformer layers."
    ] = 1
    rules: Annotated[
        tuple[tuple[Annotated[str, regex], tuple[str | tuple[str, ...] | None, ...]], ...],
        "((regex of paths, (axis or None, ...)), ...): placements before the default ones.",
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Eval:
    every_epochs: Annotated[
        float, not_negative, "Evaluations while training; 0: at the end only."
    ] = 0.0
    names: Annotated[tuple[str, ...], "Evaluations while training."] = ("knn",)
    final_names: Annotated[tuple[str, ...], "Evaluations of results.json."] = (
        "knn",
        "linear",
        "few_shot",
    )
    features: Annotated[
        tuple[str, ...], with_h, "What is evaluated at the end: h, z of the projection head ..."
    ] = ("h",)
    weights: Annotated[
        Literal["params", "ema", "polyak"],
        "What is evaluated: the parameters, the method's moving average of them (ema) or "
        "optimizer.polyak's.",
    ] = "params"
    data: Annotated[str | None, "Another data set than data.name."] = None
    train_split: Annotated[str, "Split that evaluations fit on."] = "train"
    test_split: Annotated[str, "Split that evaluations score."] = "test"
    validation_split: Annotated[str | None, "Split scored while training; None: test_split."] = None
    final_checkpoint: Annotated[
        Literal["last", "best"], "The checkpoint that results.json is about."
    ] = "last"
    classes: Annotated[
        str,
        "With data.classes, the classes that evaluations see: those not trained on (unseen), seen, "
        "all, or a list as of data.classes.",
    ] = "unseen"
    batch_size: Annotated[int, at_least(1), "Examples a forward pass."] = 256
    outcomes: Annotated[
        bool,
        "Write what the final evaluations predict of each test example to outcomes.npz, by which "
        "two runs can be compared.",
    ] = False
    center: Annotated[
        float, positive_fraction, "Side of the central square that is kept; 0.875 = 224/256."
    ] = 1.0
    max_train_examples: Annotated[
        int | None, positive, "Examples of train_split, a fixed random subset; None: all."
    ] = None
    online: Annotated[bool, "Trains a linear probe along, without gradient to the encoder."] = True
    collapse_every_steps: Annotated[int, not_negative, "Collapse monitor; 0: off."] = 50
    baselines: Annotated[
        tuple[Baseline, ...],
        "What is evaluated besides, at the end: raw pixels, the untrained encoder, representations "
        "of scikit-learn and colours; of texts with classes the most frequent class, and logistic "
        "regression on a bag of words or on TF-IDF; of audio MFCC; of tables the columns.",
    ] = ()
    baseline_components: Annotated[
        int | None,
        between(1, 4096),
        "Numbers of pca, ica, dictionary and rbm; None: 64, or as many as there can be.",
    ] = None
    baseline_fit_examples: Annotated[
        int,
        between(2, 1_000_000),
        "Train examples, at most, that baselines are fitted to, drawn at random.",
    ] = 10_000


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    every_epochs: Annotated[float, not_negative, "Time between checkpoints."] = 10.0
    every_steps: Annotated[int | None, positive, "The same in steps; wins when set."] = None
    keep_latest: Annotated[int, at_least(1), "How many of the newest checkpoints are kept."] = 2
    keep_best: Annotated[int, not_negative, "How many of the best ones besides."] = 1
    best_metric: Annotated[str, "The metric that says which are best."] = "eval/knn/top1"
    best_mode: Annotated[Literal["max", "min"], "Whether more or less of it is better."] = "max"


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    patience: Annotated[
        int, not_negative,
        "Stops after so many evaluations without improvement of checkpoint.best_metric, and "
        "reports the best checkpoint; 0: off.",
    ] = 0  # fmt: skip
    min_delta: Annotated[float, not_negative, "Smallest improvement, in the metric's unit."] = 0.0


@dataclass(frozen=True, kw_only=True)
class Log:
    every_steps: Annotated[int, at_least(1), "Steps between rows of metrics.jsonl."] = 10
    tensorboard: Annotated[bool, "Writes TensorBoard files."] = True
    wandb: Annotated[bool, "Logs to Weights & Biases."] = False
    wandb_project: Annotated[str, "Its project."] = "ssl_jax"
    report: Annotated[bool, "Writes report.html at the end."] = True
    beside: Annotated[
        str | None,
        "Another run of images: the report shows its activation maps, and what a run of the same "
        "method predicts, beside its own.",
    ] = None


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: Annotated[int, seed_bound, "Everything random follows from it."] = 0
    batch_size: Annotated[int, at_least(1), "Examples a step, over all devices of all hosts."] = 256
    micro_batch_size: Annotated[
        int | None, positive, "Examples encoded at a time, over all devices; None: all of them."
    ] = None
    epochs: Annotated[float | None, positive, "Length of the run; set this or steps."] = None
    steps: Annotated[int | None, positive, "Length of the run; set this or epochs."] = None
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        "Of activations; parameters and statistics are float32.",
    ] = "float32"
    init_from: Annotated[
        str | None,
        "A run (RUN or RUN@STEP), or a file (FILE or FILE@NETWORK) or folder of weights, to start "
        "from.",
    ] = None
    init_weights: Annotated[
        bool, "False: only the model and the tokenizer of init_from, not its weights."
    ] = True
    init_partial: Annotated[
        bool,
        "Arrays of the encoder that init_from lacks, or has in another shape, are initialised, and "
        "those that only its encoder has are left out; False: they are an error.",
    ] = False
    data: Annotated[Data, "The data set."]
    method: Annotated[Mapping[str, Any], "The method and its hyper-parameters."]
    model: Annotated[Mapping[str, Any], "The encoder and its options."]
    nets: Annotated[Mapping[str, Mapping[str, Any]], "Other nets by role, each with its options."]
    adapt: Annotated[Mapping[str, Any], "Adapters beside frozen weights, and their options."]
    views: Annotated[Mapping[str, Any], "Augmentations: ops, and the options of each."]
    optimizer: Annotated[Mapping[str, Any], "Optimizer and learning rate."]
    mesh: Annotated[Mesh, "How devices divide the work."]
    eval: Annotated[Eval, "Evaluations."]
    checkpoint: Annotated[Checkpoint, "Saves."]
    early_stopping: Annotated[EarlyStopping, "An earlier end."]
    log: Annotated[Log, "Metrics and report."]
    profile_steps: Annotated[
        tuple[int, ...], each(not_negative), increasing, first_and_last,
        "(first, last): an xprof trace of these steps, in workdir/profile; (): none.",
    ] = ()  # fmt: skip
    compilation_cache: Annotated[str, 'Folder of compiled programs; "": none.'] = (
        "~/.cache/ssl_jax/xla"
    )


def base_config() -> ConfigDict:
    """Every shared key with its default. Lengths are in steps or epochs, sizes in examples.

    Keys take any value: `resolve` checks them all, so that a mistake is one clear line.
    """
    return ConfigDict(fields.defaults(shared_keys({})), type_safe=False)


def shared_keys(config: Mapping[str, Any]) -> Section:
    """`Config` with those of its open sections that no name decides.

    Args:
      config: its section `eval` may have sections that name an evaluation by `evaluation`.

    Raises:
      UserError: there is no such evaluation.
    """
    from ssl_jax.data.crops import HostCrops
    from ssl_jax.evals import registry
    from ssl_jax.optim import section as optimizer

    sampler = Section({"name": Key(str, "shuffle", "The sampler.")}, others=Any)
    adapters = Section({"name": Key(str | None, None, "The adapters; None: none.")}, others=Any)
    return fields.section(Config).replace(
        adapt=adapters,
        data=fields.section(Data).replace(
            host_crops=Section({}, others=HostCrops), sampler=sampler
        ),
        optimizer=fields.section(optimizer.OptimizerSection).replace(groups=optimizer.groups()),
        eval=fields.section(Eval).replace(**registry.declarations(config.get("eval"))),
    )
