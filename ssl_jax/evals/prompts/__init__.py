"""Prompts with demonstrations, for the evaluation `prompting`."""
