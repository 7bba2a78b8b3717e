"""Reads compiled programs: memory, FLOPs, traffic and collectives, with loop iterations counted.

    from ssl_jax import hlo

    program = hlo.read(jax.jit(f).lower(x).compile())

Works on the text of the optimised program (HLO), for whatever platform it was compiled. What is
counted and what is approximate stands at `Program`'s attributes.
"""

from ssl_jax.hlo.collectives import Collective
from ssl_jax.hlo.live import Temporary
from ssl_jax.hlo.program import Program, peak_bytes, read

__all__ = ["Collective", "Program", "Temporary", "peak_bytes", "read"]
