"""RoBERTa: more text and more steps (Liu et al. 2019, Table 4)

    sweep="ssl_jax sweep --config=ablations/roberta_data_steps"
    $sweep:pydoc --workdir=runs/roberta_pydoc
    $sweep:pydoc_finetune --workdir=runs/roberta_passages
    $sweep:paper --workdir=runs/roberta_paper
    $sweep:finetune --workdir=runs/roberta_tasks

Variants:
  pydoc            pretrains roberta:pydoc on a tenth of the documentation and on all of it, for 400
                   to 2,000 steps, two seeds; scored by the masked tokens of held-out documents
  pydoc_finetune   fine-tunes the runs of `pydoc` on which part of the library a passage is from
  paper            pretrains RoBERTa-large: 16 GB (/data/books_and_wikipedia) for 100,000 steps, and
                   160 GB (/data/roberta) for 100,000, 300,000 and 500,000
  finetune         fine-tunes the runs of `paper` on SQuAD 1.1 and 2.0, MNLI and SST-2, three seeds

The variants that fine-tune start from the runs of the one before by their names, in
runs/roberta_pydoc and runs/roberta_paper below the folder in which the command is given. Every run
has its own schedule, which ends with it. The paper reports medians over five seeds; here they are
means.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed

VARIANTS = ("pydoc", "pydoc_finetune", "paper", "finetune")
# Text of a run, and its length: 16 GB were trained for the shortest only.
PAPER = (("16GB", 100_000), ("160GB", 100_000), ("160GB", 300_000), ("160GB", 500_000))
PYDOC = (("a tenth", 400), ("all", 400), ("all", 1200), ("all", 2000))
STANDS_FOR = {
    "data": {"a tenth": "16GB", "all": "160GB"},
    "steps": {400: 100_000, 1200: 300_000, 2000: 500_000},
}
TEXT = {
    "16GB": {"data.name": "tokens:/data/books_and_wikipedia"},
    "160GB": {"data.name": "tokens:/data/roberta"},
    "a tenth": {"data.split": "train[:10%]"},
    "all": {},
}
# Task -> recipe, score, name of the score.
TASKS = {
    "squad": ("squad", "f1", "F1, %"),
    "squad2": ("squad2", "f1", "F1, %"),
    "mnli": ("roberta_mnli", "accuracy", "accuracy, %"),
    "sst2": ("roberta_sst2", "accuracy", "accuracy, %"),
}
_SPARE = {"eval.every_epochs": 0.0, "log.report": False}
_TITLE = "RoBERTa: more text and more steps"


def get_sweep(variant: str = "pydoc") -> Sweep:
    """The grid of one variant."""
    common.check_variant("ablations/roberta_data_steps", variant, VARIANTS)
    return {
        "pydoc": lambda: _pretrain("roberta:pydoc", PYDOC, range(2)),
        "pydoc_finetune": _passages,
        "paper": lambda: _pretrain("roberta:large", PAPER, (0,)),
        "finetune": _tasks,
    }[variant]()


def _pretrain(config, lengths, seeds) -> Sweep:
    cells = [
        Cell(
            {"data": data, "steps": steps, "seed": seed},
            config,
            {"steps": steps, "seed": seed, **TEXT[data], **_SPARE},
        )
        for data, steps in lengths
        for seed in seeds
    ]
    curve = _curve("held_out/accuracy", "masked tokens of held-out text, %", "mnli")
    setting = {"roberta:pydoc": "Python's documentation"}.get(config, "RoBERTa-large")
    return Sweep(_TITLE, by_seed(cells), setting=setting, curves=(curve,))


def _passages() -> Sweep:
    cells = [
        Cell(
            labels := {"data": data, "steps": steps, "seed": seed},
            "finetune:pydoc",
            {"seed": seed, "init_from": f"runs/roberta_pydoc/{_run(labels)}", **_SPARE},
        )
        for data, steps in PYDOC
        for seed in range(2)
    ]
    curve = _curve("task/accuracy", "part of the library, %", "mnli")
    return Sweep(_TITLE, by_seed(cells), setting="passages of Python's documentation",
                 curves=(curve,))  # fmt: skip


def _tasks() -> Sweep:
    cells = [
        Cell(
            {"task": task, "data": data, "steps": steps, "seed": seed},
            f"finetune:{recipe}",
            {
                "seed": seed,
                "init_from": f"runs/roberta_paper/{_run(dict(data=data, steps=steps, seed=0))}",
                **_SPARE,
            },
        )
        for data, steps in PAPER
        for task, (recipe, _, _) in TASKS.items()
        for seed in range(3)
    ]
    curves = tuple(
        _curve(f"task/{score}", name, task, name, where={"task": task})
        for task, (_, score, name) in TASKS.items()
    )
    return Sweep(_TITLE, by_seed(cells), setting="RoBERTa-large, dev splits", curves=curves)


def _run(labels) -> str:
    """The folder of a pretraining run below the workdir of its sweep."""
    return Cell(labels, "roberta").name


def _curve(
    measure: str, label: str, published_measure: str, published_label: str = "MNLI-m, %", **options
) -> Curve:
    return Curve(
        measure=measure,
        measure_label=label,
        x="steps",
        x_label="steps",
        series="data",
        published="roberta_table_4",
        published_measure=published_measure,
        published_label=published_label,
        stands_for=STANDS_FOR,
        **options,
    )
