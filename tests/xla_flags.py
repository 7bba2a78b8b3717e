"""Flags with which XLA compiles for CPUs in half the time, and what it compiles runs slower."""

import importlib.metadata

# Tests compile thousands of tiny programs and run each a few times. Without optimisation, with the
# older code generator for fusions, and without compiling the functions of a program side by side
# they take half the time. Jaxlib 0.11 and newer may not know the latter two flags, and stop at
# flags that they do not know.
QUICK = "--xla_backend_optimization_level=0"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
# For programs that are compared bit by bit: optimised, as users' are.
OPTIMISED = "--xla_backend_optimization_level=1"
