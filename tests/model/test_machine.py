"""The promise on every store: Hypothesis chooses what happens, real nodes do it, and a model judges what was shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from model.simulate import NAMES, simulate
from model.stores import STORES, running
from model.world import CHANNELS, Store, World

CLIENTS = st.sampled_from(NAMES[:3])
COUNTS = st.sampled_from([0, 1, 2, 5, 40])
NODES = st.integers(0, 1)
#: Starting a process takes its time.
RARE = st.sampled_from(["settle", "settle", "trim", "kill", "lose"])


def machine(make: Callable[[], World]) -> type[RuleBasedStateMachine]:
    """Return the machine whose world is made by `make`."""

    class Promise(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.world = make()

        @rule(channel=st.sampled_from(CHANNELS), counts=st.tuples(COUNTS, COUNTS))
        def publish(self, channel: str, counts: tuple[int, int]) -> None:
            self.world.publish(channel, list(counts))

        @rule(name=CLIENTS, node=NODES, history=st.sampled_from([0, 5]))
        def subscribe(self, name: str, node: int, history: int) -> None:
            self.world.join(name, node, history)

        @rule(name=CLIENTS)
        def drop(self, name: str) -> None:
            self.world.leave(name)

        @rule(name=CLIENTS, node=NODES)
        def come_again(self, name: str, node: int) -> None:
            self.world.leave(name)
            self.world.join(name, node, 0)

        @rule(name=CLIENTS, channel=st.sampled_from(CHANNELS))
        def follow_again(self, name: str, channel: str) -> None:
            self.world.follow(name, channel, 0)

        @rule(rare=RARE, node=NODES, channel=st.sampled_from(CHANNELS), count=COUNTS)
        def settle_kill_trim_or_lose(self, rare: str, node: int, channel: str, count: int) -> None:
            if rare == "kill":
                self.world.kill(node, channel, count)
            elif rare == "trim":
                self.world.trim(channel)
            elif rare == "lose":
                self.world.lose()
            else:
                self.world.settle()

        def teardown(self) -> None:
            try:
                self.world.settle()
            finally:
                self.world.close()

    return Promise


@pytest.fixture(params=[*STORES])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with running(request.param, tmp_path) as started:
        yield started


def play(store: Store, examples: int, steps: int) -> None:
    checked = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[*HealthCheck],
        database=None,
        print_blob=True,
    )
    run_state_machine_as_test(machine(lambda: World(store)), settings=checked)  # type: ignore[no-untyped-call]


def test_the_promise_holds_whatever_happens(store: Store) -> None:
    play(store, examples=4, steps=25)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_promise_holds_whatever_happens_for_long(store: Store) -> None:
    play(store, examples=40, steps=60)


def test_a_seed_is_played(store: Store) -> None:
    simulate(store, seed=2, steps=60)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10))
def test_many_seeds_are_played(store: Store, seed: int) -> None:
    simulate(store, seed, steps=300)


def is_found(store: Store, seed: int) -> bool:
    try:
        simulate(store, seed, steps=80)
    except AssertionError as error:
        return "node" not in str(error)  # the judge says it, not a node that ends
    return False


@pytest.mark.parametrize(
    "code",
    [
        # a node drops one publication of a few without a word
        "from tidewire.engine.fanout import Fanout as F; a = F.add\n"
        "def f(s, c, p):\n  a(s, c, p)\n  if p.offset % 5 == 0: c.pending = c.pending[:-1]\nF.add = f",
        # a recovery says that it is complete, and is not
        "import msgspec; import tidewire.history.recovery_reader as r; m = r.merge\n"
        "def f(*a):\n  x = m(*a); return msgspec.structs.replace(x, publications=x.publications[1:], complete=True)\n"
        "r.merge = f",
        # the order is not kept
        "from tidewire.protocols.batch import Representation as R; b = R.batch; R.batch = lambda s, p: b(s, p[::-1])",
        # a recovery is refused that could be given
        "import msgspec; import tidewire.history.recovery_reader as r; m = r.merge\n"
        "r.merge = lambda *a: msgspec.structs.replace(m(*a), complete=False)",
    ],
    ids=["drops", "partial", "order", "refuses"],
)
def test_a_broken_node_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    monkeypatch.setenv("MODEL_BREAK", code)
    with running("memory", tmp_path) as store:
        assert any(is_found(store, seed) for seed in range(3))
