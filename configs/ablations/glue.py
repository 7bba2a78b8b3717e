"""Fine-tuning on the eight tasks of GLUE (Devlin et al. 2018, Table 1)

    ssl_jax sweep --config=ablations/glue:bert_base --workdir=runs/glue \
        --set=init_from=runs/bert

Variants:
  bert_base, bert_large   the recipes finetune:glue_TASK, three seeds of each task
  roberta                 the recipes finetune:roberta_TASK; the paper's table has no RoBERTa, so
                          that only the order of the tasks stands beside it

`init_from` is a pretrained run or a folder of the transformers library, e.g. of
bert-base-uncased. The data are those of tfds:glue. Each task has its own score: F1 for MRPC and
QQP, Matthews' correlation for CoLA, Spearman's for STS-B, accuracy for the others.

The labels of the test splits are not public: ours are scores on dev, MNLI's on the matched part.
The paper's are of the test server, and its average counts MNLI twice, matched and mismatched;
ours counts it once. WNLI is left out by both.
"""

from ssl_jax.configs import common, finetune
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed

# Variant -> recipe of a task, and the model beside whose published scores ours stand.
MODELS = {
    "bert_base": ("glue", "BERT-base"),
    "bert_large": ("glue", "BERT-large"),
    "roberta": ("roberta", "RoBERTa"),
}
VARIANTS = tuple(MODELS)
# In the order of the paper's table.
TASKS = ("mnli", "qqp", "qnli", "sst2", "cola", "stsb", "mrpc", "rte")
NEEDS = {"init_from": "the pretrained run, e.g. --set=init_from=runs/bert"}


def get_sweep(variant: str = "bert_base") -> Sweep:
    """The grid of one variant."""
    common.check_variant("ablations/glue", variant, VARIANTS)
    recipe, model = MODELS[variant]
    cells = [
        Cell(
            {"model": model, "task": task, "score": finetune.GLUE[task][1], "seed": seed},
            f"finetune:{recipe}_{task}",
            {"seed": seed, "eval.every_epochs": 0.0, "log.report": False},
        )
        for task in TASKS
        for seed in range(3)
    ]
    curve = Curve(
        measure="task/{score}",
        measure_label="score on dev, %",
        x="task",
        x_label="task",
        series="model",
        average_of=TASKS,
        published="glue",
        published_measure="score",
        published_label="score on test, %",
    )
    return Sweep(
        "GLUE: eight tasks and their average", by_seed(cells), needs=NEEDS,
        setting="dev splits, recipes of the paper", curves=(curve,),
    )  # fmt: skip
