"""Text with labels: what is to be learned of an example, and rows of tokens that carry it."""
