"""Whether what runs on the event loop was called from a thread, whose thread-local things it does not have."""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context

__all__ = ("IS_FROM_THREAD", "context_of_thread")

IS_FROM_THREAD: ContextVar[bool] = ContextVar("tidewire.is_from_thread", default=False)


def context_of_thread() -> Context:
    """Return a copy of this thread's context, for what it calls on the event loop."""
    context = copy_context()
    context.run(IS_FROM_THREAD.set, True)
    return context
