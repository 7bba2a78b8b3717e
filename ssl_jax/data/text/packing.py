"""Packing texts into rows so that little of them is padding.

Best-fit decreasing on the histogram of sizes (Krell et al. 2021, "Efficient Sequence Packing
without Cross-contamination", arXiv:2107.02027): the largest first, each into the row with the least
room that is enough. Rows whose contents have the same sizes are handled at once, so that the work
depends on how many sizes there are, and hardly on how many texts.
"""

from __future__ import annotations

import collections

import numpy as np

Content = tuple[int, ...]  # sizes in one row, largest first


def pack(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Distributes items over rows.

    Args:
      sizes: int [p], each in 1..capacity.
      capacity: of a row.

    Returns:
      (order, first): row i holds the items `order[first[i] : first[i + 1]]`; int64 [p] and [n+1].

    Raises:
      ValueError: a size is out of range.
    """
    sizes = np.asarray(sizes)
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= capacity:
        raise ValueError(f"sizes reach from {sizes.min()} to {sizes.max()}, capacity {capacity}")
    counts = np.bincount(sizes, minlength=capacity + 1)
    by_size = np.argsort(sizes, kind="stable")
    next_of = np.cumsum(counts) - counts  # in by_size, of each size the first item not yet placed
    order, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for content, rows in contents(counts, capacity):
        columns = []
        for size in content:
            columns.append(by_size[next_of[size] : next_of[size] + rows])
            next_of[size] += rows
        order.append(np.stack(columns, axis=1).reshape(-1))
        lengths.append(np.full(rows, len(content), np.int64))
    first = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return np.concatenate(order), first


def contents(counts: np.ndarray, capacity: int) -> list[tuple[Content, int]]:
    """What rows hold, and how many rows hold it.

    Args:
      counts: int [capacity + 1], items of each size; none of size 0.
      capacity: of a row.
    """
    # Rows by the room they have left; bit r of `rooms` says whether there are any with room r.
    with_room: dict[int, collections.deque[tuple[Content, int]]] = collections.defaultdict(
        collections.deque
    )
    rooms = 0

    def put(content: Content, room: int, rows: int) -> None:
        nonlocal rooms
        if rows:
            with_room[room].append((content, rows))
            rooms |= 1 << room

    for size in range(capacity, 0, -1):
        left = int(counts[size])
        while left:
            enough = rooms >> size
            if not enough:  # new rows
                each = capacity // size
                full, left_over = divmod(left, each)
                put((size,) * each, capacity - each * size, full)
                put((size,) * left_over, capacity - left_over * size, 1 if left_over else 0)
                break
            room = size + (enough & -enough).bit_length() - 1  # the least that is enough
            content, rows = with_room[room].popleft()
            taken = min(rows, left)
            left -= taken
            if taken < rows:
                with_room[room].appendleft((content, rows - taken))
            elif not with_room[room]:
                rooms &= ~(1 << room)
            put((*content, size), room - size, taken)
    return [entry for room in sorted(with_room) for entry in with_room[room]]
