"""Experiments, one file each; `common.py`, `fashion.py` and `scales.py` have what several share."""
