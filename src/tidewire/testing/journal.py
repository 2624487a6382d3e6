"""The events of a test, in their order, and the report of a failed expectation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from tidewire.messages import Format, Publication
from tidewire.rules.rule_authority import Decision

__all__ = ("Journal", "shown")

#: Lines of one kind that are shown, and characters of a value.
_LINES, _WIDTH = 20, 160


class _Entry(msgspec.Struct, frozen=True):
    kind: str
    owner: str
    text: str


class Journal:
    """Remembers the messages that came, were sent and were published, and the decisions of rules."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._entries: list[_Entry] = []
        self._names: set[str] = set()

    def add(self, kind: str, owner: str, text: str) -> None:
        """Remember an event of a client or of the application."""
        self._names.add(owner)
        self._entries.append(_Entry(kind, owner, text))

    def rename(self, owner: str, name: str) -> str:
        """Give a client another name, unless one has it already; returns the name that it has now."""
        if name in self._names:
            return owner
        self._names.add(name)
        self._entries = [replace(one, owner=name) if one.owner == owner else one for one in self._entries]
        return name

    def published(self, publication: Publication, worker: int) -> None:
        """Remember a publication."""
        value = shown(_decoded(publication.data, publication.format))
        self.add("published", "", f"{publication.channel} #{publication.offset}: {value}  (worker {worker})")

    def decided(self, decision: Decision) -> None:
        """Remember the decision of a rule."""
        rule = f"the rule for {decision.rule!r}" if decision.rule else "no rule is for it: the channel's options"
        user = decision.caller.identity.user
        outcome = f"raised {decision.error!r}"
        if decision.permissions is not None:
            rights = ("subscribe", "publish", "history", "presence")
            allowed = [right for right in rights if getattr(decision.permissions, right)]
            outcome = f"allows {', '.join(allowed)}" if allowed else "allows nothing"
        self.add("decided", "", f"{decision.channel}, user {user!r}: {rule} {outcome}")

    def report(self, owner: str) -> str:
        """Return the report that a failed expectation of a client prints; "" stands for all clients."""
        parts = [
            ("came", f"{owner or 'clients'} got", self._lines("came", owner) if owner else self._named("came")),
            ("sent", "sent", self._named("sent")),
            ("published", "published", self._lines("published")),
            ("decided", "decided", self._lines("decided")),
            ("failed", "raised", self._lines("failed")),
        ]
        lines: list[str] = []
        for kind, title, found in parts:
            if found or kind in ("came", "published"):
                lines += [f"  {title}:", *(f"    {line}" for line in _last(found))]
        if self._seed is not None:
            lines.append(f"  play it again: realtime(app, seed={self._seed})")
        return "\n".join(lines)

    def _named(self, kind: str) -> list[str]:
        return [f"{entry.owner}: {entry.text}" for entry in self._entries if entry.kind == kind]

    def _lines(self, kind: str, owner: str = "") -> list[str]:
        return [entry.text for entry in self._entries if entry.kind == kind and entry.owner in (owner, "")]


def _last(lines: Iterable[str]) -> list[str]:
    found = list(lines) or ["nothing"]
    hidden = len(found) - _LINES
    return found if hidden <= 0 else [f"({hidden} before)", *found[-_LINES:]]


def shown(value: Any) -> str:
    """Return a value as a short text for people."""
    try:
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else repr(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}… ({len(text)} characters)"


def _decoded(data: bytes, format: Format) -> Any:
    if format is Format.BINARY:
        return data
    text = data.decode("utf-8", "replace")
    if format is Format.JSON:
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
