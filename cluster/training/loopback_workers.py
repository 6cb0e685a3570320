"""A process group of Ray Train workers that meet on loopback, for a cluster of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

from trainer.synchronised import meet_on_loopback

_RayBackend: Any = TorchConfig().backend_cls


class _LoopbackBackend(_RayBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(meet_on_loopback)
        super().on_start(worker_group, backend_config)


@dataclass
class LoopbackTorchConfig(TorchConfig):
    """Ray's options; only where rank 0 listens differs."""

    @property
    def backend_cls(self) -> Any:
        return _LoopbackBackend
