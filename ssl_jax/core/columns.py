"""The columns of a table, as an encoder has to know them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a table but for the label. All fields have one entry for each column.

    Attributes:
      names: of the columns.
      values: the categories of a column of categories, by number from 1; empty: it has numbers. A
        category that is not among them, like a missing one, has the number 0.
      means, deviations: of the numbers that are not missing; 0 and 1 for categories.
    """

    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Positions of the columns of numbers."""
        return tuple(i for i, values in enumerate(self.values) if not values)

    @property
    def categories(self) -> tuple[int, ...]:
        """Positions of the columns of categories."""
        return tuple(i for i, values in enumerate(self.values) if values)
