"""Files with a JSON object on each line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.data.text import corpus as corpus_lib


def objects(path: str, errors: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(number from 1, what to call it in messages, object) of each line that is not blank.

    Args:
      path: of the file.
      errors: "strict" or "replace".

    Raises:
      UserError: a line is not a JSON object, or the file cannot be read.
    """
    for number, line in corpus_lib.lines(path, errors):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{where} is {line[:40]!r}; it must be an object, {{...}}")
        yield number, where, record


def whole_characters(value: Any, errors: str, where: str) -> Any:
    """A JSON value without halves of characters, which JSON can express and UTF-8 cannot.

    Raises:
      UserError: there is one, and `errors` is "strict".
    """
    if isinstance(value, list):
        return [whole_characters(one, errors, where) for one in value]
    if isinstance(value, dict):
        return {key: whole_characters(one, errors, where) for key, one in value.items()}
    if not isinstance(value, str):
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise UserError(
                f"{where} has half a character, {error.object[error.start]!r}; repair it, or "
                "set data.options.errors=replace"
            ) from None
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value
