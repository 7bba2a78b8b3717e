"""Runs ssl_jax on other machines: TPU VMs, GKE, SLURM. Needs only Python, no JAX."""
