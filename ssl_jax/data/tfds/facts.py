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
# Set of images with several labels -> the features of all labels of an image and of those that are
# not only difficult to see, and the number of labels. A label that is only difficult is unknown, as
# VOC's metric leaves such objects out (Everingham et al. 2010, section 4).
SEVERAL_LABELS = {"voc": ("labels", "labels_no_difficult", 20)}
# As TFDS divides them (https://www.tensorflow.org/datasets/catalog/overview).
FACTS = {
    "caltech101": Facts({"train": 3_057, "test": 6_087}, 102),
    "cars196": Facts({"train": 8_144, "test": 8_041}, 196),
    "celeb_a": Facts({"train": 162_770, "validation": 19_867, "test": 19_962}, None),
    "cifar10": Facts({"train": 50_000, "test": 10_000}, 10, 32),
    "cifar100": Facts({"train": 50_000, "test": 10_000}, 100, 32),
    "dsprites": Facts({"train": 737_280}, 3, 64, 1),
    "dtd": Facts({"train": 1_880, "validation": 1_880, "test": 1_880}, 47),
    "fashion_mnist": Facts({"train": 60_000, "test": 10_000}, 10, 28, 1),
    "food101": Facts({"train": 75_750, "validation": 25_250}, 101),
    "imagenet2012": Facts({"train": 1_281_167, "validation": 50_000, "test": 100_000}, 1000),
    "imagenet2012_subset/10pct": Facts({"train": 128_116, "validation": 50_000}, 1000),
    "imagenet2012_subset/1pct": Facts({"train": 12_811, "validation": 50_000}, 1000),
    "imagenette": Facts({"train": 9_469, "validation": 3_925}, 10),
    "mnist": Facts({"train": 60_000, "test": 10_000}, 10, 28, 1),
    "oxford_flowers102": Facts({"train": 1_020, "validation": 1_020, "test": 6_149}, 102),
    "oxford_iiit_pet": Facts({"train": 3_680, "test": 3_669}, 37),
    "shapes3d": Facts({"train": 480_000}, 4, 64, 3),
    "stl10": Facts({"train": 5_000, "test": 8_000, "unlabelled": 100_000}, 10, 96),
    "sun397/standard-part1-120k": Facts({"train": 19_850, "test": 19_850}, 397),
    "svhn_cropped": Facts({"train": 73_257, "test": 26_032, "extra": 531_131}, 10, 32),
    "voc/2007": Facts({"train": 2_501, "validation": 2_510, "test": 4_952}, None),
}
