"""How settings are printed: one by one, as TOML, with secrets hidden."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import BaseModel, SecretStr

from tidewire.server.logs import redacted

__all__ = ("leaves", "shown")


def leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield a setting, or those of a table, by their dotted names."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from leaves(f"{path}.{name}", getattr(value, name))
    else:
        yield path, value


def shown(name: str, value: object) -> str:
    """Return the value of a setting as TOML."""
    if value is None:
        return "(by itself)"
    if name == "broker":
        value = redacted(str(value))
    if isinstance(value, SecretStr):
        return '"***"' if value.get_secret_value() else '""'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}" if value < 1_000_000 else f"{value:.0f}"
    if isinstance(value, list):
        return "[" + ", ".join(f'"{getattr(item, "name", item)}"' for item in value) + "]"
    return str(value) if isinstance(value, int) else f'"{value}"'
