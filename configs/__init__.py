"""Experiments, one file each; `common.py` and `scales.py` hold what several of them share."""
