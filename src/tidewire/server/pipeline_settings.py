"""The table `[pipelines]` of the settings; its limits are those of `pipelines.PipelineLimits`, a test compares them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from tidewire.pipelines.limits import PipelineLimits

__all__ = ("PipelineTable",)

_DEFAULTS = PipelineLimits()


class PipelineTable(BaseModel):
    """Long jobs: where their definitions, inputs and runs are, and how much they may take."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    #: False: no pipelines are served.
    enabled: bool = True
    #: The folder of definitions, `*.toml`.
    folder: Path | None = None
    #: The folder of input files, which users give by name.
    inputs: Path | None = None
    #: Where runs are kept; None: the accounts file with `-pipelines` added.
    runs: Path | None = None
    #: The pipeline that `WS /pipeline/{sample_id}` starts; None: `readqc` if the sample has a file, else `demo`.
    default: str | None = None
    concurrency: int = Field(default=_DEFAULTS.concurrency, gt=0)
    #: Runs at a time of one user; 0: all but one of `concurrency`.
    user_concurrency: int = Field(default=_DEFAULTS.user_concurrency, ge=0)
    steps: int = Field(default=_DEFAULTS.steps, gt=0)
    queue: int = Field(default=_DEFAULTS.queue, gt=0)
    user_queue: int = Field(default=_DEFAULTS.user_queue, gt=0)
    keep: int = Field(default=_DEFAULTS.keep, gt=0)
    #: 0: the processors of the machine.
    threads: int = Field(default=_DEFAULTS.threads, ge=0)
    log_bytes: int = Field(default=_DEFAULTS.log_bytes, gt=0)
    log_rate: float = Field(default=_DEFAULTS.log_rate, gt=0, allow_inf_nan=False)
    upload_bytes: int = Field(default=_DEFAULTS.upload_bytes, gt=0)
    uploads: int = Field(default=_DEFAULTS.uploads, gt=0)
    user_uploads: int = Field(default=_DEFAULTS.user_uploads, gt=0)

    @property
    def limits(self) -> PipelineLimits:
        """The limits of this table."""
        return PipelineLimits(**{name: getattr(self, name) for name in PipelineLimits.__struct_fields__})
