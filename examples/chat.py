"""The FastAPI tutorial's chat, minus its faults: it has history, and works with any number of workers.

tidewire run chat:app --workers 2          or          uvicorn chat:app --ws tidewire.links.uvicorn:WebSocketProtocol
"""

from pathlib import Path

from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from tidewire import Hub

PAGES = Path(__file__).parent / "pages"

hub = Hub("sqlite:///chat.db")
app = FastAPI(lifespan=hub.lifespan)


@app.websocket("/ws/{client_id}")
async def chat(websocket: WebSocket, client_id: int) -> None:
    """Take one client in: it is shown what was said before, then what is said."""
    async with hub.connect(websocket, user=str(client_id)) as connection:
        await connection.subscribe(
            "lobby",
            history=100,
            join=f"Client #{client_id} joined the chat",
            leave=f"Client #{client_id} left the chat",
        )
        async for text in connection.iter_text():
            if text.strip():
                await connection.publish("lobby", f"Client #{client_id} says: {text}")


@app.get("/online")
async def online() -> list[str]:
    """Say who is in the chat, on all workers."""
    return await hub.users("lobby")


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Serve the page."""
    return FileResponse(PAGES / "chat.html")


app.mount("/pages", StaticFiles(directory=PAGES))
