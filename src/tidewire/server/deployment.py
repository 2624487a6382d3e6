"""Judges a deployment by its settings, its files and its machine; nothing is made or opened."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import msgspec
from cryptography import x509

from tidewire.backends import sqlite_path
from tidewire.server.settings import Settings

__all__ = ("Finding", "judge")

#: Bytes that an idle connection needs, and descriptors that a worker needs beside its connections.
_CONNECTION, _DESCRIPTORS = 45 * 1_024, 100
#: Characters of a key that cannot be guessed, and the days before a certificate expires from which on it is reported.
_KEY, _DAYS = 32, 14


class Finding(msgspec.Struct, frozen=True):
    """One thing to change; `serious` if strangers may get in, users may read others' data, or nobody can connect."""

    about: str
    text: str
    serious: bool = False


def judge(settings: Settings, config: Path | None = None) -> list[Finding]:
    """Return the findings, serious ones first; `config` is the file that the settings were read from."""
    found = [*_doors(settings), *_tls(settings), *_limits(settings), *_files(settings, config)]
    return sorted(found, key=lambda finding: not finding.serious)


def _doors(settings: Settings) -> Iterator[Finding]:
    """Judge access: origins, keys, proxies."""
    is_open, api, token = not settings.is_loopback, settings.http_api, settings.client.token
    if "*" in (settings.allowed_origins or ()):
        yield Finding(
            "origins", 'allowed_origins has "*": any page may use its visitors\' sessions; name origins', is_open
        )
    if is_open and api.insecure:
        yield Finding("keys", "http_api.insecure lets everybody publish and read everything; set http_api.key", True)
    if is_open and settings.client.insecure:
        yield Finding("keys", "client.insecure lets everybody do everything; take it out", True)
    for name, secret in (
        ("http_api.key", api.key.get_secret_value()),
        ("client.token.hmac_secret_key", token.hmac_secret_key.get_secret_value()),
    ):
        if 0 < len(secret) < _KEY:
            yield Finding("keys", f"{name} has {len(secret)} characters; {_KEY} or more cannot be guessed", is_open)
    if token.has_keys and not token.require_exp:
        yield Finding("keys", "client.token.require_exp is off: a token without `exp` is good for ever; set it")
    if is_open and settings.signup:
        yield Finding("signup", "strangers may sign up; set signup = false unless that is meant")
    for proxy in settings.trusted_proxies:
        if _is_everybody(proxy):
            text = f"trusted_proxies has {proxy!r}: anybody may say that he is another address; name your proxies"
            yield Finding("proxies", text, True)


def _is_everybody(proxy: str) -> bool:
    try:
        return proxy == "*" or ip_network(proxy, strict=False).prefixlen == 0
    except ValueError:
        return False


def _tls(settings: Settings) -> Iterator[Finding]:
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.tls_cert is not settings.tls_key:
            yield Finding("tls", "tls_cert and tls_key come together; write both", True)
        elif not settings.is_loopback:
            yield Finding("tls", "passwords and tokens are readable on the way, unless a proxy in front ends TLS")
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
        ends = x509.load_pem_x509_certificate(settings.tls_cert.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        yield Finding("tls", f"tls_cert and tls_key cannot be used: {error}", True)
        return
    if ends < datetime.now(UTC) + timedelta(days=_DAYS):
        is_over = ends < datetime.now(UTC)
        yield Finding(
            "tls", f"the certificate {'has ended' if is_over else 'ends'} on {ends:%Y-%m-%d}; renew it", is_over
        )


def _limits(settings: Settings) -> Iterator[Finding]:
    """Judge the limits against the memory and the descriptors of the machine."""
    limits, workers = settings.limits, settings.workers
    descriptors = _descriptors()
    wanted = limits.connections + _DESCRIPTORS
    if descriptors and descriptors < wanted:
        yield Finding(
            "limits",
            f"a worker may have {limits.connections} connections (limits.connections) and {descriptors} descriptors; "
            f"raise `ulimit -n` (LimitNOFILE of systemd) to {wanted}, or lower the limit",
            descriptors < _DESCRIPTORS + limits.connections // 10,
        )
    memory = _memory()
    if memory and limits.connections * _CONNECTION * workers > memory:
        yield Finding(
            "limits",
            f"{limits.connections} connections of {workers} workers need about "
            f"{limits.connections * _CONNECTION * workers >> 20} MiB, and there are {memory >> 20}; lower "
            "limits.connections, or set limits.memory_bytes",
        )
    if memory and limits.memory_bytes * workers > memory:
        text = f"limits.memory_bytes of {workers} workers is more than the {memory >> 20} MiB that there are; lower it"
        yield Finding("limits", text, True)


def _descriptors() -> int:
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a server raises its own limit to that


def _memory() -> int:
    """Return the memory of the machine or of its control group, in bytes; 0: not known."""
    found = []
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):
            continue
    try:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError, AttributeError):
        pass
    return min(found, default=0)


def _files(settings: Settings, config: Path | None) -> Iterator[Finding]:
    """Judge the permissions of the files that are there."""
    secret = [settings.token_key_file, settings.accounts_file, settings.tls_key]
    if settings.http_api.key.get_secret_value() or settings.client.token.hmac_secret_key.get_secret_value():
        secret.append(config)
    if settings.broker.startswith("sqlite:"):
        path = sqlite_path(settings.broker)
        secret += [path, Path(f"{path}-wal"), Path(f"{path}-presence")]
    for one in dict.fromkeys(filter(None, secret)):
        try:
            mode = one.stat().st_mode
        except OSError:
            continue
        if mode & stat.S_IWOTH:
            yield Finding("files", f"everybody on this machine may write to {one}; chmod 600 {one}", True)
        elif mode & stat.S_IROTH:
            is_key = one in (settings.token_key_file, settings.tls_key)
            yield Finding("files", f"everybody on this machine may read {one}; chmod 600 {one}", is_key)
    if settings.broker.startswith("memory:") and not settings.is_loopback:
        yield Finding("store", "memory:// forgets all messages when the process ends; use sqlite:// or a server")
