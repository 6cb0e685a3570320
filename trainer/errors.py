"""The error of a run description. It stands alone so that reporting one never loads torch."""

from __future__ import annotations


class ConfigError(ValueError):
    """A run description that cannot be used; the message names the key and the remedy."""
