"""All that is used of DeepSpeed and not documented there, as it is in DeepSpeed 0.19.8.

``tests/trainer/engines/test_deepspeed_private.py`` fails where DeepSpeed changes one of these, and
says for each repair when it can go.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_HOLD = -1  # stands for a module that uses a weight, so that no module's end releases it
Position = tuple[Any, Sequence[int], int, int]
"""A parameter, its whole shape, and where it lies in a partition: start and number of elements."""


def without_compiled_collectives(deepspeed: Any) -> None:
    """On the CPU collectives in shared memory are compiled at the first use, with a compiler that
    the machine may not have. gloo's are used instead."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def weights_as_they_are() -> Iterator[None]:
    """Engines made in this block do not broadcast rank 0's weights.

    All ranks have the same weights from seed or checkpoint. The broadcast views them as bytes,
    which fails for a parameter without axes.
    """
    engine = importlib.import_module("deepspeed.runtime.engine").DeepSpeedEngine
    init = importlib.import_module("deepspeed.runtime.zero.partition_parameters").Init

    def spread(self: Any, parameter: Any) -> None:
        self._convert_to_deepspeed_param(parameter)
        parameter.partition()

    before = engine._broadcast_model, init._zero_init_param
    engine._broadcast_model, init._zero_init_param = (lambda self: None), spread
    try:
        yield
    finally:
        engine._broadcast_model, init._zero_init_param = before


@contextmanager
def gathered(parameters: Sequence[Any]) -> Iterator[None]:
    """Gather weights that stage 3 has spread, and hold them for the block, forward passes included.

    ``deepspeed.zero.GatheredParameters`` does not: the end of a module's forward pass releases the
    weights that it gathered.
    """
    parameters[0].all_gather(param_list=parameters)
    for parameter in parameters:
        parameter.ds_active_sub_modules.add(_HOLD)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.ds_active_sub_modules.discard(_HOLD)
        parameters[0].partition(param_list=parameters, has_been_updated=False)


def partitions_of_groups(zero: Any) -> Iterator[tuple[Tensor, list[Position]]]:
    """Stages 1 and 2: this rank's flat partition of each group, and where parameters lie.

    A group's parameters lie end to end, and the whole is cut into W equal partitions.
    """
    for i, flat in enumerate(zero.single_partition_of_fp32_groups):
        parameters, starts = zero.round_robin_bit16_groups[i], zero.round_robin_bit16_offsets[i]
        found = zip(parameters, starts, strict=True)
        yield flat, [(p, p.shape, start, p.numel()) for p, start in found]


def partitions_of_parameters(zero: Any) -> Iterator[tuple[Tensor, list[Position]]]:
    """Stage 3: this rank's flat partition of each group, and where parts of parameters lie.

    Each parameter is cut into W equal pieces. A rank's pieces of a group lie end to end.
    """
    for flat, group in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
        found = []
        for parameter in group:
            _, start, length = zero.grad_position[zero.get_param_id(parameter)]
            found.append((parameter, parameter.ds_shape, start, length))
        yield flat, found
