"""Reads compiled programs: memory, FLOPs, memory traffic and collectives, loops included.

    from ssl_jax import hlo

    program = hlo.read(jax.jit(f).lower(x).compile())

It parses the text of the optimised program (HLO) of any platform. The attributes of `Program`
define what is counted and what is approximate.
"""

from ssl_jax.hlo.collectives import Collective
from ssl_jax.hlo.live import Temporary
from ssl_jax.hlo.program import Program, peak_bytes, read

__all__ = ["Collective", "Program", "Temporary", "peak_bytes", "read"]
