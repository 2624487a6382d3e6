"""The lock files: all that is needed on any platform is in them, with the hashes of its files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-stores.lock", "requirements-dev.lock", "requirements-docs.lock")
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    "arm": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "aarch64"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    "windows": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
}


def _locked(*names: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """Return the requirements of lock files with their hashes, by name."""
    found: dict[str, list[tuple[Requirement, list[str]]]] = {}
    for name in names:
        text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
        for line in text.splitlines():
            words, *hashes = line.split(" --hash=")
            requirement = Requirement(words.strip())
            found.setdefault(canonicalize_name(requirement.name), []).append((requirement, hashes))
    return found


def _needed(name: str, extras: set[str], environment: dict[str, str], seen: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the names of all that a package needs there; of what is not installed here the needs are not known."""
    try:
        requires = metadata.requires(name) or ()
    except metadata.PackageNotFoundError:
        return
    for extra in {"", *extras}:
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for text in requires:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate(environment | {"extra": extra}):
                yield canonicalize_name(needed.name)
                yield from _needed(needed.name, needed.extras, environment, seen)


def test_each_requirement_is_one_version_with_hashes() -> None:
    for name, lines in _locked(*LOCKS).items():
        for requirement, hashes in lines:
            assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), name
            assert hashes, name
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in (text.strip() for text in hashes)), name


@pytest.mark.parametrize("python", ["3.11.2", "3.12.0", "3.13.0"])
@pytest.mark.parametrize("platform", sorted(PLATFORMS))
@pytest.mark.parametrize(
    ("locks", "extras"),
    [(LOCKS[:1], {"metrics"}), (LOCKS[:2], {"metrics", "otel", "redis", "postgres", "nats"})],
    ids=["server", "stores"],
)
def test_nothing_is_missing_on_any_platform(
    platform: str, python: str, locks: tuple[str, ...], extras: set[str]
) -> None:
    """pip refuses all of a lock file with hashes if it lacks one package, were it only for Windows or an old Python."""
    version = {"python_version": python.rpartition(".")[0], "python_full_version": python}
    environment = {**default_environment(), **PLATFORMS[platform], **version}
    locked = _locked(*locks)
    for name in sorted(set(_needed("tidewire", extras, environment, set()))):
        fits = [one for one, _ in locked.get(name, ()) if one.marker is None or one.marker.evaluate(environment)]
        assert len({str(one.specifier) for one in fits}) == 1, name


@pytest.mark.parametrize("file", ["Makefile", "deploy/Dockerfile", "deploy/README.md"])
def test_what_is_installed_from_them_is_checked(file: str) -> None:
    text = (ROOT / file).read_text()
    assert "--require-hashes" in text
    for line in text.splitlines():
        if re.search(r"(pip install|\$\(PIP\)).* -[rc] ", line):
            assert "--require-hashes" in line, line
