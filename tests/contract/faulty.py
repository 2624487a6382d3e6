"""The ready server with a fault in it: what is published with the words "please fail" raises inside the application."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import Cookie, Depends, Header, Query, Security, WebSocket, WebSocketException
from fastapi import Path as PathParameter
from fastapi.security import SecurityScopes

from tidewire import Hub
from tidewire.server.app import create_app
from tidewire.server.settings import Settings
from tidewire.sessions.application import HubConnection

_publish_by_hub, _publish_by_connection = Hub.publish, HubConnection.publish
_submit = HubConnection.submit


def _check(data: Any) -> None:
    if "please fail" in str(data):
        raise RuntimeError("the secret inside of the application")


async def _hub_publish(self: Hub, channel: str, data: Any, **options: Any) -> Any:
    _check(data)
    return await _publish_by_hub(self, channel, data, **options)


async def _connection_publish(self: HubConnection, channel: str, data: Any, **options: Any) -> Any:
    _check(data)
    return await _publish_by_connection(self, channel, data, **options)


async def _connection_submit(self: HubConnection, channel: str, data: Any, **options: Any) -> Any:
    _check(data)
    return await _submit(self, channel, data, **options)


Hub.publish = _hub_publish  # type: ignore[method-assign]
HubConnection.publish = _connection_publish  # type: ignore[method-assign]
HubConnection.submit = _connection_submit  # type: ignore[method-assign]

_settings: dict[str, Any] = {"broker": "memory://", "accounts": Path("accounts.db"), "tutorial": True}
app = create_app(Settings(**_settings))


def scoped(scopes: SecurityScopes, token: Annotated[str, Query()]) -> str:
    """Return the user of a token, for an endpoint that asks for scopes."""
    if token != "valid":
        raise WebSocketException(1008, "invalid token")
    return f"user with {scopes.scope_str}"


@app.websocket("/everything/{item}")
async def everything(
    websocket: WebSocket,
    item: Annotated[int, PathParameter(ge=1)],
    user: Annotated[str, Security(scoped, scopes=["read", "write"])],
    agent: Annotated[str, Header(alias="x-agent")],
    session: Annotated[str, Cookie()],
    limit: Annotated[int, Query(le=10)] = 5,
    base: str = Depends(lambda: "from a dependency"),
) -> None:
    """Use every kind of dependency, and answer with what came of it."""
    hub: Hub = websocket.app.state.hub
    async with hub.connect(websocket, user=user) as connection:
        await connection.send_json([item, user, agent, session, limit, base])
        await connection.close(1000, "done")
        try:
            await connection.send_text("too late")
        except Exception as error:
            app.state.late = f"{type(error).__name__}: {error}"


@app.websocket("/early")
async def early(websocket: WebSocket) -> None:
    """Use a connection before it is accepted, and tell what is raised."""
    hub: Hub = websocket.app.state.hub
    connection = hub.connect(websocket)
    try:
        await connection.send_text("too early")
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    async with connection:
        await connection.send_text(told)
        try:
            await websocket.receive_text()
        except Exception as error:
            await connection.send_text(f"{type(error).__name__}: {error}")


@app.get("/late")
async def late() -> str:
    """Return what was raised by sending after the end."""
    return str(app.state.late)
