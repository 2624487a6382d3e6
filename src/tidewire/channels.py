"""Names: which ones channels, users and connections may have, and those of the server's own channels.

Every door, from an endpoint to a store, judges a name by a function of this module.
"""

from __future__ import annotations

from tidewire.errors import BadRequest, PermissionDenied
from tidewire.support.counters import count_limit
from tidewire.support.shown_value import shown

__all__ = (
    "CONTROL",
    "HAPPENED",
    "LIVE",
    "NAME_BYTES",
    "NODES",
    "PIPELINES",
    "REVOKED",
    "TICKETS",
    "announced_in",
    "check_channel",
    "check_name",
    "check_text",
    "check_user",
    "client_channel",
    "clients_in",
    "copies",
    "events",
    "is_each_its_own",
    "is_events",
    "is_internal",
    "is_of_map",
    "is_personal",
    "is_reserved",
    "open_channel",
    "owners",
    "personal",
    "producers",
    "users_in",
    "watched",
)

#: Bytes of a name in UTF-8: an index of PostgreSQL has no room for two that are longer, nor a subject of NATS.
NAME_BYTES = 1_200
#: The channel for messages between nodes that are no publications of the application.
CONTROL = "$control"
#: The channel whose members are the nodes.
NODES = "$nodes"
#: The channel in which nodes publish their figures while a page shows them.
LIVE = "$live"
#: The channel that keeps which tokens were revoked.
REVOKED = "$revoked"
#: The channel that keeps which tickets were used.
TICKETS = "$tickets"
#: The channels of long jobs begin with this (pipelines.names).
PIPELINES = "$pipeline"
#: The channel that keeps the comings and goings of which the application is told (events).
HAPPENED = "$happened"
_WATCHED = "$watched:"
_PERSONAL = "$user:"
_PRODUCERS = "$producer:"
_OWNERS = "$owner:"
_MAPS = "$map:"
_CLIENTS = "$clients:"
_USERS = "$users:"
_EVENTS = "$events:"
_OF_MAP = (_OWNERS, _CLIENTS, _USERS)
_INTERNAL = (_PERSONAL, _EVENTS, PIPELINES, _PRODUCERS, _OWNERS, _MAPS, _CLIENTS, _USERS, _WATCHED)


def personal(user: str) -> str:
    """Return the channel that every connection of a user is subscribed to."""
    return _PERSONAL + check_user(user)


def events(channel: str) -> str:
    """Return the channel for the joins and leaves of another one, apart from its publications."""
    return _EVENTS + channel


def is_events(channel: str) -> bool:
    """Return whether a channel is for joins and leaves; each connection is a member of its own there."""
    return channel.startswith(_EVENTS)


def producers(channel: str) -> str:
    """Return the channel whose only member is the producer of a text stream in another one."""
    return _PRODUCERS + channel


def announced_in(channel: str) -> str:
    """Return the channel in which the announcements of a channel's members are published: nearly always itself."""
    if channel.startswith(_WATCHED):
        return HAPPENED
    for prefix in (_PRODUCERS, *_OF_MAP):
        channel = channel.removeprefix(prefix)
    return channel


def owners(channel: str) -> str:
    """Return the channel whose members own entries of a map in another one, each connection for itself."""
    return _OWNERS + channel


def is_of_map(channel: str) -> bool:
    """Return whether the announcements of a channel's members are changes of a map."""
    return channel.startswith(_OF_MAP)


def copies(channel: str) -> str:
    """Return the channel that keeps whole copies of the map in another one."""
    return _MAPS + channel


def clients_in(channel: str) -> str:
    """Return the channel whose members are the connections that the map in another one lists."""
    return _CLIENTS + channel


def users_in(channel: str) -> str:
    """Return the channel whose members are the users that the map in another one lists."""
    return _USERS + channel


def is_each_its_own(channel: str) -> bool:
    """Return whether each connection is a member of its own in a channel, even those of one user."""
    return channel.startswith((_EVENTS, _OWNERS, _CLIENTS))


def watched(name: str) -> str:
    """Return a channel that the events of an application need: a list of members, a place, dead events."""
    return _WATCHED + name


def is_personal(channel: str) -> bool:
    """Return whether a channel is that of a user."""
    return channel.startswith(_PERSONAL)


def is_internal(channel: str) -> bool:
    """Return whether a channel is the server's own, which no client and no caller may name."""
    return is_reserved(channel) and (
        channel in (CONTROL, NODES, LIVE, REVOKED, TICKETS, HAPPENED) or channel.startswith(_INTERNAL)
    )


def open_channel(channel: str, longest: int) -> str:
    """Return a channel name that clients and applications may use; raises BadRequest, PermissionDenied."""
    name = check_channel(channel, longest)
    if is_reserved(name):
        raise PermissionDenied(f"channel {name!r} belongs to the server; names that begin with $ are reserved")
    return name


def client_channel(channel: str, longest: int) -> str:
    """Return a channel name that a client may ask for; raises BadRequest, and PermissionDenied for the server's own."""
    name = check_channel(channel, longest)
    if is_internal(name):
        raise PermissionDenied(f"channel {name!r} belongs to the server; choose another name")
    return name


def is_reserved(channel: str) -> bool:
    """Return whether a name is reserved for the server: it begins with $."""
    return channel.startswith("$")


def check_user(user: object) -> str:
    """Return the name of a user, whose own channel has a name that every store can hold; raises as `check_name`."""
    return check_name(user, "user", NAME_BYTES - len(_PERSONAL))


def check_name(name: object, what: str, most: int = NAME_BYTES) -> str:
    """Return the name of a channel or connection that every store can hold; raises BadRequest as `check_text` does."""
    if type(name) is str and name.isascii() and len(name) <= most and "\0" not in name:
        return name  # nearly all
    text = check_text(name, what)
    size = len(text.encode())
    if size > most:
        count_limit("name_bytes")
        raise BadRequest(f"{what} {text[:40]!r}… has {size} bytes (the limit is {most}); write a shorter one")
    return text


def check_text(text: object, what: str) -> str:
    """Return text that every store and protocol can hold; raises BadRequest, which calls the text `what`."""
    if not isinstance(text, str):
        value = f" {shown(text)}" if text is None or isinstance(text, int | float) else ""  # a client may be told
        raise BadRequest(f"{what}{value} is of type {type(text).__name__}; write a string")
    if "\0" in text:
        raise BadRequest(f"{what} {text[:60]!r} has a NUL character; leave it out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{what} {text[:60]!r} is not valid Unicode: it has half of a surrogate pair") from None
    return str.__str__(text)  # of a str enumeration, its value: no store is asked to keep another type


#: Characters that join others to one that is seen: zero-width joiners, and the tags in emoji of flags (Unicode TR 51).
_JOINERS = dict.fromkeys((0x200C, 0x200D, *range(0xE0020, 0xE0080)))


def check_channel(channel: object, longest: int) -> str:
    """Return the channel name if it is one; raises BadRequest otherwise.

    A name is 1 to `longest` (the limit `channel_name`) printable characters of any script, without white space at its
    ends. The joiners between letters (Persian, Hindi) and between emoji count as printable inside of a name.
    """
    if not isinstance(channel, str):
        return check_text(channel, "channel name")
    if not channel:
        raise BadRequest(f"channel name '' is empty; write 1 to {longest} characters")
    if len(channel) > longest:
        raise BadRequest(f"channel name of {len(channel)} characters is longer than the limit of {longest}; shorten it")
    visible = channel if channel.isascii() else channel.translate(_JOINERS)
    if not (visible and visible.isprintable()) or channel != channel.strip(" \u200c\u200d"):
        raise BadRequest(f"channel name {channel!r} has characters that cannot be printed, or spaces at its ends")
    return check_name(channel, "channel name")
