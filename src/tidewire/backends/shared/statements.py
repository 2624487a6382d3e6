"""Reads SQL from the `.sql` files in a store's package."""

from __future__ import annotations

from importlib.resources import files

__all__ = ("read", "statements")

_MARK = "-- name: "


def read(package: str, name: str) -> str:
    """Return the text of a file of a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def statements(package: str, name: str) -> dict[str, str]:
    """Return the statements of a file by name; each begins with a line `-- name: …`."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in read(package, name).splitlines():
        if line.startswith(_MARK):
            lines = found[line.removeprefix(_MARK).strip()] = []
        else:
            lines.append(line)
    return {key: "\n".join(value).strip() for key, value in found.items()}
