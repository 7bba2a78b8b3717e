r"""Pretrained or random weights for medical images: Transfusion (Raghu et al. 2019), Tables 1, 2

    ssl_jax train --config=transfusion:shapes --workdir=runs/shapes
    ssl_jax sweep --config=sweeps/transfusion:lesions --workdir=runs/transfusion \
        --set=pretrained=runs/shapes

Variants:
  lesions   generated discs with marks of a few pixels, pretrained on generated shapes; two lengths
  chexpert  five pathologies of chest radiographs, each CBR net and ResNet-50 with its own
            pretrained run: --set=cbr_small=runs/cbr_small --set=cbr_tiny=runs/cbr_tiny ...
            --set=data.name='image_csv:CheXpert-v1.0-small/{split}.csv'
  retina    grades of retinal photographs, the same nets: --set=data.name=image_csv:trainLabels.csv

Both starts have the same net, recipe and seeds. The tables have means and deviations over the
seeds, in the layout of the paper's and beside them: the AUC of each label (Table 2), and that of
grade 2 or above (Table 1), which also has Inception-v3, not trained here.

The figure also has AUC against the length of training. He et al. 2019 (arXiv:1811.08883): from
random weights a net catches up with a pretrained one if it is trained for long. `reuse` measures
feature reuse: the CKA of each stage before and after training.
"""

from collections.abc import Callable, Mapping

from ssl_jax.configs import common
from ssl_jax.configs.transfusion import PATHOLOGIES
from ssl_jax.data.kinds.lesions import FINDINGS
from ssl_jax.evals.label_metrics import metric_name
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

VARIANTS = ("lesions", "chexpert", "retina")
NETS = {
    "cbr_large_t": "CBR-LargeT",
    "cbr_large_w": "CBR-LargeW",
    "cbr_small": "CBR-Small",
    "cbr_tiny": "CBR-Tiny",
    "resnet50": "ResNet-50",
}
STARTS = {"random": False, "pretrained": True}  # -> whether it starts from the weights
STAGES = ("stage1", "stage2", "stage3", "stage4")
_SPARE = {
    "eval.every_epochs": 0.0,
    "eval.final_names": ("multilabel", "reuse"),
    "log.tensorboard": False,
    "log.report": False,
}


def get_sweep(variant: str = "lesions") -> Sweep:
    """The cells of one variant."""
    common.check_variant("sweeps/transfusion", variant, VARIANTS)
    return {"lesions": _lesions, "chexpert": _chexpert, "retina": _retina}[variant]()


def _lesions() -> Sweep:
    lengths = (4, 8, 16)
    cells = [
        Cell(
            labels,
            "transfusion:lesions",
            {
                **_SPARE,
                "init_from": "{pretrained}",
                "init_weights": STARTS[labels["start"]],
                "epochs": float(labels["epochs"]),
                "seed": labels["seed"],
            },
        )
        for labels in product(epochs=lengths, start=STARTS, seed=(0, 1, 2))
    ]
    length = Curve(
        measure="multilabel/auc",
        measure_label="AUC, mean over labels, %",
        x="epochs",
        x_label="epochs",
        series="start",
    )
    return Sweep(
        "Transfusion: random weights and those of a net of shapes",
        by_seed(cells),
        parameters={"pretrained": "the pretrained run, e.g. --set=pretrained=runs/shapes"},
        setting="1024 generated discs of 48x48, an eighth of CBR-Tiny",
        curves=(
            length,
            _table(FINDINGS, {"epochs": max(lengths)}, {start: start for start in STARTS}),
            _reuse({"epochs": max(lengths)}),
        ),
    )


def _chexpert() -> Sweep:
    cells = _cells_of_nets("chexpert", lambda title, start: {"start": f"{title}, {start}"}, _SPARE)
    names = {cell.labels["start"]: cell.labels["start"] for cell in cells}
    return Sweep(
        "Transfusion: CheXpert, random weights and pretrained ones",
        by_seed(cells),
        parameters=dict.fromkeys(NETS),
        setting="CheXpert",
        curves=(_table(PATHOLOGIES, {}, names), _reuse({})),
    )


def _retina() -> Sweep:
    cells = _cells_of_nets(
        "retina",
        lambda title, start: {"model": title, "start": start},
        {**_SPARE, "eval.final_names": ("grades", "accuracy", "reuse")},
    )
    table = Curve(
        measure="grades/auc",
        measure_label="AUC, %",
        x="model",
        x_label="net",
        series="start",
        matrix=True,
        published="transfusion_table_1",
        published_measure="auc",
        published_label="AUC, %",
    )
    return Sweep(
        "Transfusion: retinal photographs, random weights and pretrained ones",
        by_seed(cells),
        parameters=dict.fromkeys(NETS),
        setting="EyePACS",
        curves=(table,),
    )


def _cells_of_nets(
    variant: str, labels: Callable[[str, str], dict[str, str]], shared: Mapping[str, object]
) -> list[Cell]:
    """Five seeds of every net from either start.

    Args:
      variant: of the config `transfusion`.
      labels: (title of the net, start) -> labels of the cell, without its seed.
      shared: overrides of all cells.
    """
    return [
        Cell(
            {**labels(title, start), "seed": seed},
            f"transfusion:{variant}",
            {
                **shared,
                "model.name": net,
                "init_from": f"{{{net}}}",
                "init_weights": STARTS[start],
                "seed": seed,
            },
        )
        for net, title in NETS.items()
        for start in STARTS
        for seed in range(5)
    ]


def _table(
    findings: tuple[str, ...], where: Mapping[str, object], names: Mapping[str, str]
) -> Curve:
    """The table of the AUC of each label."""
    return Curve(
        columns={name: f"multilabel/auc_{metric_name(name)}" for name in findings},
        measure="",
        measure_label="AUC, %",
        x="finding",
        x_label="label",
        series="start",
        names=names,
        where=where,
        matrix=True,
        published="transfusion_table_2",
        published_measure="auc",
        published_label="AUC, %",
    )


def _reuse(where: Mapping[str, object]) -> Curve:
    """CKA of each stage, before and after training."""
    return Curve(
        columns={stage: f"reuse/{stage}" for stage in STAGES},
        measure="",
        measure_label="CKA of start and end",
        x="stage",
        x_label="stage",
        series="start",
        where=where,
        percent=False,
    )
