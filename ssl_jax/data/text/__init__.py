"""Text: documents, their tokens on disk, and rows of tokens made of them."""
