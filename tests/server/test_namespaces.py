from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from tidewire.channel_options import MapKind, MapOptions, SlowPolicy
from tidewire.errors import (
    BadRequest,
    CommandError,
    ConfigurationError,
    NotAvailable,
    PermissionDenied,
    Rejected,
    TokenExpired,
    UnknownChannel,
)
from tidewire.rules.base import Action, Caller, ConnectAttempt, Grant, Identity
from tidewire.server.client_settings import ClientTable
from tidewire.server.namespace_authority import NamespaceAuthority
from tidewire.server.namespaces import RESERVED, ChannelTable, Namespace, Namespaces

ANN = Caller("c1", Identity("ann"))
NOBODY = Caller("c2", Identity())


def namespaces(default: dict[str, Any] | None = None, **named: dict[str, Any]) -> Namespaces:
    table = {
        "without_namespace": default or {},
        "namespaces": [{"name": name, **options} for name, options in named.items()],
    }
    return Namespaces(ChannelTable.model_validate(table))


def authority(
    default: dict[str, Any] | None = None, client: dict[str, Any] | None = None, **named: dict[str, Any]
) -> NamespaceAuthority:
    return NamespaceAuthority(ClientTable.model_validate(client or {}), namespaces(default, **named))


def switch(action: Action, *of: str) -> dict[str, Any]:
    """Return what lets them do it; entries are removed in maps, which have switches of their own."""
    switches = {f"allow_{action.value}_for_{one}": True for one in of}
    return {"subscription_type": "map", "map": switches} if action is Action.REMOVE else switches


def subscribed(authority: NamespaceAuthority, channel: str, caller: Caller = ANN) -> bool:
    """Say whether a client may subscribe without a token."""
    try:
        asyncio.run(authority.subscribe(caller, channel, "", b""))
    except PermissionDenied:
        return False
    return True


def allowed(
    authority: NamespaceAuthority, action: Action, caller: Caller = ANN, *, subscribed: bool = False, channel: str = "x"
) -> type[CommandError] | None:
    """Return what a client is refused with."""
    try:
        asyncio.run(authority.allow(caller, channel, action, subscribed=subscribed))
    except CommandError as error:
        return type(error)
    return None


HISTORY = {"history_size": 10, "history_ttl": "60s"}


def test_the_namespace_stands_before_the_first_colon() -> None:
    found = namespaces(HISTORY, hall={"presence": True})
    assert found.find("hall:1")[1].presence
    assert found.find("hall:1:2")[1].presence
    assert found.find("$hall:1")[1].presence
    assert not found.find("hall")[1].presence
    assert found.find("hall")[1].history_size == 10
    assert found.find("hall:1")[1].history_size == 0
    for unknown in ("rooms:1", "$other:1"):
        with pytest.raises(UnknownChannel):
            found.find(unknown)


@pytest.mark.parametrize("channel", ["$control", "$user:ann", "$nodes"])
def test_the_nodes_own_channels_do_not_exist_for_clients(channel: str) -> None:
    with pytest.raises(UnknownChannel):
        namespaces(user={}).find(channel)


@pytest.mark.parametrize("channel", ["", "a\n", "a" * 256, "\x7f", " a", "\u200d", "a\u200c", "a\u202eb", "\ud83d"])
def test_names_that_are_none(channel: str) -> None:
    with pytest.raises(BadRequest):
        namespaces().find(channel)
    assert namespaces().options(channel) is None


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("300s", 300), ("5m", 300), ("24h", 86_400), ("1h30m", 5_400), ("500ms", 0.5), (7, 7), (1.5, 1.5)],
)
def test_durations(written: str | float, seconds: float) -> None:
    assert Namespace.model_validate({"history_ttl": written}).history_ttl == seconds


@pytest.mark.parametrize(
    "wrong",
    [
        {"history_ttl": "3 s"},
        {"history_ttl": "s"},
        {"history_ttl": -1},
        {"history_size": -1},
        {"force_recovery": True},
        {"allow_recovery": True, "history_size": 1},
        {"channel_regex": "("},
        {"allowed_delta_types": ["other"]},
        {"slow": "sometimes"},
        {"unknown": True},
    ],
)
def test_options_that_cannot_work(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Namespace.model_validate(wrong)


def test_a_namespace_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="twice"):
        ChannelTable.model_validate({"namespaces": [{"name": "aa"}, {"name": "aa"}]})


def test_options_as_the_engine_takes_them() -> None:
    options = Namespace.model_validate(
        {**HISTORY, "force_recovery": True, "force_push_join_leave": True, "slow": "latest", "presence": True}
        | {"allowed_delta_types": ["fossil"], "allow_tags_filter": True, "force_recovery_mode": "cache"}
    ).options
    assert (options.history_size, options.history_seconds) == (10, 60)
    assert options.recoverable
    assert options.force_recoverable
    assert options.positioned
    assert not options.force_positioned
    assert options.join_leave
    assert options.force_join_leave
    assert options.slow is SlowPolicy.LATEST
    assert options.delta
    assert options.tags_filter
    assert options.latest
    nothing = Namespace().options
    assert (nothing.history_size, nothing.recoverable, nothing.positioned, nothing.presence) == (0, False, False, False)
    assert Namespace.model_validate({"history_size": 5}).options.history_size == 0  # no time to keep it


def test_without_permission_nothing_is_allowed() -> None:
    closed = authority({**HISTORY, "presence": True})
    assert not subscribed(closed, "x")
    for action in Action:
        assert allowed(closed, action, subscribed=True) is PermissionDenied


def test_who_may_subscribe() -> None:
    open_ = authority({"allow_subscribe_for_client": True})
    assert subscribed(open_, "x")
    assert not subscribed(open_, "x", NOBODY)
    assert subscribed(
        authority({"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}), "x", NOBODY
    )
    assert not subscribed(authority({"allow_subscribe_for_anonymous": True}), "x")


def test_a_private_channel_wants_a_token() -> None:
    open_ = authority({"allow_subscribe_for_client": True})
    assert not subscribed(open_, "$x")


def test_a_channel_that_lists_its_users() -> None:
    limited = authority({"allow_user_limited_channels": True, "allow_subscribe_for_client": True})
    assert subscribed(limited, "x#ann,bob")
    assert subscribed(limited, "x#ann")
    assert not subscribed(limited, "x#bob")
    assert not subscribed(limited, "x#bob", NOBODY)
    assert not subscribed(limited, "x#", NOBODY)
    assert not subscribed(limited, "x#ann#bob")  # the last # counts
    assert subscribed(limited, "x")
    assert subscribed(authority({"allow_subscribe_for_client": True}), "x#bob")  # where it means nothing


def test_a_name_that_its_namespace_does_not_allow() -> None:
    numbers = authority(hall={"allow_subscribe_for_client": True, "channel_regex": "^[0-9]+$"})
    assert subscribed(numbers, "hall:1")
    with pytest.raises(BadRequest, match="channel_regex"):
        subscribed(numbers, "hall:one")


@pytest.mark.parametrize("action", list(Action))
def test_the_regex_holds_for_tokens_and_for_everything_else_that_a_client_names(action: Action) -> None:
    numbers = authority(
        {"allow_subscribe_for_client": True},
        hall={**HISTORY, "presence": True, **switch(action, "client"), "channel_regex": "^[0-9]+$"},
    )
    assert allowed(numbers, action, subscribed=True, channel="hall:1") is None
    assert allowed(numbers, action, channel="hall:one") is BadRequest
    with pytest.raises(BadRequest, match="channel_regex"):
        asyncio.run(numbers.subscribe(ANN, "hall:one", "any token", b""))


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("channel", ["$x", "x#bob", "shut:x"])
def test_what_needs_a_right_to_subscribe_needs_it_to_read_and_to_publish(action: Action, channel: str) -> None:
    offers = {
        **HISTORY,
        "presence": True,
        "allow_user_limited_channels": True,
        **switch(action, "client"),
    }
    closed = authority({**offers, "allow_subscribe_for_client": True}, shut=offers)
    assert not subscribed(closed, channel)
    assert allowed(closed, action, channel=channel) is PermissionDenied
    assert allowed(closed, action, channel=channel, subscribed=True) is None
    offers |= {"allow_without_subscribe": True}
    assert allowed(authority(offers, shut=offers), action, channel=channel) is None


@pytest.mark.parametrize(
    ("name", "expected"), [("presence", False), ("allow_history_for_subscriber", True), ("allow_recovery", True)]
)
def test_a_subscriber_that_may_read_the_history_may_recover_if_it_asks(name: str, expected: bool) -> None:
    offers = authority({**HISTORY, "allow_subscribe_for_client": True, name: True})
    grant = asyncio.run(offers.subscribe(ANN, "x", "", b""))
    assert (grant.options.recoverable, grant.options.positioned) == (expected, expected)
    assert not grant.options.force_recoverable


@pytest.mark.parametrize(
    ("name", "expected"),
    [("presence", False), ("allow_presence_for_subscriber", True), ("force_push_join_leave", True)],
)
def test_joins_are_for_those_that_may_see_presence(name: str, expected: bool) -> None:
    offers = {"allow_subscribe_for_client": True, "presence": True, "join_leave": True, name: True}
    assert asyncio.run(authority(offers).subscribe(ANN, "x", "", b"")).sees_joins is expected


def test_insecure_allows_all_that_exists() -> None:
    insecure = authority(HISTORY, {"insecure": True})
    assert subscribed(insecure, "$x", NOBODY)
    assert allowed(insecure, Action.PUBLISH, NOBODY) is None
    assert allowed(insecure, Action.HISTORY, NOBODY) is None
    assert allowed(insecure, Action.PRESENCE, NOBODY) is NotAvailable
    assert asyncio.run(insecure.connect(ConnectAttempt(), None)) == Identity()
    granted = asyncio.run(insecure.subscribe(NOBODY, "x", "", b"")).options
    assert (granted.recoverable, granted.positioned) == (True, True)
    with pytest.raises(UnknownChannel):
        subscribed(insecure, "other:1")


@pytest.mark.parametrize("action", list(Action))
def test_publish_history_and_presence_have_three_switches_each(action: Action) -> None:
    offered = {**HISTORY, "presence": True}
    open_ = {"allow_subscribe_for_client": True, "allow_subscribe_for_anonymous": True}
    offered |= open_
    for_client = authority(offered | switch(action, "client"))
    assert allowed(for_client, action) is None
    assert allowed(for_client, action, NOBODY) is PermissionDenied
    for_subscriber = authority(offered | switch(action, "subscriber"))
    assert allowed(for_subscriber, action) is PermissionDenied
    assert allowed(for_subscriber, action, subscribed=True) is None
    assert allowed(for_subscriber, action, NOBODY, subscribed=True) is PermissionDenied
    anonymous = offered | switch(action, "client", "anonymous")
    assert allowed(authority(anonymous), action, NOBODY) is None


def test_a_map_is_what_its_table_says() -> None:
    table = {"mode": "ephemeral", "key_ttl": "60s", "client_key": "client_id", "remove_client_on_unsubscribe": True}
    named = namespaces(aa={"subscription_type": "map", "map": table}, bb={"map": True}, cc={"map": {"stream_size": 5}})
    first = named.options("aa:1")
    assert first is not None
    assert first.map == MapOptions(ttl=60, recoverable=False, owned=True, client_key="client_id")
    assert first.history_size > 0
    second, third = named.options("bb:1"), named.options("cc:1")
    assert second is not None
    assert second.map == MapOptions()
    assert third is not None
    assert (third.map, third.history_size) == (MapOptions(), 5)
    people = namespaces(pp={"subscription_type": "map_users"}, ss={"subscription_type": "stream"})
    users, stream = people.options("pp:1"), people.options("ss:1")
    assert users is not None
    assert users.map == MapOptions(kind=MapKind.USERS)
    assert stream is not None
    assert (stream.map, stream.history_size) == (None, 0)
    setter = authority(aa={"map": True, "allow_publish_for_client": True, "allow_subscribe_for_client": True})
    assert allowed(setter, Action.REMOVE, channel="aa:1") is None  # without a table, one who sets entries removes them


def test_what_is_allowed_and_not_offered_is_not_available() -> None:
    bare = authority({"allow_history_for_client": True, "allow_presence_for_client": True})
    assert allowed(bare, Action.HISTORY) is NotAvailable
    assert allowed(bare, Action.PRESENCE) is NotAvailable


def test_who_connects_without_a_token() -> None:
    with pytest.raises(Rejected) as caught:
        asyncio.run(authority().connect(ConnectAttempt(), None))
    assert caught.value.disconnect.code == 3501
    anonymous = authority(client={"allow_anonymous_connect_without_token": True})
    assert asyncio.run(anonymous.connect(ConnectAttempt(), None)).user == ""
    found = asyncio.run(authority().connect(ConnectAttempt(), Identity("ann")))
    assert found.user == "ann"


def test_each_user_follows_a_channel_of_its_own() -> None:
    personal = authority(
        client={"subscribe_to_user_personal_channel": {"enabled": True, "personal_channel_namespace": "mine"}},
        mine=HISTORY,
    )
    identity = asyncio.run(
        personal.connect(ConnectAttempt(), Identity("ann", subscriptions={"other": Grant(personal.options("x"))}))
    )
    assert list(identity.subscriptions) == ["other", "mine:#ann"]
    assert identity.subscriptions["mine:#ann"].options.history_size == 10
    plain = authority(client={"subscribe_to_user_personal_channel": {"enabled": True}})
    assert list(asyncio.run(plain.connect(ConnectAttempt(), Identity("ann"))).subscriptions) == ["#ann"]
    assert list(asyncio.run(plain.connect(ConnectAttempt(), Identity("Jörg"))).subscriptions) == ["#Jörg"]
    assert not asyncio.run(plain.connect(ConnectAttempt(), Identity("a\nb"))).subscriptions
    with pytest.raises(ConfigurationError, match="mine"):
        authority(
            client={"subscribe_to_user_personal_channel": {"enabled": True, "personal_channel_namespace": "mine"}}
        )


class Login:
    """Knows one token."""

    async def identify(self, token: str) -> Identity | None:
        if token == "expired":
            raise TokenExpired("log in again")
        return Identity("ann") if token == "ours" else None


def test_the_servers_own_login_counts_as_well() -> None:
    own = NamespaceAuthority(ClientTable(), namespaces(), accounts=Login())
    assert asyncio.run(own.connect(ConnectAttempt(token="ours"), None)).user == "ann"
    with pytest.raises(TokenExpired):
        asyncio.run(own.connect(ConnectAttempt(token="expired"), None))
    with pytest.raises(Rejected) as caught:
        asyncio.run(own.connect(ConnectAttempt(token="other"), None))
    assert caught.value.disconnect.code == 3500


@pytest.mark.parametrize("name", RESERVED)
def test_no_configuration_replaces_what_the_server_itself_means(name: str) -> None:
    with pytest.raises(ValidationError, match=f"namespace '{name}' belongs to the server itself"):
        ChannelTable.model_validate({"namespaces": [{"name": name}]})
