"""Long jobs with live progress: pipelines of programs and Python functions, and their durable runs."""

from tidewire.pipelines.definition import Input, Pipeline, Progress, Step, pipeline
from tidewire.pipelines.errors import (
    BadStart,
    Forbidden,
    NotFound,
    NotNow,
    PipelineError,
    QueueFull,
    StepFailed,
    TooBig,
)
from tidewire.pipelines.files import builtin, load, load_folder
from tidewire.pipelines.folders import FileFacts
from tidewire.pipelines.job import Job
from tidewire.pipelines.limits import PipelineLimits
from tidewire.pipelines.programs import Missing
from tidewire.pipelines.remote_job import RemoteJob
from tidewire.pipelines.routes import router
from tidewire.pipelines.runs import GivenInput, Run, RunStatus, StepState, StepStatus
from tidewire.pipelines.service import LogPart, Pipelines, Started

__all__ = (
    "BadStart",
    "FileFacts",
    "Forbidden",
    "GivenInput",
    "Input",
    "Job",
    "LogPart",
    "Missing",
    "NotFound",
    "NotNow",
    "Pipeline",
    "PipelineError",
    "PipelineLimits",
    "Pipelines",
    "Progress",
    "QueueFull",
    "RemoteJob",
    "Run",
    "RunStatus",
    "Started",
    "Step",
    "StepFailed",
    "StepState",
    "StepStatus",
    "TooBig",
    "builtin",
    "load",
    "load_folder",
    "pipeline",
    "router",
)
