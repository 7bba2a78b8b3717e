"""Data sets that TensorFlow Datasets has prepared: their records, as images and as text."""
