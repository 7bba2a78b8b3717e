"""Eight virtual CPU devices for the whole suite, and a compilation cache shared between runs."""

import collections
import ctypes
import gc
import os
import signal
import sys
import tempfile

# Tests start hundreds of interpreters, here and in other processes. Where nothing keeps what Python
# compiles, each compiles all that it imports again, which takes seven seconds.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import jaxtyping  # noqa: E402

from tests.xla_flags import QUICK  # noqa: E402

# Before jax is imported: the number of devices is fixed when its backend starts.
os.environ["JAX_PLATFORMS"] = "cpu"
_FLAG = "--xla_force_host_platform_device_count="
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}8".strip()
# As ssl_jax.parallel.initialize does in the commands, with the reason.
os.environ["XLA_FLAGS"] += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
os.environ["XLA_FLAGS"] += f" {QUICK}"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "ssl_jax_test_xla_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Shapes in the signatures of these modules are checked on every call in this process. Modules are
# rewritten when they are imported, so this comes before any test imports them.
_CHECKED = (
    "clustering.kmeans", "losses.classification", "losses.clusters", "losses.contrastive",
    "losses.instance", "losses.isotropy", "losses.labels", "losses.language",
    "losses.masked_images", "losses.redundancy", "losses.siamese", "losses.sinkhorn",
    "models.patches", "evals.beta_vae_metric", "evals.collapse", "evals.dci",
    "evals.factor_vae_metric", "evals.knn", "evals.mig", "evals.shared_factor", "views.color",
    "views.filters",
)  # fmt: skip
jaxtyping.install_import_hook([f"ssl_jax.{name}" for name in _CHECKED], "beartype.beartype")

import jax  # noqa: E402

from tests import jitted  # noqa: E402  below what has to come before jax

jitted.install()

# A job in the background ignores SIGINT and hands that on to the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Files that take minutes; they are begun first, so that the workers finish at about the same time.
_LONG = (
    "tests/docs/test_pages.py",
    "tests/end_to_end/test_train.py",
    "tests/sweeps/test_sweep.py",
    "tests/methods/test_methods.py",
    "tests/end_to_end/test_object_store.py",
    "tests/end_to_end/test_preemption.py",
    "tests/cli/test_export.py",
    "tests/launch/test_colab.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.nodeid.split("::")[0] not in _LONG)


# Seconds that a row of the method table may take in the shared tests, with `make test` and with
# `make slow`: so many that fifty methods still fit.
_BUDGET = {False: 6, True: 25}
_row_seconds = collections.Counter()


def pytest_runtest_logreport(report):
    file, _, test = report.nodeid.partition("::")
    if file == "tests/methods/test_methods.py" and "[" in test:
        _row_seconds[test.partition("[")[2].rstrip("]")] += report.duration


def pytest_terminal_summary(terminalreporter, config):
    budget = _BUDGET[config.option.markexpr == "slow"]
    over = [(row, seconds) for row, seconds in _row_seconds.most_common() if seconds > budget]
    if over:
        terminalreporter.section(f"rows of the method table that take more than {budget} s")
    for row, seconds in over:
        terminalreporter.write_line(f"{row}: {seconds:.1f} s, {seconds - budget:.1f} s over")


def pytest_collection_finish():
    # Modules stay, and so do most traced programs: looking for garbage among them takes time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


_MEMORY = 2.5 * 2**30  # bytes a worker may keep


def pytest_runtest_teardown():
    # jax keeps every program that it traced and compiled, by the end of the suite several GiB. What
    # is needed again comes from the cache on disk.
    if sys.platform != "linux":
        return
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resident > _MEMORY:
        jitted.forget()
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
