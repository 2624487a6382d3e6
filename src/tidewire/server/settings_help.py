"""Unknown settings: the right name for a misspelt one, and the counterpart of one that only Centrifugo has."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

__all__ = ("centrifugo_variables", "hint_for", "mend_for", "unknown_settings")

_RULES = "decide in your own FastAPI application, with rules (`tidewire docs howto/channel-rules`)"
_POLLS = "not supported, because shared polls ask a function of your application (@rule.poll in the library)"
_ALWAYS = "not needed, because it is always on, at the path that the SDKs use; leave it out"
_NONE = "not supported, because the server has no such endpoint; leave it out"
_SHARED = (
    'not needed, because one URL says where messages are kept; set broker = "redis://…", "nats://…" or another URL'
)

#: Hints by the beginning of a setting's name; the longest beginning that fits counts.
_HINTS = {
    "admin": "not needed, because /admin is always there, with the key of http_api.key; leave it out",
    "broker.": 'one URL names the store: broker = "redis://…"',
    "channel.history_meta_ttl": "not needed, because positions never expire; leave it out",
    "channel.max_length": "write limits.channel_name",
    "channel.namespace_boundary": "not supported, because it is always a colon",
    "channel.namespaces.publish_proxy_name": _RULES,
    "channel.namespaces.publish_proxy_enabled": _RULES,
    "channel.namespaces.shared_poll": _POLLS,
    "channel.namespaces.sub_refresh_proxy": _RULES,
    "channel.namespaces.subscribe_proxy": _RULES,
    "channel.namespaces.subscribe_stream": _RULES,
    "channel.namespaces.cache_empty": _RULES,
    "channel.private_prefix": "not supported, because it is always $",
    "channel.proxy": _RULES,
    "channel.user_boundary": "not supported, because it is always #",
    "channel.user_separator": "not supported, because it is always a comma",
    "client.allowed_delta_types": "write it in each namespace",
    "client.allowed_origins": "write allowed_origins, without a table",
    "client.channel_limit": "write limits.channels",
    "client.channel_position": "not needed, because positions are compared every 10 s",
    "client.concurrency": "not needed, because publishes of a connection never wait for each other",
    "client.connect_code_to_unidirectional_disconnect": "not needed, because one-way transports get codes",
    "client.connect_include_server_time": "not supported, because no SDK reads it",
    "client.connect_proxy": _RULES,
    "client.connection_limit": "write limits.connections",
    "client.connection_rate_limit": "not supported, because limits.connections_per_address bounds one client",
    "client.expired_close_delay": "write limits.expiry_grace_seconds",
    "client.expired_sub_close_delay": "write limits.expiry_grace_seconds",
    "client.history_max_publication_limit": "write limits.history_messages",
    "client.insecure_skip_token_signature_verify": "not supported, because then everybody could connect as any user",
    "client.map_": "not needed, because a client is given at most 1,000 entries at once",
    "client.ping_interval": "write limits.ping_seconds",
    "client.pong_timeout": "write limits.protocol_pong_seconds",
    "client.presence_update_interval": "not needed, because members hold leases",
    "client.proxy": _RULES,
    "client.queue_max_size": "write limits.outbox_bytes",
    "client.recovery_max_publication_limit": "not needed, because a recovery is pushed in pages",
    "client.refresh_proxy": _RULES,
    "client.stale_close_delay": "write limits.auth_seconds",
    "client.subscribe_to_user_personal_channel.single_connection": "write limits.connections_per_user = 1",
    "client.user_connection_limit": "write limits.connections_per_user",
    "client.user_id_http_header": _RULES,
    "client.queue_initial_capacity": "not needed, because a connection's outbox takes what it needs",
    "consumers": "not supported; with PostgreSQL an application publishes in its own transaction by SQL",
    "controller": _SHARED,
    "debug": _NONE,
    "dictionary_compression": "not supported, because no SDK needs it; set deflate = true",
    "emulation": _ALWAYS,
    "enable_unreleased_features": "not supported; leave it out",
    "engine": _SHARED,
    "graphite": _NONE,
    "grpc_api": _NONE,
    "health": "not needed, because /healthz and /readyz are always there; leave it out",
    "http_api.disabled": "leave http_api.key out, and the API is off",
    "http_api.external": _NONE,
    "http_api.handler_prefix": "not supported, because it is always /api",
    "http_server": "not supported, because the server listens at one host and port, with tls_cert and tls_key",
    "http_server.address": "write host, without a table",
    "http_server.port": "write port, without a table",
    "http_server.tls.cert_pem": "write tls_cert, without a table",
    "http_server.tls.key_pem": "write tls_key, without a table",
    "http_stream": _ALWAYS,
    "leader_election": _SHARED,
    "log": "not supported, because the log goes to the standard error; let systemd or your shell keep it",
    "log.level": "write log_level, without a table",
    "map_broker": _SHARED,
    "node": "not supported, because a node is named by its machine and process",
    "opentelemetry": _NONE,
    "pid_file": "not supported; let systemd keep the process (deploy/)",
    "presence_manager": _SHARED,
    "prometheus": "not needed, because /metrics is always there (pip install 'tidewire[metrics]'); leave it out",
    "proxies": _RULES,
    "rpc": _RULES,
    "shared_poll": _POLLS,
    "shutdown": "write limits.drain_seconds",
    "sse": _ALWAYS,
    "swagger": "not needed, because the API describes itself at /docs; leave it out",
    "uni_grpc": _NONE,
    "uni_": _ALWAYS,
    "usage_stats": "not needed, because none are sent",
    "websocket": _ALWAYS,
    "websocket.compression": "write deflate, without a table",
    "websocket.message_size_limit": "write limits.message_size",
    "websocket.write_timeout": "write limits.stalled_seconds",
    "webtransport": _NONE,
}


def hint_for(setting: str) -> str | None:
    """Return how to replace a setting of Centrifugo; None if Centrifugo has no such setting either."""
    name = re.sub(r"^channel\.(without_namespace|namespaces\.\d+)\.", "channel.namespaces.", setting)
    found = [known for known in _HINTS if name.startswith(known)]
    return _HINTS[max(found, key=len)] if found else None


def centrifugo_variables(names: Iterable[str], known: Collection[str]) -> Iterator[str]:
    """Yield a warning for each variable that Centrifugo would read, with its replacement; others are left alone."""
    of_variables = {_variable(name): name for name in _HINTS} | {_variable(name): name for name in known}
    for name in sorted(names):
        rest = name.removeprefix("CENTRIFUGO_")
        # before version 6, some had no table: TOKEN_HMAC_SECRET_KEY, API_KEY
        rest = next((_variable(one) for one in known if "_" in rest and _variable(one).endswith(f"_{rest}")), rest)
        found = [one for one in of_variables if rest == one or rest.startswith(f"{one.rstrip('_')}_")]
        if not name.startswith("CENTRIFUGO_") or not found:
            continue
        setting = of_variables[max(found, key=len)]
        if setting == "channel.namespaces" and rest != _variable(setting):
            mend = "write the table [[channel.namespaces]], or TIDEWIRE_CHANNEL__NAMESPACES as a list in JSON"
        elif setting in known and rest == _variable(setting):
            mend = f"write TIDEWIRE_{setting.upper().replace('.', '__')}"
        else:
            mend = hint_for(setting) or "`tidewire serve --print-config` lists all settings"
        yield f"the variable {name} is not read: it is Centrifugo's; {mend}"


def _variable(setting: str) -> str:
    return setting.upper().replace(".", "_")


def unknown_settings(values: Mapping[str, Any], known: Collection[str], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each unknown name of a file, and how to mend it.

    `known` has the dotted names of all settings; in a list of tables the number is 0.
    """
    for name, value in values.items():
        where = path + name
        numbered = _numbered(where)
        if isinstance(value, Mapping) and any(one.startswith(f"{numbered}.") for one in known):
            yield from unknown_settings(value, known, f"{where}.")
        elif isinstance(value, list) and any(one.startswith(f"{numbered}.0.") for one in known):
            for number, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield from unknown_settings(item, known, f"{where}.{number}.")
        elif numbered not in known or (isinstance(value, Mapping) and hint_for(f"{numbered}.")):
            yield from _mended(where, value, known)


def _numbered(where: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".0", where)


def _mended(where: str, value: object, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield one line for a whole table if all its names are mended in the same way, else one line for each name."""
    hint = hint_for(where)
    hints = {leaf: hint_for(leaf) for leaf in _leaves(where, value)}
    if all(one == hint for one in hints.values()):
        yield where, mend_for(where, known)
    else:
        yield from ((leaf, one or mend_for(where, known)) for leaf, one in hints.items())


def _leaves(where: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{where}.{name}", inner)
    else:
        yield where


def mend_for(where: str, known: Collection[str]) -> str:
    """Return how to mend an unknown name: its replacement, or the nearest known name."""
    if hint := hint_for(where):
        return hint
    table, dot, name = where.rpartition(".")
    prefix = _numbered(table + dot)
    beside = {one[len(prefix) :].partition(".")[0] for one in known if one.startswith(prefix)}
    for near in difflib.get_close_matches(name, beside, 1, 0.6):
        return f"did you mean {table}{dot}{near}?"
    for elsewhere in sorted(one for one in known if one.endswith(f".{name}") and ".0." not in one):
        return f"did you mean {elsewhere}?"
    return "`tidewire serve --print-config` lists all settings"
