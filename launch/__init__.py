"""Running ssl_jax on other machines: TPU VMs, GKE, SLURM. Needs Python alone, no JAX."""
