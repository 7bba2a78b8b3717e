"""Sweeps that redraw a published curve, one file each."""
