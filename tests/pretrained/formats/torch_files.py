"""PyTorch's files, written without PyTorch."""

import collections
import io
import pickle
import sys
import types
import unittest.mock
import zipfile

import numpy as np


class _Storage:
    def __init__(self, array, kind):
        self.array, self.kind = array, kind


def _modules():
    """Just enough of torch's names for pickles to refer to."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "HalfStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("only to be named")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = (
        "torch._utils", "_rebuild_tensor_v2",
    )  # fmt: skip
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    return {"torch": torch, "torch._utils": utils}


def write(path, tree, *, offset=0):
    """What torch.save makes of a tree of dicts whose arrays are tensors.

    Args:
      offset: where in its storage each tensor claims to begin.
    """
    modules = _modules()
    torch, utils = modules["torch"], modules["torch._utils"]
    storages = []

    class Tensor:
        def __init__(self, array):
            self.array = array

        def __reduce__(self):
            array = np.ascontiguousarray(self.array).reshape(self.array.shape)
            kind = {"f4": torch.FloatStorage, "f2": torch.HalfStorage, "i8": torch.LongStorage}
            storage = _Storage(array, kind[array.dtype.str[1:]])
            strides = tuple(s // array.itemsize for s in array.strides)
            rest = (False, collections.OrderedDict())
            return utils._rebuild_tensor_v2, (storage, offset, array.shape, strides, *rest)

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, _Storage):
                return None
            storages.append(thing.array)
            return ("storage", thing.kind, str(len(storages) - 1), "cpu", thing.array.size)

    def wrap(node):
        if isinstance(node, dict):
            return {key: wrap(value) for key, value in node.items()}
        return Tensor(node) if isinstance(node, np.ndarray) else node

    buffer = io.BytesIO()
    with unittest.mock.patch.dict(sys.modules, modules):  # names are looked up there
        Pickler(buffer, protocol=2).dump(wrap(tree))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", buffer.getvalue())
        for number, array in enumerate(storages):
            archive.writestr(f"archive/data/{number}", array.tobytes())
