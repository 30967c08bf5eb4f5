"""hocket: a scheduler for compound LLM applications."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hocket.client import headers, instrument, job, stage, tool, wrap

__all__ = ["__version__", "headers", "instrument", "job", "stage", "tool", "wrap"]


def __getattr__(name: str) -> Any:
    """What applications use, imported when first used: `import hocket` stays cheap for the command line."""
    if name in __all__:
        import hocket.client

        return getattr(hocket.client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
