"""Schedules whose steps hypothesis chooses."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from .schedules import World


class Machine(RuleBasedStateMachine):
    """One schedule."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    @initialize(concurrency=st.integers(1, 3))
    def begin(self, concurrency: int) -> None:
        self.schedule = self.world.schedule(concurrency)

    @rule()
    def post(self) -> None:
        self.schedule.post()

    @rule()
    def send(self) -> None:
        self.schedule.send()

    @precondition(lambda self: self.schedule.model.waiters)
    @rule()
    def receive(self) -> None:
        self.schedule.receive()

    @precondition(lambda self: self.schedule.free())
    @rule(data=st.data(), wants=st.sampled_from((1, 2, 5)), wait=st.booleans())
    def get(self, data: Any, wants: int, wait: bool) -> None:
        index = data.draw(st.sampled_from(self.schedule.free()))
        (self.schedule.get if wait else self.schedule.poll)(index, wants)

    @precondition(lambda self: self.schedule.idle)
    @rule(data=st.data())
    def block(self, data: Any) -> None:
        self.schedule.block(data.draw(st.sampled_from(self.schedule.idle)))

    @precondition(lambda self: any(self.schedule.inside.values()))
    @rule(data=st.data())
    def unblock(self, data: Any) -> None:
        inside = [index for index, contexts in self.schedule.inside.items() if contexts]
        self.schedule.unblock(data.draw(st.sampled_from(inside)))

    @precondition(lambda self: self.schedule.free())
    @rule(data=st.data(), visits=st.booleans())
    def leave(self, data: Any, visits: bool) -> None:
        index = data.draw(st.sampled_from(self.schedule.free()))
        (self.schedule.visit if visits else self.schedule.dissociate)(index)

    def teardown(self) -> None:
        if hasattr(self, "schedule"):
            self.schedule.end()
