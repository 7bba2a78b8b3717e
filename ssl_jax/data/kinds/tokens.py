"""`tokens:DIR`: a token cache that `ssl_jax prepare_text` has made."""

from __future__ import annotations

import os

from ssl_jax.core.errors import UserError
from ssl_jax.data.text.text_kind import TextKind
from ssl_jax.data.text.token_cache import TokenCache


def cache(location: str) -> TokenCache:
    """The cache in the folder `location`.

    Raises:
      UserError: there is none, or it is unfinished, or damaged.
    """
    directory = os.path.expanduser(location)
    if "://" in location:
        raise UserError(f"tokens:{location} is not a local path; copy or mount it (gcsfuse)")
    if not os.path.isdir(directory):
        raise UserError(
            f"tokens:{location} is not a folder; make it: ssl_jax prepare_text "
            f"--data=text:PATTERN --output={location}"
        )
    return TokenCache(directory)


KIND = TextKind(name="tokens", location="DIR", cache=cache)
