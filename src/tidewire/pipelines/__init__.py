"""Long jobs with live progress: pipelines of programs and Python functions, and their durable runs."""

from typing import TYPE_CHECKING

from tidewire.support.first_use import imported_at_first_use

if TYPE_CHECKING:
    from tidewire.pipelines.definition import Input, Pipeline, Progress, Step, pipeline
    from tidewire.pipelines.definition_files import builtin, load, load_folder
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
    from tidewire.pipelines.folders import FileFacts
    from tidewire.pipelines.job import Job
    from tidewire.pipelines.limits import PipelineLimits
    from tidewire.pipelines.programs import Missing
    from tidewire.pipelines.remote_job import RemoteJob
    from tidewire.pipelines.routes import router
    from tidewire.pipelines.run_page import page
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
    "page",
    "pipeline",
    "router",
)

#: Where each of these names is defined; the errors are in tidewire.pipelines.errors.
_HOMES = {
    "tidewire.pipelines.definition": (
        "Input",
        "Pipeline",
        "Progress",
        "Step",
        "pipeline",
    ),
    "tidewire.pipelines.definition_files": (
        "builtin",
        "load",
        "load_folder",
    ),
    "tidewire.pipelines.folders": ("FileFacts",),
    "tidewire.pipelines.job": ("Job",),
    "tidewire.pipelines.limits": ("PipelineLimits",),
    "tidewire.pipelines.programs": ("Missing",),
    "tidewire.pipelines.remote_job": ("RemoteJob",),
    "tidewire.pipelines.routes": ("router",),
    "tidewire.pipelines.run_page": ("page",),
    "tidewire.pipelines.runs": (
        "GivenInput",
        "Run",
        "RunStatus",
        "StepState",
        "StepStatus",
    ),
    "tidewire.pipelines.service": (
        "LogPart",
        "Pipelines",
        "Started",
    ),
}
if not TYPE_CHECKING:  # a checker reads the imports above, and reports a name that is not there
    __getattr__ = imported_at_first_use(__name__, _HOMES, others="tidewire.pipelines.errors")
