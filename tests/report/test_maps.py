"""Maps of features."""

import subprocess
import sys

import pytest

IMPORTED = """
import sys
import numpy as np
from ssl_jax.report import maps
assert "sklearn" not in sys.modules
before = []
maps.project = lambda x, **_: before.append("sklearn.manifold" in sys.modules)
maps.project_all([np.zeros((4, 2))] * 2, how="tsne", seed=0)
assert before == [True, True], before
"""


@pytest.mark.slow
def test_what_threads_need_is_imported_before_they_start():
    subprocess.run([sys.executable, "-c", IMPORTED], check=True, timeout=120)
