"""The simulator: a heap of events drives the core; engines follow a model; jobs come from a trace or a generator."""
