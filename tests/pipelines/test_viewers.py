"""What a late viewer is shown is what was told, whether it was kept already or not."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tidewire import Hub
from tidewire.messages import Format
from tidewire.pipelines.reporter import channel, current_view
from tidewire.pipelines.runs import Event, Run, RunEvent, RunStatus, StepEvent, StepState, StepStatus, View, apply

STEPS = tuple(StepState(name, name, 1.0, (), 1) for name in ("a", "b"))
RUN = Run("r1", "p", "P", "S1", "", 0.0, (), STEPS)


def events() -> st.SearchStrategy[list[Event]]:
    step = st.builds(
        StepEvent,
        seq=st.just(0),
        run=st.just("r1"),
        time=st.floats(1, 100),
        step=st.sampled_from(["a", "b"]),
        progress=st.integers(0, 100),
        status=st.sampled_from([StepStatus.RUNNING, StepStatus.DONE, StepStatus.FAILED]),
        total=st.integers(0, 100),
        attempt=st.integers(1, 3),
        lines=st.lists(st.text(max_size=5), max_size=2).map(tuple),
    )
    whole = st.builds(
        RunEvent,
        seq=st.just(0),
        run=st.just("r1"),
        time=st.floats(1, 100),
        status=st.sampled_from(RunStatus),
        progress=st.integers(0, 100),
        position=st.none() | st.integers(1, 9),
    )
    numbered = st.lists(step | whole, max_size=8)
    return numbered.map(lambda found: [msgspec.structs.replace(e, seq=n) for n, e in enumerate(found, 1)])


@given(events(), st.data())
def test_a_kept_view_and_what_was_told_since_make_the_whole(told: list[Event], data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(told)))

    async def scenario() -> None:
        async with Hub("memory://") as hub:
            view = View(RUN)
            whole = RUN
            for number, event in enumerate(told):
                position = await hub.node.publish(channel("r1"), msgspec.json.encode(event), Format.JSON)
                whole = apply(whole, event)
                if number < kept:
                    view = View(whole, position)
            encoded = msgspec.json.encode(view)
            found = await current_view(hub, msgspec.json.decode(encoded, type=View))
            assert found.run == whole
            assert found.run.seq == len(told)
            assert found.position is not None

    asyncio.run(scenario())


def test_another_life_of_the_channel_loses_no_state() -> None:
    async def scenario() -> None:
        async with Hub("memory://") as hub:
            position = await hub.node.publish(channel("r1"), b"{}", Format.JSON)
        view = View(apply(RUN, RunEvent(7, "r1", 1.0, RunStatus.FINISHED, 100)), position)
        async with Hub("memory://") as hub:
            found = await current_view(hub, view)
            assert found.run == view.run
            assert found.position is not None
            assert found.position.epoch != position.epoch

    asyncio.run(scenario())
