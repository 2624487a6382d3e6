"""Notifications: an HTTP request reaches every device of one user, or waits in the inbox until there is one.

    tidewire run notifications:app --workers 2
    curl -d '{"text": "your parcel is here"}' -H 'Content-Type: application/json' http://127.0.0.1:8000/notify/ann

There is no log-in here, to stay short; docs/howto/authentication.md shows how to find out who `user` really is.
"""

import uuid
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import FastAPI, HTTPException, WebSocket
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from tidewire import Hub, PublishError

PAGES = Path(__file__).parent / "pages"
User = Annotated[str, PathParameter(min_length=1, max_length=32, pattern=r"^[\w.-]+$")]

hub = Hub("sqlite:///notifications.db")
app = FastAPI(lifespan=hub.lifespan)


class Notification(BaseModel):
    """What a user is told; the id lets a device show it once, and lets a sender repeat it safely."""

    text: str = Field(min_length=1, max_length=500)
    id: str = Field(default_factory=lambda: uuid.uuid4().hex, max_length=64)


@app.post("/notify/{user}")
async def notify(user: User, notification: Notification) -> dict[str, object]:
    """Keep a notification, and push it to every device of the user that is connected, on whichever worker."""
    try:
        position = await hub.send_to_user(user, notification, key=notification.id)
    except PublishError as error:
        raise HTTPException(503, f"{error}; the same id may be sent again") from error
    return {"id": notification.id, "offset": position.offset, "online": await hub.is_online(user)}


@app.get("/inbox/{user}")
async def inbox(user: User) -> list[Notification]:
    """Return what was sent to a user, oldest first."""
    page = await hub.inbox(user)
    return [Notification(**msgspec.json.decode(publication.data)) for publication in page.publications]


@app.websocket("/ws/{user}")
async def device(websocket: WebSocket, user: User) -> None:
    """Connect one device: whatever is sent to the user is pushed to it, and nothing has to be subscribed to."""
    async with hub.connect(websocket, user=user) as connection:
        await connection.wait_closed()


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Serve the page."""
    return FileResponse(PAGES / "notifications.html")


app.mount("/pages", StaticFiles(directory=PAGES))
