"""The limits of pipelines."""

from __future__ import annotations

import msgspec

from tidewire.errors import ConfigurationError

__all__ = ("PipelineLimits",)


class PipelineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every limit of pipelines, with its default; reaching one is counted as `pipeline_NAME` in `statistics()`.

    All are greater than 0, except two: `threads` 0 means the processors of the machine, `user_concurrency` 0 means all
    but one of `concurrency`. The shares of a user do not bind the user "", which stands for the application itself.
    Raises ConfigurationError.
    """

    #: Runs at a time, over all processes that share the folder.
    concurrency: int = 2
    #: Runs at a time of one user, so that runs that never end leave a place for others.
    user_concurrency: int = 0
    #: Steps of one run side by side.
    steps: int = 2
    #: Runs that wait, and those of one user.
    queue: int = 100
    user_queue: int = 20
    #: Ended runs that are kept with their files.
    keep: int = 1_000
    #: The value of `{threads}`.
    threads: int = 0
    #: Bytes of the log of one step, and bytes a second.
    log_bytes: int = 67_108_864
    log_rate: float = 16_777_216.0
    #: Bytes of one upload, uploads that wait for their run, and those of one user.
    upload_bytes: int = 1_073_741_824
    uploads: int = 100
    user_uploads: int = 20

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not (value > 0 or (value == 0 and name in ("threads", "user_concurrency"))):
                raise ConfigurationError(f"pipeline limit {name} is {value!r}; write a number greater than 0")

    @property
    def running_of_user(self) -> int:
        """The number of runs of one user that may run at a time."""
        return self.user_concurrency or max(1, self.concurrency - 1)
