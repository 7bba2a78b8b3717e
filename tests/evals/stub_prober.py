"""A prober of tokens in memory, for evaluations that train on all tokens of an example."""

import jax
import numpy as np

from ssl_jax import parallel
from ssl_jax.evals.model import Model

# Its output of any name is what the source has.
MODEL = Model(None, layer_outputs=lambda batch, names: dict.fromkeys(names, batch["x"]))


class StubProber:
    """Gives the batches of a `Prober`, and records the indices that are read."""

    def __init__(self, train, test, num_classes, devices=1):
        self.num_classes = num_classes
        self.train, self.test = train, test
        self.mesh = parallel.make_mesh(devices=jax.devices()[:devices])
        self.read = []

    def train_subset(self):
        return None

    def batches(self, source, indices, *, batch_size):
        self.read.append(("test" if source is self.test else "train", np.asarray(indices)))
        local = np.arange(batch_size)
        for first in range(0, len(indices), batch_size):
            rows = indices[first : first + batch_size]
            mask = np.arange(batch_size) < len(rows)
            rows = np.pad(rows, (0, batch_size - len(rows)))
            batch = {"x": source.x[rows], "label": source.label[rows], "mask": mask}
            yield parallel.to_global(batch, self.mesh, local, batch_size)
