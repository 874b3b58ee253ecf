"""One HTML page a run: what was asked, what was found, and how far each figure can be trusted."""

from .page import write_report

__all__ = ["write_report"]
