"""The config: keys that every experiment shares, and how a run's length follows from them.

An experiment is a Python file in `configs/` whose `get_config(variant)` starts from `base_config()`
and returns an `ml_collections.ConfigDict` of primitives. Every key can be set on the command line
as `--config.section.key=value`; a key that does not exist stops the command with the nearest known
name.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssl_jax import pretrained_config
from ssl_jax.errors import UserError, nearest
from ssl_jax.method import DataSpec

DTYPES = ("float32", "bfloat16")
# Sections whose keys depend on a name in them; their readers check the keys.
OPEN_SECTIONS = ("method", "views", "optimizer.groups", "data.options")
NOT_NEGATIVE = (
    "optimizer.base_lr", "optimizer.weight_decay", "optimizer.clip_norm", "eval.every_epochs",
    "eval.collapse_every_steps", "checkpoint.every_epochs",
)  # fmt: skip


def base_config() -> ConfigDict:
    """Every shared key with its default. Lengths are in steps or epochs, sizes in examples."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 256  # global: over all devices of all hosts
    config.init_from = placeholder(str)  # a run, or a file of weights: see ssl_jax/init_from.py
    config.init_weights = True  # False: of init_from only the model and the tokenizer
    config.micro_batch_size = placeholder(int)  # examples encoded at a time, over all devices
    config.epochs = placeholder(float)  # the length of the run is one of epochs and steps
    config.steps = placeholder(int)
    config.dtype = "float32"  # of activations; parameters and statistics are float32

    config.data = ConfigDict()
    # digits, shapes, folder:PATH, tfds:NAME, tar:PATTERN; of text: pydoc, text:PATTERN,
    # jsonl:PATTERN, parquet:PATTERN, tfds:NAME, tokens:DIR
    config.data.name = "digits"
    config.data.split = "train"  # sub-splits work everywhere: train[:80%], train[1000:]
    config.data.image_size = placeholder(int)  # side of the canvas the host delivers, pixels
    config.data.channels = placeholder(int)  # 1 or 3; unset: what the data set has
    config.data.host_views = 0  # random crops made on the host; 1: for all views; 0: whole canvas
    config.data.host_crop_scale = (0.08, 1.0)
    config.data.workers = 0  # decoding processes; 0: threads of this process
    config.data.prefetch = 2  # batches waiting on the device
    config.data.strict = False  # stop at an unreadable image instead of taking the next one
    config.data.labelled_fraction = placeholder(float)  # of the examples, the same of every class
    config.data.unlabelled = "drop"  # what becomes of the others: drop, or keep without a label
    config.data.labels_seed = 0  # which examples keep their label
    config.data.num_examples = placeholder(int)  # in the split, where the data are not at hand
    config.data.num_classes = placeholder(int)
    config.data.options = ConfigDict()  # passed to the source, e.g. num_generated of shapes

    config.method = ConfigDict()
    config.model = ConfigDict()
    # resnet18 ... resnet200, vit_ti16 ... vit_h14, convnet; of text: bert_tiny ... roberta_large;
    # init_from: that of the run or folder that this one starts from
    config.model.name = placeholder(str)
    # Options of the encoder; unset ones keep the encoder's own defaults.
    config.model.width = placeholder(float)  # multiplier of a ResNet's channels
    config.model.stem = placeholder(str)  # of a ResNet: imagenet (7x7 and pool), cifar (3x3), deep
    config.model.shortcut = placeholder(str)  # of a ResNet: conv or pool (ResNet-D)
    config.model.sk_ratio = placeholder(float)  # of a ResNet's selective kernels; SimCLR v2: 1/16
    config.model.widths = placeholder(tuple)  # channels of a convnet's stages
    config.model.strides = placeholder(tuple)
    config.model.kernel_init = placeholder(str)  # ResNet: lecun, he_fan_out; ViT: xavier, normal
    config.model.patch_size = placeholder(int)  # of a ViT, as what follows
    config.model.dim = placeholder(int)
    config.model.depth = placeholder(int)
    config.model.num_heads = placeholder(int)
    config.model.mlp_ratio = placeholder(float)
    config.model.positions = placeholder(str)  # ViT: learned, sincos, sincos_row_first (MoCo v3)
    config.model.cls_token = placeholder(bool)
    config.model.pool = placeholder(str)  # cls or mean; of text also pooler
    config.model.drop_path = placeholder(float)  # of the last layer; 0 in the first
    config.model.layer_scale = placeholder(float)  # what LayerScale starts from; unset: none
    config.model.qkv_bias = placeholder(bool)
    config.model.attention = placeholder(str)  # auto, xla, cudnn, splash (TPU): one result
    config.model.max_length = placeholder(int)  # this and all below: of text; positions there are
    config.model.num_types = placeholder(int)  # of tokens: 2 where there are sentence pairs
    config.model.activation = placeholder(str)  # gelu (exact) or gelu_tanh
    config.model.norm_eps = placeholder(float)
    config.model.dropout = placeholder(float)
    config.model.attention_dropout = placeholder(float)  # of the weights; not in fused kernels
    config.model.scan_layers = placeholder(bool)  # one layer compiled, run depth times
    config.model.remat = placeholder(str)  # kept for the backward pass: none (all), dots, full
    config.views = ConfigDict()

    config.optimizer = ConfigDict()
    config.optimizer.name = "lars"  # lars, adamw, sgd, lamb
    config.optimizer.base_lr = 0.3
    config.optimizer.lr_scaling = "linear"  # linear: base*B/256; sqrt: base*sqrt(B); none
    config.optimizer.schedule = "cosine"  # cosine, constant, step, linear, linear_unshifted
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.warmup_steps = placeholder(int)  # wins over warmup_epochs
    config.optimizer.final_lr_factor = 0.0  # last learning rate over the peak
    config.optimizer.milestones = ()  # of "step": fractions of the run
    config.optimizer.decay_factor = 0.1  # of "step"
    config.optimizer.weight_decay = 1e-6
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.bias_correction = True  # of adamw and lamb; BERT has none
    config.optimizer.trust_coefficient = 1e-3
    config.optimizer.momentum_order = "lr_inside"  # of LARS: lr_inside (SimCLR), lr_outside (BYOL)
    config.optimizer.clip_norm = 0.0  # global gradient norm; 0: off
    config.optimizer.exclude = r"(bias|scale)$"  # parameters neither decayed nor adapted
    # Per param_group: overrides of the keys above; layerwise=dict(decay=0.65) lets a ViT's rates
    # fall from layer to layer towards the input.
    config.optimizer.groups = ConfigDict()

    config.mesh = ConfigDict()
    config.mesh.data = -1  # -1: all devices that fsdp and tensor leave
    config.mesh.fsdp = 1
    config.mesh.tensor = 1
    config.mesh.rules = ()  # ((path regex, (axis or None, ...)), ...), before the default rule

    config.eval = ConfigDict()
    config.eval.every_epochs = 0.0  # 0: at the end only
    config.eval.names = ("knn",)  # while training; the probes of results.json are final_names
    config.eval.final_names = ("knn", "linear", "few_shot")
    config.eval.features = ("h",)  # probed at the end: h, and z, which the projection head makes
    config.eval.transformations = ()  # of color, rotation, noise, sobel: what features know of them
    config.eval.data = placeholder(str)  # another data set than data.name
    config.eval.train_split = "train"
    config.eval.test_split = "test"
    config.eval.validation_split = placeholder(str)  # scored while training; unset: test_split
    config.eval.final_checkpoint = "last"  # of which results.json is: last, or best of the run
    config.eval.batch_size = 256
    config.eval.center = 1.0  # side of the central square that is kept; 0.875 = 224/256
    config.eval.max_train_examples = placeholder(int)  # a fixed random subset
    config.eval.max_held_out_examples = 10_000  # of what is hidden of the test split
    config.eval.online = True  # a linear probe trained along, without gradient to the encoder
    config.eval.collapse_every_steps = 50  # 0: no collapse monitor
    # What needs no training too: raw pixels and the untrained encoder; of text for a task the most
    # frequent class, and logistic regression on TF-IDF.
    config.eval.baselines = False
    # Of questions that may have no answer: by how much the score of none must exceed that of the
    # best one. None: what is best for F1 on the very split that is scored, as papers do on dev.
    config.eval.null_threshold = placeholder(float)
    config.eval.null_threshold = 0.0
    config.eval.knn = ConfigDict(dict(k=200, temperature=0.07))
    config.eval.few_shot = ConfigDict(dict(shots=(1, 2, 4, 8), draws=20, l2=0.1))
    config.eval.mlp = ConfigDict(dict(hidden_dim=256, max_epochs=200))
    config.eval.linear = ConfigDict(
        dict(
            l2_min=1e-6,
            l2_max=1e5,
            num_l2=12,
            val_fraction=0.2,
            standardize=True,
            max_iterations=200,
            tolerance=1e-5,
        )
    )

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 10.0
    config.checkpoint.every_steps = placeholder(int)  # wins over every_epochs
    config.checkpoint.keep_latest = 2
    config.checkpoint.keep_best = 1
    config.checkpoint.best_metric = "eval/knn/top1"
    config.checkpoint.best_mode = "max"

    # Stops when so many evaluations in a row have not improved checkpoint.best_metric; 0: off. The
    # results are then those of the best checkpoint.
    config.early_stopping = ConfigDict()
    config.early_stopping.patience = 0
    config.early_stopping.min_delta = 0.0  # what counts as better, in the metric's own unit

    config.log = ConfigDict()
    config.log.every_steps = 10
    config.log.tensorboard = True
    config.log.wandb = False
    config.log.wandb_project = "ssl_jax"
    config.log.report = True  # write report.html at the end

    config.profile_steps = ()  # (first, last): an xprof trace of these steps, in workdir/profile
    config.compilation_cache = "~/.cache/ssl_jax/xla"  # "": none
    return config


def check_file(path: str) -> None:
    """Raises `UserError` if there is no such file or it is no Python file."""
    if not os.path.exists(path):
        raise UserError(f"config file {path!r} does not exist")
    if os.path.isdir(path) or not path.endswith(".py"):
        raise UserError(f"{path} is no config file; write e.g. configs/simclr.py:digits")


def load(source: str) -> ConfigDict:
    """The config of "FILE.py" or "FILE.py:VARIANT", not yet resolved.

    Raises:
      UserError: there is no such file, it is no config file, or has no such variant.
    """
    path, _, variant = source.partition(":")
    check_file(path)
    spec = importlib.util.spec_from_file_location("_config_file", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"config file {path}, line {error.lineno}: {error.msg}") from error
    if not hasattr(module, "get_config"):
        sweep = hasattr(module, "get_sweep")
        raise UserError(
            f"{path} is a sweep: python -m ssl_jax.sweep --config={source} --workdir=..."
            if sweep
            else f"{path} has no function get_config"
        )
    return module.get_config(variant) if variant else module.get_config()


def resolve(config: ConfigDict, overrides: dict[str, Any] | None = None) -> ConfigDict:
    """Checks the shared keys and settles what depends on others. Returns a locked copy.

    That is `epochs` against `steps`, and what is left to `init_from` (`ssl_jax.pretrained_config`).

    Args:
      config: what `get_config` returned, with command line overrides already in it.
      overrides: the overridden keys, dotted path -> value: of `epochs` and `steps`, setting one
        clears the other.

    Raises:
      UserError: an unknown key, both or neither of epochs and steps, a bad value, or nothing at
        `init_from`.
    """
    config = config.copy_and_resolve_references()
    overrides = overrides or {}
    if "steps" in overrides and "epochs" not in overrides:
        config.epochs = None
    elif "epochs" in overrides and "steps" not in overrides:
        config.steps = None
    _check_keys(config, base_config(), "")
    with config.unlocked():
        pretrained_config.fill_in(config)
    if (config.epochs is None) == (config.steps is None):
        raise UserError(
            f"set exactly one of epochs and steps (they are {config.epochs} and {config.steps})"
        )
    if not (config.epochs or 0) > 0 and not (config.steps or 0) > 0:
        key = "steps" if config.epochs is None else "epochs"
        raise UserError(f"{key} is {config[key]}; a run needs more than 0")
    for path in NOT_NEGATIVE:
        section, _, key = path.partition(".")
        if (config[section][key] or 0) < 0:
            raise UserError(f"{path} is {config[section][key]}; it must not be negative")
    if config.batch_size < 1:
        raise UserError(f"batch_size is {config.batch_size}; it must be at least 1")
    if config.dtype not in DTYPES:
        raise UserError(
            f"dtype {config.dtype!r} is not one of {', '.join(DTYPES)}."
            f"{nearest(config.dtype, DTYPES)}"
        )
    if config.profile_steps and len(config.profile_steps) != 2:
        raise UserError(f"profile_steps is {tuple(config.profile_steps)}; give (first, last)")
    if config.log.every_steps < 1:
        raise UserError(f"log.every_steps is {config.log.every_steps}; it must be at least 1")
    return config.lock()


def _check_keys(config: ConfigDict, known: ConfigDict, prefix: str) -> None:
    for key in config:
        path = prefix + key
        if key not in known:
            raise UserError(
                f"unknown config key {path}; known keys: {', '.join(sorted(known))}."
                f"{nearest(key, known)}"
            )
        value = config[key]
        if path in OPEN_SECTIONS:
            continue
        if isinstance(known[key], ConfigDict) != isinstance(value, ConfigDict):
            kind = "a section" if isinstance(known[key], ConfigDict) else "a value"
            raise UserError(f"config key {path} must be {kind}, not {value!r}")
        if isinstance(value, ConfigDict):
            _check_keys(value, known[key], path + ".")


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a run is and how often things happen in it, in steps."""

    steps_per_epoch: int
    total_steps: int
    eval_every: int  # 0: at the end only
    checkpoint_every: int

    @classmethod
    def of(cls, config: ConfigDict, num_examples: int) -> Length:
        """Reads it from a resolved config for a training set of `num_examples`.

        An epoch has floor(num_examples / batch_size) steps: no batch crosses its end.

        Raises:
          UserError: the batch is larger than the data set.
        """
        per_epoch = num_examples // config.batch_size
        if per_epoch == 0:
            raise UserError(
                f"batch_size {config.batch_size} is larger than the training set of "
                f"{num_examples} examples; use {num_examples} or less"
            )
        total = config.steps or math.ceil(config.epochs * per_epoch)
        every_steps = config.checkpoint.every_steps
        every = every_steps or round(config.checkpoint.every_epochs * per_epoch)
        evals = round(config.eval.every_epochs * per_epoch)
        if config.eval.every_epochs > 0:
            evals = max(evals, 1)
        return cls(per_epoch, total, evals, max(every, 1))


def with_data_facts(
    config: ConfigDict,
    spec: DataSpec,
    available: int | None = None,
    class_names: Sequence[str] | None = None,
) -> ConfigDict:
    """A copy whose data section says what the data turned out to be.

    A workdir's config then describes the run without the data at hand.

    Args:
      config: the resolved config.
      spec: of what the run trains on.
      available: examples in the split, where `data.labelled_fraction` left some of them out.
      class_names: what its classes are called, by number. Kept where texts have a task, so that
        other texts with the same classes have the same numbers.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.num_examples = available or spec.num_examples
        config.data.num_classes = spec.num_classes
        if spec.vocabulary is not None:
            config.data.options.vocabulary = ConfigDict(dataclasses.asdict(spec.vocabulary))
        if spec.task is not None and class_names is not None:
            config.data.options.class_names = tuple(class_names)
        if "image" in spec.arrays:
            image = spec.arrays["image"].shape
            config.data.channels = image[-1]
            if image[-2] == image[-3]:
                config.data.image_size = image[-2]
    return config.lock()


def to_json(config: ConfigDict) -> str:
    """The config as JSON, keys sorted: what `config.json` of a workdir holds."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True, default=list) + "\n"


def from_json(text: str) -> ConfigDict:
    """Inverse of `to_json`; lists become tuples, absent values placeholders."""

    def tuples(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(tuples(item) for item in value)
        if isinstance(value, dict):
            return {key: tuples(item) for key, item in value.items()}
        return value

    return ConfigDict(tuples(json.loads(text)))


# Keys in which a workdir's config may differ from the one given: they change how a run is watched
# or how long it is, not what it computes at a step that both have.
# `eval.online` is none: it decides whether a checkpoint holds a probe.
FREE_KEYS = ("epochs", "steps", "early_stopping", "log", "eval", "checkpoint", "profile_steps",
             "compilation_cache", "data.workers", "data.prefetch", "mesh")  # fmt: skip


def difference(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Lines `key: old -> new` for every key that differs and is not one of FREE_KEYS."""
    flat_old, flat_new = _flat(old.to_dict()), _flat(new.to_dict())
    lines = []
    for key in sorted(flat_old.keys() | flat_new.keys()):
        free = any(key == name or key.startswith(name + ".") for name in FREE_KEYS)
        if free and key != "eval.online":
            continue
        before, after = flat_old.get(key, "(absent)"), flat_new.get(key, "(absent)")
        if before != after:
            lines.append(f"{key}: {before} -> {after}")
    return lines


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = json.loads(json.dumps(value, default=list))
    return out
