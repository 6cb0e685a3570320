"""All private interfaces of Ray that this project uses, and its undocumented variables.

Last seen to work with Ray 2.60.0. Each entry says why no public interface will do and when it can
go. ``tests/cluster/training/test_ray_private.py`` has a test for each: it fails when Ray changes
the private interface, and also when a public one becomes good enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainer.synchronised import meet_on_loopback

if TYPE_CHECKING:
    from ray.train import UserCallback

# Set before a session starts, unless the user has set them. Ray has no options for these. They can
# go when ScalingConfig or RunConfig of ray.train have fields for them.
ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # Ray would replace `print` in the workers by a logger
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # tasks without a GPU keep CUDA_VISIBLE_DEVICES
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",  # 60 s are too few for torch on a slow disk
    # Before Ray kills a group, it waits this long for a worker that does not answer; else 30 s.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
}


def free_resources() -> dict[str, dict[str, float]]:
    """What nobody uses, by node id and kind: ``CPU``, ``GPU``, ``memory`` in bytes.

    ``ray.available_resources`` adds up all nodes, and ``ray.util.state`` needs the dashboard.
    """
    from ray._private.state import available_resources_per_node

    return available_resources_per_node()


def draining_nodes() -> set[str]:
    """Ids of the nodes that will soon leave the cluster; only ``ray.util.state``, which needs the
    dashboard, has a public form."""
    from ray._private.state import state

    return set(state.get_draining_nodes() or ())


def actor_state(actor: Any) -> dict[str, Any]:
    """``State``, ``NumRestarts``, ``Pid`` and ``Address`` of an actor, also of a dead one.

    The public ``ray.util.state.get_actor`` needs the dashboard.
    """
    from ray._private.state import state

    return state.actor_table(actor._actor_id.hex())


@contextmanager
def single_node() -> Iterator[None]:
    """A cluster that starts inside has the loopback address, on which all its servers listen.

    Ray reads the variable RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER when it is imported, which is before
    this program can set it. This can go when ``ray.init`` takes the address to listen on.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def loopback_torch_config(**options: Any) -> Any:
    """Ray's ``TorchConfig(**options)``, except that rank 0 listens on loopback alone.

    Ray lets the process group's meeting point listen on all addresses. This can go when torch or
    Ray bind it to the node's own address.
    """
    from ray.train.torch import TorchConfig

    torch_backend: Any = TorchConfig().backend_cls

    class LoopbackBackend(torch_backend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(meet_on_loopback)
            super().on_start(worker_group, backend_config)

    class LoopbackTorchConfig(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return LoopbackBackend

    return LoopbackTorchConfig(**options)


def at_worker_start(action: Callable[[], None]) -> UserCallback:
    """For ``ray.train.RunConfig(callbacks=...)``: run ``action`` in the main thread of each worker.

    The training function runs in another thread, but only the main thread may handle signals. The
    public ``UserCallback`` knows no event in a worker. This can go when it does.
    """
    from ray.train.v2._internal.execution.callback import WorkerCallback

    class AtWorkerStart(WorkerCallback):
        def after_init_train_context(self) -> None:
            action()

    return AtWorkerStart()  # pyright: ignore[reportReturnType]


def preemption_noticed() -> bool:
    """Whether Ray has told this worker that a node of its group will be taken away.

    The public ``ray.train.get_preemption_info`` waits for all workers in every call; the training
    loop agrees on leaving by itself, together with other reasons. This can go when the public
    function answers at once.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


# The classes of these failures are private or as yet unstable, so they are known by their names.


def found_no_room(failure: BaseException) -> bool:
    """Whether ``fit`` failed before its workers ran: they found no place, or could not start."""
    kind = type(getattr(failure, "controller_failure", None)).__name__
    return kind.startswith("WorkerGroupStartup")


def was_preempted(failure: BaseException) -> bool:
    """Whether ``fit`` failed since a node was taken away after a notice."""
    if type(failure).__name__ == "PreemptionError":
        return True
    errors = worker_errors(failure).values()
    deaths = (getattr(error, "health_check_failure", error) for error in errors)
    return any(getattr(death, "preempted", False) for death in deaths)


def worker_errors(failure: BaseException) -> Mapping[int, BaseException]:
    """What each failed worker raised, by rank; empty where ``fit`` failed for another reason."""
    return getattr(failure, "worker_failures", None) or {}
