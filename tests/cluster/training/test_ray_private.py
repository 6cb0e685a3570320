"""Ray's private interfaces: each is as we use it, and none has a public form that would do.

A test that fails with a newer Ray says what to change in ``cluster/training/ray_private.py``. That
the entries do in a whole run what they are for is tested in ``test_listening.py`` (loopback) and
in ``tests/faults/test_elastic.py`` (SIGTERM, preemption, groups without room).
"""

from __future__ import annotations

import inspect
import socket
import time
from typing import Any

import pytest
import ray
import ray.train
from ray._private import accelerators, ray_constants, services
from ray.exceptions import ActorUnavailableError
from ray.train import constants as train_constants
from ray.train.torch import TorchConfig
from ray.train.v2._internal import constants, exceptions
from ray.train.v2._internal.execution.callback import WorkerCallback
from ray.train.v2._internal.execution.context import TrainContext
from ray.train.v2._internal.execution.preemption import PreemptionContext
from ray.util.state import get_actor
from ray.util.state.exception import RayStateApiException

from cluster.training import ray_private


class Named:
    def name(self) -> str:
        return "here"


@pytest.mark.ray
def test_the_state_of_nodes_and_actors(ray_cluster):
    free = ray_private.free_resources()
    assert set(free) == {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    assert all(kinds["CPU"] > 0 for kinds in free.values())
    assert ray_private.draining_nodes() == set()
    actor: Any = ray.remote(num_cpus=0)(Named).remote()
    assert ray.get(actor.name.remote()) == "here"
    alive = ray_private.actor_state(actor)
    assert (alive["State"], alive["NumRestarts"]) == ("ALIVE", 0)
    assert alive["Pid"] > 0
    assert alive["Address"]["NodeID"] in free
    ray.kill(actor)
    until = time.monotonic() + 60
    while ray_private.actor_state(actor)["State"] != "DEAD":
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.ray
def test_the_public_state_needs_a_dashboard(ray_cluster):
    with socket.socket() as probe:
        if not probe.connect_ex(("127.0.0.1", 8265)):
            pytest.skip("another cluster of this machine has its dashboard there")
    own = ray.get_runtime_context().gcs_address  # other tests may run clusters of their own
    with pytest.raises(RayStateApiException):
        get_actor("0" * 32, address=own, timeout=5)
    assert not hasattr(ray, "available_resources_per_node")


def test_clusters_of_one_node_have_the_loopback_address():
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR == "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    with ray_private.single_node():
        assert services.get_node_ip_address() == "127.0.0.1"
    assert "node_ip_address" not in inspect.signature(ray.init).parameters


def test_the_meeting_point_is_chosen_when_a_group_starts():
    """See ``test_a_meeting_point_on_loopback`` for what torch does by itself."""
    backend = ray_private.loopback_torch_config(backend="gloo").backend_cls
    assert issubclass(backend, TorchConfig().backend_cls)
    (ray_backend,) = backend.__bases__
    assert list(inspect.signature(ray_backend.on_start).parameters) == [
        "self",
        "worker_group",
        "backend_config",
    ]


def test_workers_call_back_when_they_start():
    assert hasattr(WorkerCallback, "after_init_train_context")
    assert not hasattr(ray.train, "WorkerCallback")
    called: list[bool] = []
    callback = ray_private.at_worker_start(lambda: called.append(True))
    assert isinstance(callback, WorkerCallback)
    callback.after_init_train_context()
    assert called == [True]


def test_the_public_look_for_a_preemption_waits_for_all_workers():
    assert "barrier across all workers" in str(ray.train.get_preemption_info.__doc__)
    assert PreemptionContext().preemption_info is None
    assert "preemption_context" in TrainContext.__dataclass_fields__


def test_failures_are_known_by_their_names():
    unplaced = exceptions.WorkerGroupStartupTimeoutError(2)
    assert ray_private.found_no_room(ray.train.ControllerError(unplaced))
    assert not hasattr(ray.train, "WorkerGroupStartupTimeoutError")
    gone = ActorUnavailableError("gone", None)
    gone._preempted = True
    seen = exceptions.WorkerHealthCheckFailedError("gone", gone)
    failure = ray.train.WorkerGroupError("gone", {1: seen})
    assert ray_private.worker_errors(failure) == {1: seen}
    assert ray_private.was_preempted(failure)
    assert not hasattr(ray.train, "WorkerHealthCheckFailedError")
    assert not ray_private.was_preempted(ray.train.WorkerGroupError("x", {1: ValueError()}))
    assert ray.train.PreemptionError.__name__ == "PreemptionError"


def test_ray_knows_the_variables():
    known = {
        constants.ENABLE_PRINT_PATCH_ENV_VAR,
        constants.WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
        train_constants.TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S,
        accelerators.RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO_ENV_VAR,
    }
    assert ray_private.ENVIRONMENT.keys() == known
