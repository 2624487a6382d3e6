"""The pipelines of the ready server, and the choice of one for a sample."""

from __future__ import annotations

from tidewire.errors import ConfigurationError
from tidewire.hub import Hub
from tidewire.pipelines.checks import find_inputs
from tidewire.pipelines.definition_files import builtin, load_folder
from tidewire.pipelines.errors import BadStart
from tidewire.pipelines.service import Pipelines
from tidewire.server.settings import Settings

__all__ = ("default_pipeline", "server_pipelines")

_OURS, _DEMO = "readqc", "demo"


def server_pipelines(settings: Settings, hub: Hub) -> Pipelines:
    """Return the pipelines that the settings name, not opened. Raises ConfigurationError."""
    table = settings.pipelines
    own = load_folder(table.folder) if table.folder else []
    names = {definition.name for definition in own}
    if table.inputs is not None and not table.inputs.is_dir():
        raise ConfigurationError(f"{table.inputs} is no folder; make it, or name another with pipelines.inputs")
    pipelines = Pipelines(
        hub,
        settings.runs_folder,
        # a file in the folder replaces the built-in pipeline of the same name
        own + [definition for definition in builtin() if definition.name not in names],
        inputs=table.inputs,
        limits=table.limits,
        url=_url(settings),
        default=table.default or _OURS,
    )
    if table.default is not None and table.default not in pipelines.definitions:
        raise ConfigurationError(
            f"pipelines.default is {table.default!r}, which is no pipeline; "
            f"there are {', '.join(sorted(pipelines.definitions))}"
        )
    return pipelines


def default_pipeline(settings: Settings, pipelines: Pipelines, sample: str) -> str:
    """Return the default pipeline for a sample. Raises BadStart for an unknown sample."""
    if settings.pipelines.default is not None:
        return settings.pipelines.default
    try:
        find_inputs(pipelines.definition(_OURS), sample, {}, pipelines.inputs)
    except BadStart as error:
        if settings.serves_tutorial:
            return _DEMO
        raise BadStart(f"unknown sample {sample!r}: {error}") from None
    return _OURS


def _url(settings: Settings) -> str:
    """Return the URL by which steps reach this server; "" if that is not known before it listens."""
    if settings.uds is not None or settings.port == 0 or settings.tls_cert is not None:
        return ""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/api/pipelines"
