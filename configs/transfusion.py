"""Medical images, pretrained or not (Raghu et al. 2019), https://arxiv.org/abs/1902.07208

    ssl_jax train --config=transfusion:VARIANT --workdir=runs/transfusion

Variants:
  lesions        generated discs with small marks of five kinds, several labels an image
  lesions_grade  the same discs, five grades
  shapes         pretraining for both: which of six shapes is drawn, with the same net
  chexpert       five pathologies of chest radiographs, from CheXpert's folder with its csv files:
                 --config.data.name='image_csv:CheXpert-v1.0-small/{split}.csv'
  retina         five grades of diabetic retinopathy, from the photographs and csv files of EyePACS:
                 --config.data.name=image_csv:trainLabels.csv

All train from random weights; with --config.init_from=runs/PRETRAINED they fine-tune. The nets are
CBR-Small for radiographs and photographs (--config.model.name=cbr_large_t, cbr_large_w, cbr_tiny,
resnet50), and for the small discs an eighth of CBR-Tiny's width. The sweep sweeps/transfusion
compares both starts.

Published AUC, mean and deviation over five runs: retina 95.7 to 96.6 from random weights and 95.8
to 96.7 from ImageNet (Table 1); each pathology of CheXpert in `ssl_jax/sweeps/published.json`
(Table 2). Batches, rates and lengths here are not the paper's.
"""

from ml_collections import ConfigDict

from ssl_jax.config import base_config
from ssl_jax.configs import common

VARIANTS = ("lesions", "lesions_grade", "shapes", "chexpert", "retina")
PATHOLOGIES = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")


def get_config(variant: str = "lesions") -> ConfigDict:
    """The config of one variant."""
    common.check_variant("transfusion", variant, VARIANTS)
    config = base_config()
    several = variant in ("lesions", "chexpert")
    config.method = ConfigDict(dict(name="multilabel" if several else "supervised"))
    own = ("multilabel",) if several else ("accuracy", "grades")
    own = own[:1] if variant == "shapes" else own
    config.eval.update(names=own, final_names=own, online=False, baselines=())
    config.checkpoint.best_metric = "eval/multilabel/auc" if several else "eval/accuracy/top1"
    {"chexpert": _chexpert, "retina": _retina}.get(variant, _lesions)(config)
    if variant == "lesions_grade":
        config.data.options.label = "grade"
    if variant == "shapes":
        config.data.name = "shapes"
        config.data.options.num_generated = 2048
    return config


def _lesions(config: ConfigDict) -> None:
    """A minute of one CPU core. Flips and small shifts keep the marks as they are."""
    config.batch_size = 64
    config.epochs = 12.0
    config.data.update(name="lesions", image_size=48)
    config.data.options = ConfigDict(dict(num_generated=1024))
    config.model.update(name="cbr_tiny", width=0.125)
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip"),
            random_resized_crop=dict(size=48, scale=(0.8, 1.0)),
            flip=dict(p=0.5),
        )
    )
    config.optimizer.update(
        name="adamw", base_lr=3e-3, lr_scaling="none", weight_decay=1e-4, warmup_epochs=1.0
    )
    config.eval.update(every_epochs=1.0, batch_size=256)
    config.checkpoint.every_epochs = 4.0


def _chexpert(config: ConfigDict) -> None:
    """Frontal and lateral radiographs of 224x224.

    A blank means that the report does not mention a finding, and counts as absent; uncertain ones
    (-1) are left out of the loss (U-Ignore of Irvin et al. 2019).
    """
    _radiology(config, size=224, batch_size=32, epochs=10.0)
    config.data.update(name="image_csv:", num_examples=223_414)
    config.data.options = ConfigDict(
        dict(root="..", image_key="Path", label_keys=PATHOLOGIES, uncertain="unknown")
    )
    config.eval.update(test_split="validation")


def _retina(config: ConfigDict) -> None:
    """Photographs of 587x587, as in the paper; the fifth of the rows that is held out is scored."""
    _radiology(config, size=587, batch_size=8, epochs=10.0)
    config.data.update(name="image_csv:", num_examples=28_100, num_classes=5)
    config.data.options = ConfigDict(
        dict(root="train", image_key="image", suffix=".jpeg", label_key="level")
    )


def _radiology(config: ConfigDict, *, size: int, batch_size: int, epochs: float) -> None:
    """AdamW without decay, which is Adam; images on a canvas, crops and flips on the device."""
    config.batch_size = batch_size
    config.epochs = epochs
    config.dtype = "bfloat16"
    config.data.update(image_size=size, workers=16)
    config.model.update(name="cbr_small")
    config.views = ConfigDict(
        dict(
            ops=("random_resized_crop", "flip"),
            random_resized_crop=dict(size=size, scale=(0.8, 1.0)),
            flip=dict(p=0.5),
        )
    )
    config.optimizer.update(
        name="adamw", base_lr=1e-3, lr_scaling="none", weight_decay=0.0, warmup_epochs=0.5
    )
    config.eval.update(every_epochs=1.0, batch_size=128)
    config.eval.reuse.patches = "mean"  # all positions of 512 images would take gigabytes
    config.checkpoint.every_epochs = 1.0
