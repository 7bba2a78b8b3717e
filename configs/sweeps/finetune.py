r"""Fine-tuning against training from scratch, at learning rates chosen on held-out texts.

    ssl_jax sweep --config=sweeps/finetune:pydoc --workdir=runs/rates \
        --set=init_from=runs/bert
    ssl_jax sweep --config=sweeps/finetune:pydoc_final --workdir=runs/final \
        --set=init_from=runs/bert

`pydoc` trains finetune:pydoc on 85% of the train split's documents at several learning
rates and scores it on the rest: with the weights of the pretrained run and without them, with all
labels and with a tenth of them. Tokenizer, net and length are the same, and the test split is not
looked at. `pydoc_final` trains on the whole train split, three seeds each, at the rate that was
best on average, the same for both starts, and scores the test split. At 3e-3 the training loss had
not moved half-way through, so that rate is not in the grid.

`glue_TASK` is BERT's grid on a task of GLUE, glue_rte for instance: learning rates and batches of
Devlin et al. 2018, App. A.3, scored on dev, where the paper chose too.
"""

from ssl_jax import config
from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep, product

STARTS = {"pretrained": True, "scratch": False}  # -> init_weights
BASE_LRS = (3e-4, 1e-3)
BEST = 3e-4
# Share of the labels -> what is set; a tenth is gone through more often, for half the steps.
LABELS = {"all": {}, "tenth": {"data.labelled_fraction": 0.1, "epochs": 15.0}}
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")
VARIANTS = ("pydoc", "pydoc_final", *(f"glue_{task}" for task in GLUE))
NEEDS = {"init_from": "the pretrained run, e.g. --set=init_from=runs/bert"}
_SHORT = {
    "eval.every_epochs": 0.0,
    "eval.baselines": (),
    "log.tensorboard": False,
    "log.report": False,
}


def get_sweep(variant: str = "pydoc") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/finetune", variant, VARIANTS)
    if variant == "pydoc":
        return _rates()
    return _final() if variant == "pydoc_final" else _glue(variant)


def _rates() -> Sweep:
    held_out = {"data.split": "train[:85%]", "eval.test_split": "train[85%:]"}
    cells = [
        Cell(
            labels,
            "finetune:pydoc",
            {
                "init_weights": STARTS[labels["start"]],
                "optimizer.base_lr": labels["base_lr"],
                **held_out,
                **LABELS[labels["labels"]],
                **_SHORT,
            },
        )
        for labels in product(start=STARTS, labels=LABELS, base_lr=BASE_LRS)
    ]
    return Sweep("learning rates of fine-tuning", tuple(cells), needs=NEEDS, metric="task/accuracy")


def _final() -> Sweep:
    cells = [
        Cell(
            labels,
            "finetune:pydoc",
            {
                "init_weights": STARTS[labels["start"]],
                "optimizer.base_lr": BEST,
                "seed": labels["seed"],
                **LABELS[labels["labels"]],
                **_SHORT,
            },
        )
        for labels in product(start=STARTS, labels=LABELS, seed=(0, 1, 2))
    ]
    return Sweep("fine-tuned and from scratch", tuple(cells), needs=NEEDS, metric="task/accuracy")


def _glue(variant: str) -> Sweep:
    recipe = f"finetune:{variant}"
    cells = [
        Cell(
            labels,
            recipe,
            {
                "optimizer.base_lr": labels["base_lr"],
                "batch_size": labels["batch_size"],
                "epochs": labels["epochs"],
                "eval.every_epochs": 0.0,
                "log.report": False,
            },
        )
        for labels in product(
            base_lr=(2e-5, 3e-5, 5e-5), batch_size=(16, 32), epochs=(2.0, 3.0, 4.0)
        )
    ]
    metric = config.load(recipe).checkpoint.best_metric.removeprefix("eval/")
    return Sweep(f"BERT's grid on {variant}", tuple(cells), needs=NEEDS, metric=metric)
