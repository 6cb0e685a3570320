"""Learning-rate schedules: values at the ends and between, warm-up, and steps that come before."""

from __future__ import annotations

import pytest

from trainer.config import ConfigError, load_config, parse_config
from trainer.schedules import rate_factor
from trainer.shipped import find_config


def test_factors_of_the_schedules():
    assert rate_factor("inverse", 0, 100) == 1
    assert rate_factor("inverse", 50, 100) == pytest.approx(6**-0.75)
    assert rate_factor("constant", 99, 100) == 1
    assert rate_factor("cosine", 50, 100) == pytest.approx(0.5)
    assert rate_factor("exponential", 33, 99) == 1
    assert rate_factor("exponential", 66, 99) == pytest.approx(0.001**0.5)
    assert rate_factor("constant", 5, 100, warmup=0.1) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["inverse", "cosine", "exponential", "constant"])
def test_held_steps_come_before_the_schedule(schedule):
    for step in range(20):
        assert rate_factor(schedule, step, 120, hold_steps=20) == 1
    for step in range(100):
        later = rate_factor(schedule, 20 + step, 120, hold_steps=20)
        assert later == rate_factor(schedule, step, 100)


def test_dcas_rate_falls_after_10000_steps_of_joint_training():
    """Section IV.A: 30,000 steps, the rate decays after 10,000; pre-training comes before them."""
    config = load_config(find_config("shrec13/dca"))
    method, optimizer = config.method, config.optimizer
    before = method.pretrain_steps + method.pretrain_transformation_steps
    assert optimizer.hold_steps == before
    assert config.training.steps == before + 30000
    factors = [
        rate_factor(
            optimizer.schedule, step, config.training.steps, hold_steps=optimizer.hold_steps
        )
        for step in (0, before, before + 9999, before + 10001, before + 29999)
    ]
    assert factors[:3] == [1, 1, 1]
    assert factors[4] < 0.0011 < factors[3] < 1


def test_warm_up_after_held_steps_is_refused():
    with pytest.raises(ConfigError, match="hold_steps: 5 steps at the full rate come before warm"):
        parse_config({"method": {"name": "dca"}, "optimizer": {"hold_steps": 5, "warmup": 0.1}})
