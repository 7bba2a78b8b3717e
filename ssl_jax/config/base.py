"""The keys that every experiment shares, with their defaults."""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


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
    # Random crops that the host cuts, by family of views: {"global": dict(count=2, size=224, ...)};
    # none: the device crops from the whole canvas.
    config.data.host_crops = ConfigDict()
    config.data.workers = 0  # decoding processes; 0: threads of this process
    config.data.prefetch = 2  # batches waiting on the device
    config.data.strict = False  # stop at an unreadable image instead of taking the next one
    config.data.labelled_fraction = placeholder(float)  # of the examples, the same of every class
    config.data.unlabelled = "drop"  # what becomes of the others: drop, or keep without a label
    config.data.labels_seed = 0  # which examples keep their label
    config.data.num_examples = placeholder(int)  # in the split, where the data are not at hand
    config.data.num_classes = placeholder(int)
    # Which examples a step sees: shuffle, pk, stream; and that sampler's options.
    config.data.sampler = ConfigDict(dict(name="shuffle"))
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
    config.optimizer.lr_factor = 1.0  # multiplies the rate, of a group for instance
    config.optimizer.schedule = "cosine"  # cosine, constant, step, linear, linear_unshifted
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.warmup_steps = placeholder(int)  # wins over warmup_epochs
    config.optimizer.warmup_start = 0.0  # first learning rate over the peak
    config.optimizer.final_lr_factor = 0.0  # last learning rate over the peak
    config.optimizer.milestones = ()  # of "step": fractions of the run
    config.optimizer.decay_factor = 0.1  # of "step"
    config.optimizer.weight_decay = 1e-6
    config.optimizer.weight_decay_end = placeholder(float)  # along half a cosine; unset: constant
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.bias_correction = True  # of adamw and lamb; BERT has none
    config.optimizer.trust_coefficient = 1e-3
    config.optimizer.momentum_order = "lr_inside"  # of LARS: lr_inside (SimCLR), lr_outside (BYOL)
    # Gradients longer than norm are shortened to it; 0: off. per: all, group or tensor has a norm.
    config.optimizer.clip = ConfigDict(dict(norm=0.0, per="all"))
    config.optimizer.exclude = r"(bias|scale)$"  # parameters neither decayed nor adapted
    config.optimizer.frozen_epochs = 0.0  # no updates before: parameters and state stay as they are
    config.optimizer.frozen_steps = placeholder(int)  # wins over frozen_epochs
    config.optimizer.polyak = 0.0  # decay of an average of all parameters for evaluation; 0: none
    # Per param_group: overrides of the keys above but polyak; layerwise=dict(decay=0.65) lets a
    # ViT's rates fall from layer to layer towards the input.
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
    config.eval.data = placeholder(str)  # another data set than data.name
    config.eval.train_split = "train"
    config.eval.test_split = "test"
    config.eval.validation_split = placeholder(str)  # scored while training; unset: test_split
    config.eval.final_checkpoint = "last"  # of which results.json is: last, or best of the run
    config.eval.batch_size = 256
    config.eval.center = 1.0  # side of the central square that is kept; 0.875 = 224/256
    config.eval.max_train_examples = placeholder(int)  # a fixed random subset
    config.eval.online = True  # a linear probe trained along, without gradient to the encoder
    config.eval.collapse_every_steps = 50  # 0: no collapse monitor
    # What needs no training too: raw pixels and the untrained encoder; of text for a task the most
    # frequent class, and logistic regression on TF-IDF.
    config.eval.baselines = False
    config.eval.knn = ConfigDict(dict(k=200, temperature=0.07))
    config.eval.few_shot = ConfigDict(dict(shots=(1, 2, 4, 8), draws=20, l2=0.1))
    config.eval.mlp = ConfigDict(dict(hidden_dim=256, max_epochs=200))
    config.eval.transformations = ConfigDict(dict(changes=("color",)))
    config.eval.held_out = ConfigDict(dict(max_examples=10_000))  # of the test split
    # Of questions that may have no answer: by how much the score of none must exceed that of the
    # best one. None: what is best for F1 on the very split that is scored, as papers do on dev.
    config.eval.task = ConfigDict(dict(null_threshold=placeholder(float)))
    config.eval.task.null_threshold = 0.0
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
