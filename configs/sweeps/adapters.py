r"""Full fine-tuning, LoRA, a soft prompt and frozen features of one pretrained model.

    ssl_jax sweep --config=sweeps/adapters:pydoc --workdir=runs/rates \
        --set=init_from=runs/bert
    ssl_jax sweep --config=sweeps/adapters:pydoc_final --workdir=runs/adapters \
        --set=init_from=runs/bert

The task is that of finetune:pydoc with a tenth of its labels, the same ones in all cells: steps
are few, and what was pretrained counts. `pydoc` trains on 85% of the documents of the train split
at three learning rates each and scores the rest. `pydoc_final` trains on the whole train split at
the rates of `BEST`, three seeds each, and scores the test split. The results have the numbers of
trained parameters (with the head) and the bytes of the training state, frozen weights included.
"""

from typing import Any

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep, product

# What is trained besides the head -> what is set, and the learning rates tried.
WAYS: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "full": ({}, (1e-4, 3e-4, 1e-3)),
    "lora": ({"adapt.name": "lora", "adapt.rank": 8, "adapt.alpha": 16.0}, (2e-3, 5e-3, 1e-2)),
    "prompt": ({"adapt.name": "prompt", "adapt.length": 16}, (1e-2, 1e-1, 3e-1)),
    "frozen": ({"method.freeze_encoder": True}, (3e-3, 3e-2, 1e-1)),
}
BEST = {"full": 3e-4, "lora": 2e-3, "prompt": 0.3, "frozen": 3e-2}
VARIANTS = ("pydoc", "pydoc_final")
NEEDS = {"init_from": "the pretrained run, e.g. --set=init_from=runs/bert"}
_SHARED = {
    "data.labelled_fraction": 0.1,
    "epochs": 15.0,
    "eval.every_epochs": 0.0,
    "eval.baselines": (),
    "log.tensorboard": False,
    "log.report": False,
}


def get_sweep(variant: str = "pydoc") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/adapters", variant, VARIANTS)
    is_final = variant == "pydoc_final"
    held_out = {"data.split": "train[:85%]", "eval.test_split": "train[85%:]"}
    title = "fine-tuning, adapters and frozen features"
    if is_final:
        labels = product(way=WAYS, seed=(0, 1, 2))
    else:
        title = f"learning rates of {title}"
        labels = [
            {"way": way, "base_lr": base_lr}
            for way, (_, rates) in WAYS.items()
            for base_lr in rates
        ]
    cells = [
        Cell(
            one,
            "finetune:pydoc",
            {
                **WAYS[one["way"]][0],
                "optimizer.base_lr": BEST[one["way"]] if is_final else one["base_lr"],
                **({"seed": one["seed"]} if is_final else held_out),
                **_SHARED,
            },
        )
        for one in labels
    ]
    return Sweep(title, tuple(cells), needs=NEEDS, metric="task/accuracy")
