"""The compiled port does what the model does, whatever happens in which order.

More than 20,000 random schedules in all, over the drivers; and a state machine of hypothesis', which finds
the shortest schedule that fails.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import NewPort
from .schedules import World

CHUNKS = 4
SCHEDULES = {"io_uring": 7000, "epoll": 7000, "select": 7000}  # of each, and 1,000 of other variants


@pytest.fixture
def world(new_port: NewPort) -> Iterator[World]:
    world = World(new_port)
    yield world
    world.close()


@pytest.mark.parametrize(
    "chunk", [0, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(1, CHUNKS))]
)
def test_random_schedules(world: World, variant: str, chunk: int) -> None:
    for number in range(SCHEDULES.get(variant, 1000) // CHUNKS):
        seed = f"{variant} {chunk} {number}"
        dice = random.Random(seed)
        schedule = world.schedule(dice.choice((1, 1, 2, 3)))
        try:
            for _ in range(dice.randrange(4, 16)):
                schedule.step(dice)
            schedule.end()
        except AssertionError as exc:
            raise AssertionError(f"schedule {seed}: {exc}") from exc


def test_hypothesis_finds_no_difference(world: World) -> None:
    hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis, which the extra `test` installs")
    from .machine import Machine

    def machine() -> Any:
        return Machine(world)

    hypothesis.stateful.run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
