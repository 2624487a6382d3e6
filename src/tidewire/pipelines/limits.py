"""The limits of pipelines."""

from __future__ import annotations

import msgspec

from tidewire.errors import ConfigurationError

__all__ = ("PipelineLimits",)


class PipelineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every limit of pipelines, with its default; reaching one is counted as `pipeline_NAME` in `statistics()`.

    All are greater than 0, but `threads`: 0 means the processors of the machine. Raises ConfigurationError.
    """

    #: Runs at a time, over all processes that share the folder.
    concurrency: int = 2
    #: Steps of one run side by side.
    steps: int = 2
    #: Runs that wait.
    queue: int = 100
    #: Ended runs that are kept with their files.
    keep: int = 1_000
    #: What `{threads}` is.
    threads: int = 0
    #: Bytes of the log of one step, and bytes a second.
    log_bytes: int = 67_108_864
    log_rate: float = 16_777_216.0
    #: Bytes of one upload, and uploads that wait for their run.
    upload_bytes: int = 1_073_741_824
    uploads: int = 100

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not (value > 0 or (value == 0 and name == "threads")):
                raise ConfigurationError(f"pipeline limit {name} is {value!r}; write a number greater than 0")
