"""The registry against a naive model."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tidewire.channel_options import ChannelOptions
from tidewire.engine.connection import Connection
from tidewire.engine.registry import Channel, Group, Newcomer, Registry
from tidewire.engine.subscription import ENDED, Subscription
from tidewire.limits import Limits
from tidewire.protocols.batch import Representation
from tidewire.protocols.json import JSON
from tidewire.protocols.plain import PLAIN
from tidewire.rules.publication_counts import Tally
from tidewire.testing import FakeLink

users, addresses, names = st.sampled_from(["", "ann", "bob"]), st.sampled_from(["1", "2"]), st.sampled_from("abc")


class RegistryMachine(RuleBasedStateMachine):
    """Connections come, are identified, follow channels and go; the model keeps plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        for name in "abc":
            self.registry.channels[name] = Channel(name, ChannelOptions(), Tally(name))
        self.connections: list[Connection] = []
        self.arriving: list[Newcomer] = []
        self.followed: dict[tuple[str, str], tuple[Subscription, str]] = {}

    @rule(address=addresses)
    def arrive(self, address: str) -> None:
        newcomer = self.registry.arrive(address, 1_000)
        assert newcomer is not None
        self.arriving.append(newcomer)

    @rule()
    def arrived(self) -> None:
        if self.arriving:
            self.registry.arrived(self.arriving.pop())

    @rule(
        user=users,
        address=addresses,
        protocol=st.sampled_from([PLAIN, JSON]),
        deflate=st.booleans(),
        was_admitted=st.booleans(),
    )
    def add(self, user: str, address: str, protocol: Any, deflate: bool, was_admitted: bool) -> None:
        link = FakeLink(deflate=deflate)
        connection = Connection(link, protocol, user=user, address=address, limits=Limits())
        newcomer = self.registry.arrive(address, 1_000) if was_admitted else None
        if newcomer is not None:
            newcomer.becomes(connection)
            self.registry.arrived(newcomer)
        self.registry.add(connection)
        self.connections.append(connection)

    @rule(data=st.data(), user=st.sampled_from(["ann", "bob"]))
    def identify(self, data: st.DataObject, user: str) -> None:
        unknown = [connection for connection in self.connections if not connection.user]
        if unknown:
            self.registry.identify(data.draw(st.sampled_from(unknown)), user)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.connections:
            connection = data.draw(st.sampled_from(self.connections))
            for key in [key for key in self.followed if key[0] == connection.id]:
                self.registry.channels[key[1]].remove(self.followed.pop(key)[0])
            assert self.registry.remove(connection)
            assert not self.registry.remove(connection)
            self.connections.remove(connection)

    @rule(data=st.data(), name=names)
    def begin(self, data: st.DataObject, name: str) -> None:
        if self.connections:
            connection = data.draw(st.sampled_from(self.connections))
            if (connection.id, name) not in self.followed:
                subscription = Subscription(connection, name)
                self.registry.channels[name].add(subscription)
                self.followed[connection.id, name] = (subscription, "buffering")

    @rule(data=st.data(), after=st.integers(0, 9))
    def go_live(self, data: st.DataObject, after: int) -> None:
        waiting = [key for key, (_, state) in self.followed.items() if state == "buffering"]
        if waiting:
            key = data.draw(st.sampled_from(waiting))
            subscription = self.followed[key][0]
            self.registry.channels[key[1]].go_live(subscription, after)
            self.followed[key] = (subscription, "live")
            assert (subscription.live_after, subscription.buffer) == (after, None)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.followed:
            key = data.draw(st.sampled_from(sorted(self.followed)))
            subscription = self.followed.pop(key)[0]
            self.registry.channels[key[1]].remove(subscription)
            self.registry.channels[key[1]].remove(subscription)
            assert subscription.live_after == ENDED

    @invariant()
    def connections_are_the_models(self) -> None:
        assert list(self.registry.connections.values()) == self.connections
        expected = {user: [c for c in self.connections if c.user == user] for user in ("ann", "bob")}
        assert {user: sorted(devices) for user, devices in self.registry.users.items()} == {
            user: sorted(c.id for c in found) for user, found in expected.items() if found
        }
        counted = [c.address for c in self.connections] + [newcomer.network for newcomer in self.arriving]
        assert self.registry.counts.own == {address: counted.count(address) for address in set(counted)}
        assert self.registry.arriving == len(self.arriving)

    @invariant()
    def channels_are_the_models(self) -> None:
        for name, channel in self.registry.channels.items():
            mine = [(s, state) for (_, followed), (s, state) in self.followed.items() if followed == name]
            assert len(channel) == len(mine)
            assert set(channel.subscriptions()) == {subscription for subscription, _ in mine}
            assert set(channel.buffering) == {subscription for subscription, state in mine if state == "buffering"}
            for representation, group in channel.groups.items():
                assert group.freeze() == tuple(group.subscriptions)
                assert group.subscriptions
                assert all(s.representation is representation for s in group.subscriptions)


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_snapshot_is_made_anew_only_after_a_change() -> None:
    group, subscription = Group(), Subscription(None, "a", Representation(PLAIN))  # type: ignore[arg-type]
    group.add(subscription)
    before = group.freeze()
    assert group.freeze() is before
    group.discard(Subscription(None, "a", Representation(PLAIN)))  # type: ignore[arg-type]
    assert group.freeze() is before
    group.discard(subscription)
    assert group.freeze() == ()
    assert before == (subscription,)
