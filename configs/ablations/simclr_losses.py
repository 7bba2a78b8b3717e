"""Contrastive losses of SimCLR, with and without semi-hard mining (Chen et al. 2020, Table 4)

    ssl_jax sweep --config=ablations/simclr_losses:digits --workdir=runs/losses

Variants:
  digits    the embedded digits, two seeds: half an hour on two CPU cores
  shapes    generated images, ResNet-18: about two hours on one accelerator
  imagenet  the paper's: ResNet-50, batch 4096, 100 epochs

Negatives are of one view only, also NT-Xent's. Every loss has the best of its settings (temperature
or margin, of ImageNet also the learning rate). The small variants choose and compare on a part of
the train split that is held back; the paper does so on ImageNet's validation split.
"""

from ssl_jax.configs import scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed

VARIANTS = ("digits", "shapes", "imagenet")
TEMPERATURES, MARGINS = (0.1, 0.2, 0.5, 1.0), (0.0, 0.4, 0.8, 1.6)
LOSSES = {  # name -> method.loss, method.semi_hard, settings
    "margin": ("margin_triplet", False, MARGINS),
    "NT-Logi": ("nt_logistic", False, TEMPERATURES),
    "margin (sh)": ("margin_triplet", True, MARGINS[1:]),  # with 0 no semi-hard one violates it
    "NT-Logi (sh)": ("nt_logistic", True, TEMPERATURES),
    "NT-Xent": ("info_nce", False, TEMPERATURES),
}
RATES = {"digits": (0.003,), "shapes": (0.3,), "imagenet": (0.01, 0.1, 0.3, 0.5, 1.0)}
HELD_OUT = {
    "data.split": "train[:80%]",
    "eval.train_split": "train[:80%]",
    "eval.test_split": "train[80%:]",
}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/simclr_losses", variant, VARIANTS)
    cells = [
        Cell(
            {"loss": name, "setting": setting, "lr": rate, "seed": seed},
            scale.config("simclr"),
            {
                "method.loss": loss,
                "method.semi_hard": semi_hard,
                "method.margin" if loss == "margin_triplet" else "method.temperature": setting,
                "optimizer.base_lr": rate,
                "seed": seed,
                **scale.overrides,
                **({} if variant == "imagenet" else HELD_OUT),
            },
        )
        for name, (loss, semi_hard, settings) in LOSSES.items()
        for setting in settings
        for rate in RATES[variant]
        for seed in scale.seeds[:2]
    ]
    curve = Curve(
        measure=scale.measure,
        measure_label=scale.measure_label,
        x="loss",
        x_label="loss (sh: semi-hard negatives)",
        best_over=("setting", "lr"),
        published="simclr_table_4",
    )
    title = "SimCLR: contrastive losses"
    return Sweep(title, by_seed(cells), setting=scale.setting, curves=(curve,))
