"""Sweeps over methods and settings, one file each."""
