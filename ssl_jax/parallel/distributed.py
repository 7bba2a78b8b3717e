"""Starts runs of several processes, and lets the processes agree on values."""

from __future__ import annotations

import glob
import importlib.util
import itertools
import logging
import os
import re
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ssl_jax.core.errors import UserError
from ssl_jax.hardware import tpu

_EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_HEARTBEAT = "SSL_JAX_HEARTBEAT_SECONDS"
_METADATA = "http://{host}/computeMetadata/v1/instance/attributes/worker-network-endpoints"


def initialize() -> bool:
    """Connects the processes of a run; call it before any other use of JAX.

    The processes are found by, in this order: `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`, which `launch/multiprocess_local.py` sets; a SLURM step or an Open MPI job
    with several tasks; a TPU slice with several workers (GKE or Compute Engine), or several slices.
    Otherwise the function does nothing. It keeps the program's signal handler for SIGTERM, which
    `jax.distributed` would replace.

    Returns:
        Whether the run has several processes.

    Raises:
        UserError: only some of the three variables are set, or one of the numbers is invalid.
    """
    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    skip_absent_tpu()
    order_cpu_collectives()
    arguments = _explicit_arguments(os.environ)
    if arguments is None:
        if not is_multi_process(os.environ):
            return False
        arguments = {}
    if _HEARTBEAT in os.environ:
        arguments["heartbeat_timeout_seconds"] = int(os.environ[_HEARTBEAT])
    on_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    jax.distributed.initialize(**arguments)
    if on_main_thread and handler is not None:
        signal.signal(signal.SIGTERM, handler)
    return jax.process_count() > 1


_GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
_CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def skip_absent_tpu() -> None:
    """Prevents JAX from searching for TPUs on machines with libtpu but without TPUs.

    `ssl_jax aot` compiles with libtpu, so machines without TPUs may have it. JAX starts libtpu
    before any other platform, and libtpu then prints errors. JAX has no option to exclude a
    platform, so this function names the other platforms; if that might hide one, it does nothing.
    `JAX_PLATFORMS` takes precedence. Call it before the backend starts.
    """
    if jax.config.jax_platforms or not tpu.is_installed() or _has_tpu(os.environ):
        return
    if not any(os.path.exists(device) for device in _GPU_DEVICES):
        jax.config.update("jax_platforms", "cpu")
    elif any(importlib.util.find_spec(plugin) for plugin in _CUDA_PLUGINS):
        jax.config.update("jax_platforms", "cuda,cpu")


def _has_tpu(environ: dict[str, str] | os._Environ) -> bool:
    """Whether this machine has TPU chips, or its environment describes some."""
    names = ("TPU_NAME", "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES",
             "TPU_ACCELERATOR_TYPE", "JAX_FORCE_TPU_INIT")  # fmt: skip
    return _has_tpu_device() or any(environ.get(name) for name in names)


def _has_tpu_device() -> bool:
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


_CONCURRENT = "--xla_cpu_enable_concurrency_optimized_scheduler="


def order_cpu_collectives() -> None:
    """Makes programs for several CPU devices run their collectives in a fixed order.

    By default, XLA on CPUs starts every operation that is ready. Independent collectives of a
    program may then start in different orders on different devices, which share few threads, and
    deadlock (observed with 8 virtual devices on 2 cores, jax 0.10). Call it before the backend
    starts. With one device or on other platforms it has no effect.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    several = (
        "xla_force_host_platform_device_count" in flags
        or jax.config.jax_num_cpu_devices > 1
        or any(name in os.environ for name in _EXPLICIT)
    )
    if several and _CONCURRENT not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_CONCURRENT}false".strip()


def _explicit_arguments(environ: dict[str, str] | os._Environ) -> dict | None:
    """Arguments of `jax.distributed.initialize` from the environment; None if they are not set."""
    address, processes, process = (environ.get(name) for name in _EXPLICIT)
    if processes is None and process is None:
        return None  # with only an address, JAX detects the other arguments
    if address is None or processes is None or process is None:
        missing = [name for name in _EXPLICIT if name not in environ]
        raise UserError(f"{' and '.join(missing)} not set: set all of {', '.join(_EXPLICIT)}")
    try:
        numbers = {"num_processes": int(processes), "process_id": int(process)}
    except ValueError:
        raise UserError(
            f"JAX_NUM_PROCESSES={processes!r}, JAX_PROCESS_ID={process!r}: both must be integers"
        ) from None
    # Otherwise JAX would use the local rank of a surrounding SLURM step as a device number.
    return {
        "coordinator_address": address,
        "cluster_detection_method": "deactivate",
        **numbers,
    }


def is_multi_process(environ: dict[str, str] | os._Environ) -> bool:
    """Whether the environment is that of a run with several processes that JAX can detect."""
    if "JAX_COORDINATOR_ADDRESS" in environ:
        return True
    # Unlike SLURM_NTASKS, the count of the step is not set in a batch script or an allocation,
    # which run one process.
    tasks = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    if any(int(environ.get(name) or 1) > 1 for name in tasks):
        return True
    platforms = (jax.config.jax_platforms or "").split(",")
    return platforms[0] in ("", "tpu") and _tpu_workers(environ) > 1


def _tpu_workers(environ: dict[str, str] | os._Environ) -> int:
    """Number of workers in this TPU slice, from the environment (GKE) or the metadata server."""
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if environ.get(name):
            return len(environ[name].split(","))
    if not _has_tpu_device() or "TPU_SKIP_MDS_QUERY" in environ:
        return 1
    host = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        _METADATA.format(host=host), headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return len(response.read().decode().split(","))
    except (urllib.error.URLError, OSError):
        return 1


def leave(code: int) -> NoReturn:
    """Ends the program with an exit code, without waiting for other processes of the run.

    After an error in one process, the others wait for it in a collective. With `sys.exit`, JAX
    would wait for them for minutes. When this process is gone, the others end too.
    """
    if jax.process_count() > 1 and code:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


LOST_PROCESS = 128 + signal.SIGABRT
"""Exit code after the loss of another process, also used by JAX after missing heartbeats."""

_OF_ANOTHER = re.compile(
    r"\b(gloo|nccl|peer|socket|heartbeats?|coordination|distributed service)|"
    r"^(UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED)\b",
    re.IGNORECASE,
)


def lost_process(error: BaseException | None) -> str | None:
    """The error's message if it shows the loss of another process of the run, else None.

    A process that waits in a collective learns of the loss from the network (Gloo, NCCL) or from
    missing heartbeats. Memory errors and errors of the program itself, which would occur again, do
    not count.
    """
    while error is not None and jax.process_count() > 1:
        if isinstance(error, jax.errors.JaxRuntimeError) and _OF_ANOTHER.search(str(error)):
            return str(error).strip().splitlines()[0]
        error = error.__cause__
    return None


def any_process(flag: bool) -> bool:
    """True on every process if `flag` is true on one of them.

    Every process must call it at the same point. With it, all processes save and stop at the same
    step. It waits for the dispatched steps, so do not call it at every step.
    """
    if jax.process_count() == 1:
        return bool(flag)
    return bool(multihost_utils.process_allgather(np.asarray(flag, np.int32)).any())


def from_all_processes(numbers: Sequence[int]) -> np.ndarray:
    """The lists of (32-bit) integers of all processes: int32 `[processes numbers]`.

    Every process must call it at the same point.
    """
    own = np.asarray(numbers, np.int32)
    return np.atleast_2d(
        own if jax.process_count() == 1 else multihost_utils.process_allgather(own)
    )


def from_first_process(numbers: Sequence[int]) -> list[int]:
    """The first process's list of (32-bit) integers, on every process."""
    if jax.process_count() == 1:
        return list(numbers)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    padded = np.zeros(length, np.int32)
    if jax.process_index() == 0:
        padded[:] = numbers
    return multihost_utils.broadcast_one_to_all(padded).tolist() if length else []


_texts = itertools.count()
_TEXT_SECONDS = 24 * 3600


def text_from_first_process(text: str) -> str:
    """The first process's text, on every process; every process must call it at the same point.

    It uses the coordination service, because collectives have timeouts of seconds on some
    platforms, and the other processes may wait for a long time.
    """
    if jax.process_count() == 1:
        return text
    client = ocp.multihost.get_jax_distributed_client()
    key = f"ssl_jax/text/{next(_texts)}"
    if is_first_process():
        client.key_value_set(key, text)
        return text
    return client.blocking_key_value_get(key, _TEXT_SECONDS * 1000)


def is_first_process() -> bool:
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes have called it; `name` must be the same in all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
