"""What `tidewire doctor` says of a deployment, by its settings and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.live_server import tidewire
from tidewire.limits import Limits
from tidewire.server import deployment
from tidewire.server.deployment import judge
from tidewire.server.settings import Settings

LONG = "k" * 40


def found(folder: Path, **settings: Any) -> dict[str, bool]:
    """Return what the findings are about, and whether one of them is serious."""
    accounts = {"accounts": folder / "a.db"} | settings
    about: dict[str, bool] = {}
    for finding in judge(Settings.model_validate({"broker": "redis://store", **accounts})):
        about[finding.about] = about.get(finding.about, False) or finding.serious
    return about


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"host": "0.0.0.0", "signup": False}, {"tls": False}),
        ({"host": "0.0.0.0"}, {"tls": False, "signup": False}),
        ({"allowed_origins": ["*"]}, {"origins": False}),
        ({"host": "0.0.0.0", "signup": False, "allowed_origins": ["*"]}, {"tls": False, "origins": True}),
        ({"http_api": {"insecure": True}}, {}),
        ({"host": "::", "signup": False, "http_api": {"insecure": True}}, {"tls": False, "keys": True}),
        ({"host": "::", "signup": False, "client": {"insecure": True}}, {"tls": False, "keys": True}),
        ({"http_api": {"key": "short"}}, {"keys": False}),
        ({"http_api": {"key": LONG}}, {}),
        ({"client": {"token": {"hmac_secret_key": LONG}}}, {"keys": False}),
        ({"client": {"token": {"hmac_secret_key": LONG, "require_exp": True}}}, {}),
        ({"trusted_proxies": ["10.0.0.1", "10.0.0.0/8"]}, {}),
        ({"trusted_proxies": ["*"]}, {"proxies": True}),
        ({"trusted_proxies": ["0.0.0.0/0"]}, {"proxies": True}),
        ({"tls_cert": Path("missing.pem")}, {"tls": True}),
        ({"tls_cert": Path("missing.pem"), "tls_key": Path("missing.key")}, {"tls": True}),
        ({"broker": "memory://", "host": "0.0.0.0", "signup": False}, {"tls": False, "store": False}),
    ],
)
def test_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], expected: dict[str, bool]
) -> None:
    monkeypatch.setattr(deployment, "_descriptors", lambda: 1_000_000)
    assert found(tmp_path, **settings) == expected


@pytest.mark.parametrize(
    ("descriptors", "limits", "expected"),
    [
        (1_000_000, Limits(), {}),
        (2_048, Limits(), {"limits": False}),
        (1_024, Limits(), {"limits": True}),
        (1_024, Limits(connections=900), {}),
        (10**9, Limits(connections=10**8), {"limits": False}),
        (1_000_000, Limits(memory_bytes=2**50), {"limits": True}),
    ],
)
def test_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descriptors: int, limits: Limits, expected: dict[str, bool]
) -> None:
    monkeypatch.setattr(deployment, "_descriptors", lambda: descriptors)
    assert found(tmp_path, limits=limits) == expected


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("a.db.key", 0o600, {}),
        ("a.db.key", 0o644, {"files": True}),
        ("a.db", 0o644, {"files": False}),
        ("a.db", 0o666, {"files": True}),
    ],
)
def test_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: int, expected: dict[str, bool]
) -> None:
    monkeypatch.setattr(deployment, "_descriptors", lambda: 1_000_000)
    (tmp_path / name).touch(mode=mode)
    (tmp_path / name).chmod(mode)
    assert found(tmp_path) == expected


def test_the_exit_code_is_for_scripts(tmp_path: Path) -> None:
    fine = tidewire("doctor", "--broker", "memory://", folder=tmp_path)
    assert fine.returncode == 0, fine.stdout + fine.stderr
    (tmp_path / "tidewire.toml").write_text('host = "0.0.0.0"\nsignup = false\n')
    advised = tidewire("doctor", "--broker", "memory://", folder=tmp_path)
    assert (advised.returncode, "readable on the way" in advised.stdout) == (0, True)
    assert tidewire("doctor", "--broker", "memory://", "--strict", folder=tmp_path).returncode == 3
    (tmp_path / "tidewire.toml").write_text('host = "0.0.0.0"\n[http_api]\ninsecure = true\n')
    serious = tidewire("doctor", "--broker", "memory://", folder=tmp_path)
    assert (serious.returncode, "! http_api.insecure" in serious.stdout) == (3, True)
    assert [path.name for path in tmp_path.iterdir()] == ["tidewire.toml"]
