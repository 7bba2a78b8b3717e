"""Imports what the commands need and forks a process for each request, see commands.py."""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import types
from unittest import mock

import jax


def requests(connection):
    """The descriptors and the content of each request, until the other end closes."""
    while True:
        header, descriptors, _, _ = socket.recv_fds(connection, 4, 4)
        if not header:
            return
        size, content = int.from_bytes(header, "little"), b""
        while len(content) < size:
            content += connection.recv(size - len(content))
        yield descriptors, json.loads(content)


def supervise(status):
    """Returns in a fork, for the command; the parent reports how that ends, and exits."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)  # until the process id has been sent
        os.close(reading)
        return
    os.write(status, f"{child}\n".encode())
    os.close(reading)
    os.close(writing)
    _, code, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    os.write(status, f"{os.waitstatus_to_exitcode(code)} {seconds}\n".encode())
    os._exit(0)


def serve(connection):
    """Returns in a process of its own for each request, None at the end of the requests."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the supervisors
    for (status, *standard), request in requests(connection):
        if os.fork() == 0:
            connection.close()
            supervise(status)
            os.close(status)
            for number, descriptor in enumerate(standard):
                os.dup2(descriptor, number)
                os.close(descriptor)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return request
        for descriptor in (status, *standard):
            os.close(descriptor)
    return None


def keep_programs():
    """Lets this process of a job write its programs to the compilation cache.

    JAX writes those of the first process only, and the keys of others' programs differ: they would
    compile everything again at every start, which takes ten seconds.
    """
    compiler = importlib.import_module("jax._src.compiler")
    write = getattr(compiler, "_cache_write", None)
    if write is None:  # another version of JAX
        return
    first = types.SimpleNamespace(global_state=types.SimpleNamespace(process_id=0, client=None))

    def write_as_first(*arguments):
        with mock.patch.object(compiler, "distributed", first):
            write(*arguments)

    compiler._cache_write = write_as_first


def run(request):
    """What `python -m ssl_jax` does."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.path[0] = os.getcwd()
    # JAX has read it at its import, from the environment of another command.
    jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS"))
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    if os.environ.get("JAX_PROCESS_ID", "0") != "0":
        keep_programs()
    sys.argv = ["ssl_jax", *request["argv"]]
    runpy.run_module("ssl_jax", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    app = importlib.import_module("ssl_jax.cli.app")
    for name in app.COMMANDS:
        importlib.import_module(f"ssl_jax.cli.{name}")
    for name in (
        "ssl_jax.report.page",
        "sklearn.linear_model",
        "sklearn.manifold",
        "matplotlib.figure",
    ):
        importlib.import_module(name)
    gc.freeze()  # else each process copies these objects when it looks for garbage
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        run(request)
