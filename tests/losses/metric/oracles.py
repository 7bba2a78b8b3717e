"""The losses of metric learning by loops over examples, in float64."""

import itertools

import numpy as np


def unit(z):
    z = np.asarray(z, np.float64)
    return z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-6)


def distance(x, y, kind):
    if kind == "cosine":
        return 1 - x @ y
    if kind == "angular":
        return np.arccos(np.clip(x @ y, -1, 1))
    squared = np.sum((x - y) ** 2)
    return squared if kind == "squared" else np.sqrt(squared)


def prepared(z, kind, normalize):
    return unit(z) if normalize or kind in ("cosine", "angular") else np.asarray(z, np.float64)


def all_distances(z, kind):
    return np.array([[distance(x, y, kind) for y in z] for x in z])


def reduce(terms, how):
    terms = np.asarray(terms, np.float64)
    count = {"sum": 1, "mean": len(terms), "mean_nonzero": np.sum(terms > 0)}[how]
    return terms.sum() / max(count, 1)


def softplus(x):
    return np.logaddexp(x, 0)


def logsumexp(x):
    return np.logaddexp.reduce(np.asarray(x, np.float64)) if len(x) else -np.inf


def pairs(labels):
    """(positive pairs, negative pairs), ordered."""
    n = range(len(labels))
    known = [(i, j) for i in n for j in n if i != j and labels[i] >= 0 and labels[j] >= 0]
    return (
        [(i, j) for i, j in known if labels[i] == labels[j]],
        [(i, j) for i, j in known if labels[i] != labels[j]],
    )


def pair(z, labels, *, margin=1.0, positive_margin=0.0, power=2, distance="euclidean",
         l2_normalize=True, reduction="mean_nonzero"):  # fmt: skip
    d = all_distances(prepared(z, distance, l2_normalize), distance)
    positive, negative = pairs(labels)
    near = [max(0, d[i, j] - positive_margin) ** power for i, j in positive]
    far = [max(0, margin - d[i, j]) ** power for i, j in negative]
    return reduce(near, reduction) + reduce(far, reduction)


def triplets(d, labels, mining, margin):
    """(anchor, positive, negative) that are mined."""
    positive, negative = pairs(labels)
    chosen = []
    for a in range(len(labels)):
        ps = [p for i, p in positive if i == a]
        ns = [n for i, n in negative if i == a]
        if mining == "batch_hard":
            if ps and ns:
                p, n = max(ps, key=lambda p: d[a, p]), min(ns, key=lambda n: d[a, n])
                chosen.append((a, p, n))
            continue
        for p in ps:
            if mining in ("nearest_semi_hard", "semi_hard_or_farthest"):
                farther = [n for n in ns if d[a, n] > d[a, p]]
                if farther:
                    chosen.append((a, p, min(farther, key=lambda n: d[a, n])))
                elif ns and mining == "semi_hard_or_farthest":
                    chosen.append((a, p, max(ns, key=lambda n: d[a, n])))
                continue
            for n in ns:
                gap = d[a, n] - d[a, p]
                kinds = {
                    "all": True, "easy": gap > margin, "hard": gap <= 0,
                    "semi_hard": 0 < gap <= margin,
                }  # fmt: skip
                if kinds[mining]:
                    chosen.append((a, p, n))
    return chosen


def triplet(z, labels, *, margin=0.2, soft_margin=False, mining="batch_hard", mining_margin=None,
            distance="euclidean", l2_normalize=True, reduction="mean_nonzero"):  # fmt: skip
    d = all_distances(prepared(z, distance, l2_normalize), distance)
    chosen = triplets(d, labels, mining, margin if mining_margin is None else mining_margin)
    gaps = [d[a, p] - d[a, n] + margin for a, p, n in chosen]
    return reduce([softplus(x) if soft_margin else max(0, x) for x in gaps], reduction)


def quadruplet(z, labels, *, margin=1.0, second_margin=0.5, mining="batch_hard",
               mining_margin=None, distance="squared", l2_normalize=True,
               reduction="mean_nonzero"):  # fmt: skip
    d = all_distances(prepared(z, distance, l2_normalize), distance)
    positive, negative = pairs(labels)
    chosen = triplets(d, labels, mining, margin if mining_margin is None else mining_margin)
    first, second = [max(0, d[a, p] - d[a, n] + margin) for a, p, n in chosen], []
    compared = [(a, p) for a, p, _ in chosen] if mining == "batch_hard" else positive
    for a, p in compared:
        others = [d[i, j] for i, j in negative if labels[a] not in (labels[i], labels[j])]
        if others:
            second.append(max(0, d[a, p] - min(others) + second_margin))
    return reduce(first, reduction) + reduce(second, reduction)


def n_pair(z, labels, *, l2_normalize=False, l2_weight=0.0):
    z = prepared(z, "euclidean", l2_normalize)
    members = [np.flatnonzero(labels == c) for c in np.unique(labels[labels >= 0])]
    members = [m for m in members if len(m) > 1]
    if not members:
        return 0.0
    f, g = z[[m[0] for m in members]], z[[m[1] for m in members]]
    each = [logsumexp(g @ x) - g[c] @ x for c, x in enumerate(f)]
    squares = [x @ x for x in itertools.chain(f, g)]
    return np.mean(each) + l2_weight * np.mean(squares)


def lifted_structured(z, labels, *, margin=1.0, positive_margin=0.0, distance="euclidean",
                      l2_normalize=True, reduction="mean"):  # fmt: skip
    d = all_distances(prepared(z, distance, l2_normalize), distance)
    positive, negative = pairs(labels)
    terms = []
    for i, j in positive:
        far = [margin - d[k, m] for k, m in negative if k in (i, j)]
        terms.append(0.5 * max(0, logsumexp(far) + d[i, j] - positive_margin) ** 2)
    return reduce(terms, reduction)


def supcon(z, labels, *, temperature, base_temperature=None, reduction="mean"):
    s = unit(z) @ unit(z).T / temperature
    positive, negative = pairs(labels)
    each = []
    for i in np.flatnonzero(labels >= 0):
        ps = [p for a, p in positive if a == i]
        others = [s[i, j] for a, j in itertools.chain(positive, negative) if a == i]
        each.append(np.mean([logsumexp(others) - s[i, p] for p in ps]) if ps else 0.0)
    factor = temperature / (base_temperature or temperature)
    return factor * reduce(each, reduction)


def sigmoid(x, y, log_scale, bias):
    s = np.exp(log_scale) * unit(x) @ unit(y).T + bias
    sign = 2 * np.eye(len(s)) - 1
    return np.sum(softplus(-sign * s)) / len(s)


def slope(f, z, direction, step=1e-6):
    """The derivative of f at z in a direction, by central differences."""
    z = np.asarray(z, np.float64)
    return (f(z + step * direction) - f(z - step * direction)) / (2 * step)
