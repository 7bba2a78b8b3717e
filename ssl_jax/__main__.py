"""`python -m ssl_jax COMMAND`, the same as `ssl_jax COMMAND`."""

from ssl_jax.cli.app import main

if __name__ == "__main__":
    main()
