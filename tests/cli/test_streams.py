"""Standard output that nobody reads, or that cannot be written."""

import os
import subprocess
import sys

import pytest

from tests import commands
from tests.marks import slow_unless

RUN = (*commands.TINY, "--config.eval.names=()", "--config.eval.final_names=()")


def finishes(workdir):
    assert sorted(commands.losses(workdir)) == list(range(1, 31))
    assert (workdir / "results.json").exists()


@pytest.mark.parametrize(
    "reader", slow_unless(lambda reader: reader == "full disk", ["none", "full disk"])
)
def test_a_run_goes_on_without_its_output(tmp_path, reader):
    if reader == "none":  # as of `| head -1` that has ended
        reading, output = os.pipe()
        os.close(reading)
    else:
        output = os.open("/dev/full", os.O_WRONLY)
    with open(output, "wb") as stream:
        process = commands.launch(
            "train", f"--workdir={tmp_path}", *RUN, environment=commands.environment(),
            stdout=stream.fileno(),
        )  # fmt: skip
    try:
        assert process.wait(timeout=240) == 0
    finally:
        process.kill()
    finishes(tmp_path)


CLOSED = """
import os, sys
from ssl_jax.cli import streams
streams.open_missing()
streams.tolerate_lost_output(full_disks=True)
print("to nobody", flush=True)
print("to nobody", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2
    file.write("rows")
"""


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path):
    shell = 'exec "$@" <&- >&- 2>&-'
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", CLOSED, str(tmp_path / "file")]
    assert subprocess.run(command, timeout=120, env=commands.environment()).returncode == 0
    assert (tmp_path / "file").read_text() == "rows"


def test_a_result_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full, open(os.devnull, "w") as null:
        for command, output, code in (("list", full, 1), ("list", null, 0)):
            process = commands.launch(
                command, environment=commands.environment(), stdout=output.fileno(),
                stderr=null.fileno(),
            )  # fmt: skip
            assert process.wait(timeout=120) == code
    reading, output = os.pipe()
    os.close(reading)
    with open(output, "wb") as pipe:
        process = commands.launch("list", environment=commands.environment(), stdout=pipe.fileno())
        assert process.wait(timeout=120) == 0
