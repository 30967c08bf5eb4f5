"""Engines: the embedded one, its weights, its supervisor, and the profiler of any OpenAI-compatible engine."""
