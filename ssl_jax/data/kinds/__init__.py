"""Kinds of data set, one file each, and what two of them share.

The module of a kind's name has `dataset` (images), `corpus` (text), `examples` (labelled text), or
several of them: `jsonl` files hold texts with labels or without.
"""
