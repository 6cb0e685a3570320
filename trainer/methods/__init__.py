"""All methods by name. One file per paper; the training loop knows none of them."""

from __future__ import annotations

from trainer.methods.astn import Astn
from trainer.methods.base import Domain, Losses, Method, MethodConfig, StreamNeed
from trainer.methods.dann import Dann
from trainer.methods.source_only import SourceOnly

__all__ = ["METHODS", "Domain", "Losses", "Method", "MethodConfig", "StreamNeed"]

METHODS: dict[str, type[Method]] = {m.name: m for m in (SourceOnly, Dann, Astn)}
