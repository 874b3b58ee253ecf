"""From a graph to Python source that a person can read: classes for folders, shared where their structure is equal."""

from .render import model_source, template

__all__ = ["model_source", "template"]
