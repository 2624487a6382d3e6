"""Why a user may do something in a channel, or not: by the rule, the options and the limits."""

from __future__ import annotations

from typing import Any

import msgspec

from tidewire.engine.node import Node
from tidewire.errors import CommandError, NotAvailable, TidewireError
from tidewire.rules.base import Action, Authority, Caller, Identity

__all__ = ("ACTIONS", "Question", "Reason", "reason_of")

#: The subjects that can be asked about.
ACTIONS = ("subscribe", *(action.value for action in Action))


class Question(msgspec.Struct, frozen=True):
    """A user ("": a stranger) who wants to do one of `ACTIONS` in a channel."""

    user: str
    channel: str
    action: str


class Reason(msgspec.Struct, frozen=True):
    """The answer: `rule` is the pattern that decided, `options` are those of its channels."""

    allowed: bool
    reason: str
    rule: str
    options: dict[str, Any]


async def reason_of(node: Node, judge: Authority, question: Question) -> Reason:
    """Ask the rules as a client of that user would; the answer says if a rule needs the value of a dependency."""
    rule = node.options.pattern(question.channel)
    try:
        options = judge.options(question.channel)
    except CommandError as error:
        return Reason(allowed=False, reason=str(error), rule=rule, options={})
    shown: dict[str, Any] = msgspec.to_builtins(options)
    caller = Caller("", Identity(question.user))
    refusal = await _refusal(judge, caller, question)
    why = refusal or f"the rule or namespace {rule!r} allows it"
    return Reason(allowed=not refusal, reason=why, rule=rule, options=shown)


async def _refusal(judge: Authority, caller: Caller, question: Question) -> str:
    try:
        await judge.subscribe(caller, question.channel, "", b"")
        is_subscribed, refused = True, ""
    except Exception as error:
        is_subscribed, refused = False, _words(error)
    if question.action == "subscribe":
        return refused
    try:
        await judge.allow(caller, question.channel, Action(question.action), subscribed=is_subscribed)
    except NotAvailable as error:
        return f"{error} (for every user: the channel does not offer it)"
    except Exception as error:
        return _words(error)
    return ""


def _words(error: Exception) -> str:
    if isinstance(error, TidewireError):
        return str(error)
    return f"the rule failed for a user without a connection: {type(error).__name__}: {error}"
