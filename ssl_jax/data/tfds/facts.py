"""What is known of public sets of images without TensorFlow Datasets."""

from __future__ import annotations

from ssl_jax.data.kind import Facts

# Set of generated images -> its factors: features that are classes, and the one that is the label.
FACTORS = {
    "dsprites": (
        ("label_shape", "label_scale", "label_orientation", "label_x_position", "label_y_position"),
        "label_shape",
    ),
    "shapes3d": (
        (
            "label_floor_hue", "label_wall_hue", "label_object_hue", "label_scale", "label_shape",
            "label_orientation",
        ),
        "label_shape",
    ),
}  # fmt: skip
# As TFDS divides them (https://www.tensorflow.org/datasets/catalog/overview).
FACTS = {
    "celeb_a": Facts({"train": 162_770, "validation": 19_867, "test": 19_962}, None),
    "cifar10": Facts({"train": 50_000, "test": 10_000}, 10, 32),
    "cifar100": Facts({"train": 50_000, "test": 10_000}, 100, 32),
    "dsprites": Facts({"train": 737_280}, 3, 64, 1),
    "fashion_mnist": Facts({"train": 60_000, "test": 10_000}, 10, 28, 1),
    "imagenet2012": Facts({"train": 1_281_167, "validation": 50_000, "test": 100_000}, 1000),
    "imagenet2012_subset/10pct": Facts({"train": 128_116, "validation": 50_000}, 1000),
    "imagenet2012_subset/1pct": Facts({"train": 12_811, "validation": 50_000}, 1000),
    "imagenette": Facts({"train": 9_469, "validation": 3_925}, 10),
    "mnist": Facts({"train": 60_000, "test": 10_000}, 10, 28, 1),
    "shapes3d": Facts({"train": 480_000}, 4, 64, 3),
    "stl10": Facts({"train": 5_000, "test": 8_000, "unlabelled": 100_000}, 10, 96),
    "svhn_cropped": Facts({"train": 73_257, "test": 26_032, "extra": 531_131}, 10, 32),
}
