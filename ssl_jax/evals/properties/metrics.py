"""The desiderata: what each metric measures, its range, which direction is better, its pitfalls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from ssl_jax.evals.metric import Metric


@dataclasses.dataclass(frozen=True)
class Property:
    """One desideratum as a row of the table.

    Attributes:
      name: of the metric.
      group: what it is a measure of, e.g. "smoothness".
      heading: of the row.
      measures: one sentence.
      values: the range, and what its ends or chance mean.
      pitfall: what makes the number misleading.
      better: which values are better; None if it depends on the purpose.
      unit: as of `Metric`.
      on_axis: value -> position on the axis of the radar, from 0 to 1, where 1 is better; None: it
        has no axis.
    """

    name: str
    group: str
    heading: str
    measures: str
    values: str
    pitfall: str
    better: Literal["higher", "lower"] | None = "higher"
    unit: str = ""
    on_axis: Callable[[float], float] | None = None

    @property
    def metric(self) -> Metric:
        """Its declaration. The tables of runs do not show it: it has a table of its own."""
        return Metric(self.heading, self.measures, self.unit, self.better, shown=False)


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)


PROPERTIES = (
    Property(
        "lipschitz", "smoothness", "local Lipschitz quotient",
        "change of the code over change of the image for small perturbations, both relative to the "
        "distance of two different images; median over images, mean over perturbations",
        "from 0; raw pixels 1",
        "A code that ignores the perturbed factors is smooth. A code that encodes a factor that "
        "changes few pixels cannot be.",
        better="lower", on_axis=lambda value: 1 / (1 + max(value, 0.0)),
    ),
    Property(
        "lipschitz_95", "smoothness", "local Lipschitz quotient, worst",
        "the 95th percentile over images instead of the median",
        "from 0; raw pixels 1",
        "As above. The quotient along one direction is a lower bound of the Lipschitz constant.",
        better="lower",
    ),
    Property(
        "invariance", "invariance", "cosine under augmentation",
        "cosine of the centred codes of an image and of the image changed, mean over perturbations "
        "and strengths",
        "-1 to 1; different images about 0",
        "A factor that the task needs should not be ignored: hue, where classes are colours. Few "
        "directions of large variance decide the cosine.",
        on_axis=_share,
    ),
    Property(
        "nmi", "clustering", "NMI of k-means",
        "mutual information of k-means clusters and classes over the mean of their entropies",
        "0 to 1; random clusters slightly above 0",
        "Clusters may follow another factor than the class; k is the number of classes.",
        on_axis=_share,
    ),
    Property(
        "ari", "clustering", "ARI of k-means",
        "agreement of pairs of examples in k-means clusters and classes, adjusted for chance",
        "-0.5 to 1; random clusters 0",
        "As NMI.",
    ),
    Property(
        "silhouette", "clustering", "silhouette of classes",
        "distance to the nearest other class minus distance within the class, over the larger",
        "-1 to 1; overlapping classes about 0",
        "Low in many dimensions, where distances are alike, even if classes can be separated.",
    ),
    Property(
        "knn_purity", "clustering", "kNN purity",
        "share of the nearest neighbours that have the class of the example",
        "0 to 100%; chance: the share of the class",
        "Depends on the number of examples: more of them are nearer neighbours.",
        unit="%", on_axis=_share,
    ),
    Property(
        "hoyer", "sparsity", "Hoyer sparsity",
        "(sqrt d - L1 norm / L2 norm) / (sqrt d - 1) of a code, mean over examples",
        "0 (all units equal) to 1 (one unit); Gaussian noise 0.2",
        "Depends on the basis. A collapsed code with one large unit is sparse.",
        better=None, on_axis=_share,
    ),
    Property(
        "active", "sparsity", "active units",
        "share of the units that are active for an example: above 5% of the unit's largest value",
        "0 to 100%",
        "Units without ReLU are rarely near 0.",
        better=None, unit="%",
    ),
    Property(
        "dead", "sparsity", "constant units",
        "share of the units that are the same for all examples",
        "0 to 100%",
        "A unit that almost never changes does not count.",
        better="lower", unit="%",
    ),
    Property(
        "rank", "rank", "effective rank",
        "exp of the entropy of the normalised singular values of centred codes (Roy & Vetterli "
        "2007)",
        "1 to the smaller of width and examples - 1",
        "Noise has full rank. Compare equal numbers of examples and equal widths.",
        better=None,
    ),
    Property(
        "rank_share", "rank", "effective rank, share",
        "the effective rank over its largest possible value",
        "0 to 100%; independent units of one variance 100%",
        "Narrow codes have a high share.",
        unit="%", on_axis=_share,
    ),
    Property(
        "mig", "disentanglement", "mutual information gap",
        "whether each factor is encoded in a single unit (Chen et al. 2018)",
        "0 to 1; a rotation of perfect codes about 0",
        "Depends on the basis. Two units with the same factor have 0.",
        on_axis=_share,
    ),
    Property(
        "sap", "disentanglement", "SAP",
        "gap of the two units that predict a factor best (Kumar et al. 2018)",
        "0 to 1",
        "Depends on the basis; slow for wide codes.",
    ),
    Property(
        "dci_disentanglement", "disentanglement", "DCI disentanglement",
        "whether a unit is used for one factor only (Eastwood & Williams 2018)",
        "0 to 1",
        "Depends on the basis and on the trees that are fitted; minutes for wide codes.",
    ),
    Property(
        "dci_completeness", "disentanglement", "DCI completeness",
        "whether a factor is read from one unit only",
        "0 to 1",
        "As DCI disentanglement.",
    ),
    Property(
        "dci_informativeness", "disentanglement", "DCI informativeness",
        "accuracy of the predicted factors, in classes",
        "0 to 100%",
        "As DCI disentanglement.",
        unit="%",
    ),
    Property(
        "linear", "hierarchy", "factors by a linear map",
        "share of the error of a constant prediction that a linear map of the code avoids, mean "
        "over factors (without factors: the class)",
        "0 (no better than a constant) to 100%",
        "Angles and hues are circles, which a line reads in part. The angle of a disc or of a "
        "symmetric shape cannot be read.",
        unit="%", on_axis=_share,
    ),
    Property(
        "unit_purity", "interpretability", "purity of units",
        "share of the nine images that excite a unit most which have their most frequent class, "
        "mean over units",
        "from chance to 100%",
        "The class is one factor of many: a unit for a colour scores chance. Depends on the basis.",
        unit="%", on_axis=_share,
    ),
    Property(
        "unit_purity_chance", "interpretability", "purity of units, chance",
        "the purity of units that have nothing to do with classes",
        "as above",
        "",
        better=None, unit="%",
    ),
    Property(
        "midpoint", "interpolation", "distance of midpoints to data",
        "pixel distance of images decoded halfway between two codes to the nearest training "
        "images, over that of test images; for raw pixels: of mixtures of two images",
        "from 0; images of the data 1",
        "Blurred images are near to many others: compare with decoded codes. Decoders only.",
        better="lower",
    ),
    Property(
        "decoded", "interpolation", "distance of decoded codes to data",
        "the same for images decoded from the codes themselves",
        "from 0; images of the data 1",
        "Below 1 for blurred images.",
        better=None,
    ),
)  # fmt: skip

METRICS = {
    **{one.name: one.metric for one in PROPERTIES},
    "lipschitz_{perturbation}": Metric(
        "Lipschitz, {perturbation}", unit="", better="lower", shown=False
    ),
    "cosine_{perturbation}": Metric("cosine, {perturbation}", unit="", shown=False),
    "nmi_{factor}": Metric("NMI of k-means and {factor}", unit="", shown=False),
    "depth_{place}": Metric("linear map of {place}", shown=False),
}
