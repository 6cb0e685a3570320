"""DeepSpeed still has what is used of its inside, and the repairs of it are still needed."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any

import pytest

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("deepspeed is not installed", allow_module_level=True)

PRIVATE = {
    "runtime.zero.stage_1_and_2": (
        "self.single_partition_of_fp32_groups",
        "self.round_robin_bit16_groups",
        "self.round_robin_bit16_offsets",
    ),
    "runtime.zero.stage3": (
        "self.fp32_partitioned_groups_flat",
        "self.fp16_groups",
        "self.grad_position",
        "def get_param_id",
    ),
    "runtime.zero.partition_parameters": (
        "param.all_gather = ",
        "param.partition = ",
        "param.ds_active_sub_modules = ",
        "def _convert_to_deepspeed_param",
    ),
    "comm.torch": ("deepspeed.ops.__compatible_ops__.get(builder.NAME",),
}


def source(module: str) -> str:
    spec = importlib.util.find_spec(f"deepspeed.{module}")
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin) as file:
        return file.read()


@pytest.mark.parametrize("module", PRIVATE)
def test_deepspeed_has_what_is_used_of_its_inside(module):
    text = source(module)
    assert [name for name in PRIVATE[module] if name not in text] == []


@pytest.mark.parametrize(
    ("module", "owner", "name"),
    [
        ("runtime.engine", "DeepSpeedEngine", "_broadcast_model"),
        ("runtime.zero.partition_parameters", "Init", "_zero_init_param"),
    ],
)
def test_the_broadcast_of_weights_still_fails_for_parameters_without_axes(module, owner, name):
    """Where it views them as bytes no longer, `weights_as_they_are` can go."""
    found: Any = getattr(importlib.import_module(f"deepspeed.{module}"), owner)
    assert "data.view(torch.uint8)" in inspect.getsource(getattr(found, name))
