"""`faces:DIR`: a folder of images for each identity, such as LFW's or CASIA's.

    DIR/Aaron_Eckhart/Aaron_Eckhart_0001.jpg
    DIR/pairs.txt                                   LFW's, optional

With `pairs.txt` it is a benchmark: every image is in `test`, and the evaluation `verification`
tells its pairs apart. Without, a tenth of the identities is `test`, chosen by a hash of the name,
so that no identity is in both splits. Labels of `test` come after those of `train`, and
`num_classes` of `train` counts its own ones.
"""

from __future__ import annotations

import os

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import class_names
from ssl_jax.data.folders import folder_at, path_hash
from ssl_jax.data.image_files import Listed, ListedImages, image_files
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.request import Request

PAIRS = "pairs.txt"
_HELD_OUT = 10  # of the identities, one in so many is in `test`


def dataset(location: str, request: Request) -> ListedImages:
    """The images below DIR.

    Raises:
      UserError: there are no folders with images.
    """
    root = folder_at("faces", location)
    paths = sorted(path for path in image_files(root) if "/" in path)
    if not paths:
        raise UserError(f"faces:{location} has no folders of identities with images")
    identity_of = [path.partition("/")[0] for path in paths]
    identities = class_names.in_order(set(identity_of))
    benchmark = os.path.exists(os.path.join(root, PAIRS))
    tested = {name for name in identities if benchmark or path_hash(name)[0] % _HELD_OUT == 0}
    trained = tuple(name for name in identities if name not in tested)
    every = trained + tuple(name for name in identities if name in tested)
    number_of = {name: label for label, name in enumerate(every)}
    parts = {}
    for split, classes, held_out in (("train", trained, False), ("test", every, True)):
        rows = [i for i, name in enumerate(identity_of) if (name in tested) == held_out]
        labels = np.array([number_of[identity_of[i]] for i in rows], np.int32)
        if rows:
            parts[split] = Listed([paths[i] for i in rows], labels, classes)
    return ListedImages(f"faces:{location}", root, request, parts)


KIND = ImageKind(name="faces", location="DIR", dataset=dataset)
