"""Labelled text: examples with labels for a task, and rows of tokens made of them."""
