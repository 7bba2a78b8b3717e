"""Samplers: which examples a training step sees, and how many steps an epoch has."""
