"""The priority of the thread that compiles."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import types

import jax
import numpy as np
import pytest

from ssl_jax.hardware import compiler_thread

linux = pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads")

# Compiles a program of many kernels on one core; prints by how much each thread that has worked is
# nicer than the process, the hardest worker first.
PROGRAM = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
import jax.numpy as jnp
import numpy as np
from ssl_jax.hardware import compiler_thread

def steps(x):
    for k in range(250):
        x = jnp.sin(x) - jnp.sum(x, axis=k % 2, keepdims=True)
    return x

compiler_thread._BUSY, compiler_thread._WORKING = 0.03, 0.02
compiler_thread.busy = lambda: False
usual = os.getpriority(os.PRIO_PROCESS, 0)
mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
lowered = jax.jit(steps).lower(jax.ShapeDtypeStruct((300, 300), "float32"))
with compiler_thread.yielding(mesh):
    before = compiler_thread.threads()
    lowered.compile()
spent = {
    number: thread.seconds - before[number].seconds
    for number, thread in compiler_thread.threads().items() if number in before
}
working = sorted((k for k in spent if spent[k] > 0.02), key=lambda k: -spent[k])
print([os.getpriority(os.PRIO_PROCESS, k) - usual for k in working])
"""


def niceness():
    """The priority of every thread of this process by its id."""
    return {
        int(task.name): os.getpriority(os.PRIO_PROCESS, int(task.name))
        for task in pathlib.Path("/proc/self/task").iterdir()
    }


def test_the_oldest_thread_that_works_compiles():
    thread = compiler_thread.Thread
    before = {1: thread(9, 5.0), 2: thread(3, 0.0)}
    later = {1: thread(9, 5.05), 2: thread(3, 0.02), 3: thread(12, 0.04)}
    assert compiler_thread.compiling(before, later) is None
    later[3] = thread(12, 0.3)  # generates code and overtakes it
    assert compiler_thread.compiling(before, later) == 1
    later[2] = thread(3, 0.04)
    assert compiler_thread.compiling(before, later) == 2
    assert compiler_thread.compiling({}, {}) is None


@linux
def test_threads_of_python_are_not_counted():
    counted = set(compiler_thread.threads())
    assert counted.isdisjoint(thread.native_id for thread in threading.enumerate())
    jax.devices()
    assert set(niceness()) & set(compiler_thread.threads())  # those of XLA


@linux
def test_priority_falls_once(monkeypatch):
    given = {7: 0}
    monkeypatch.setattr(os, "getpriority", lambda which, thread: given.get(thread, 3))
    monkeypatch.setattr(os, "setpriority", lambda which, thread, nice: given.update({thread: nice}))
    for _ in range(2):
        compiler_thread.lower_priority(7)
        assert given == {7: 13}


@pytest.mark.parametrize("platform", ("gpu", "tpu"))
def test_other_devices_are_left_alone(platform, monkeypatch):
    monkeypatch.setattr(compiler_thread, "threads", lambda: pytest.fail("looked"))
    device = types.SimpleNamespace(platform=platform)
    with compiler_thread.yielding(types.SimpleNamespace(devices=np.array([device]))):
        pass


@linux
@pytest.mark.slow
def test_the_thread_that_compiles_gets_a_lower_priority():
    command = [sys.executable, "-c", PROGRAM]
    env = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    found = []
    for _ in range(4):  # now and then XLA goes on in another thread of its pool
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        found.append(json.loads(done.stdout))
        if sorted(found[-1]) == [0] * (len(found[-1]) - 1) + [10]:
            return
    pytest.fail(f"of the threads that worked, none or others than one became nicer: {found}")


@linux
def test_busy_machines_are_left_alone(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (os.cpu_count() + 0.1, 0.0, 0.0))
    monkeypatch.setattr(compiler_thread, "threads", lambda: pytest.fail("looked"))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    with compiler_thread.yielding(mesh):
        pass
    monkeypatch.setattr(os, "getloadavg", lambda: (0.4, 9.0, 9.0))
    assert not compiler_thread.busy()
