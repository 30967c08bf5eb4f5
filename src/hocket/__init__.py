"""hocket: a scheduler for compound LLM applications."""

__version__ = "0.1.0"
