"""The names of the channels of runs."""

from __future__ import annotations

from tidewire.channels import PIPELINES

__all__ = ("RUN_EVENTS", "RUN_LISTS", "RUN_LOGS")

#: The events of each run of a pipeline, and the newest text of its logs.
RUN_EVENTS, RUN_LOGS = f"{PIPELINES}:", f"{PIPELINES}-log:"
#: The changes in the list of a user's runs.
RUN_LISTS = f"{PIPELINES}-list:"
