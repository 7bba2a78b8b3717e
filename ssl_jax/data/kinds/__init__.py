"""Kinds of data set, one file each, which exports one object `KIND` (`ssl_jax.data.kind.Kind`)."""
