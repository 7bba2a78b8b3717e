"""Tables in pipes and files are not cut."""

import io
import subprocess
import sys

from rich.table import Table

from ssl_jax.core.console import make_console

PROGRAM = """
from rich.table import Table
from ssl_jax.core.console import make_console
table = Table()
for number in range(30):
    table.add_column(f"column{number}")
table.add_row(*["long" * 5] * 30)
make_console().print(table)
"""


def test_a_table_in_a_pipe_keeps_all_columns():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert all(f"column{number}" in done.stdout for number in range(30))
    assert done.stdout.count("long" * 5) == 30


def test_a_narrow_table_is_not_stretched(monkeypatch):
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    table = Table("a")
    table.add_row("b")
    make_console().print(table)
    assert max(map(len, out.getvalue().splitlines())) < 10
