"""Tic-tac-toe for two, with as many onlookers as like.

    tidewire run game:app --workers 2

No worker owns a game. A game is what was published in its channel, and everybody sees that in the same order: two
players who take the same square at the same time, on two workers, see the same one of them get it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import FastAPI, WebSocket
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from tidewire import Hub

PAGES = Path(__file__).parent / "pages"
LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
Name = Annotated[str, PathParameter(min_length=1, max_length=32, pattern=r"^[\w.-]+$")]

hub = Hub("sqlite:///game.db")
app = FastAPI(lifespan=hub.lifespan)


class Wish(msgspec.Struct):
    """The square that a player wants, 0 to 8."""

    square: int


class Move(msgspec.Struct):
    """A wish as it is published: with the player, and the number of the game that it is meant for."""

    game: int
    player: str
    square: int


@dataclass
class Game:
    """The state after some moves; `pages/game.html` has the same rules in JavaScript."""

    number: int = 1
    squares: list[str] = field(default_factory=lambda: [""] * 9)
    players: list[str] = field(default_factory=list)

    def apply(self, move: Move) -> str:
        """Do a move, or say why it does not count; the first move of the next game clears the board."""
        if move.game == self.number + 1 and self.is_over():
            self.number, self.squares, self.players = move.game, [""] * 9, []
        turn = (9 - self.squares.count("")) % 2
        if move.game != self.number or self.is_over():
            return "this game is over"
        if not 0 <= move.square <= 8 or self.squares[move.square]:
            return "that square is not free"
        if move.player not in self.players and len(self.players) == turn:
            self.players.append(move.player)
        if move.player not in self.players or self.players.index(move.player) != turn:
            return "it is not your turn"
        self.squares[move.square] = "XO"[turn]
        return ""

    def is_over(self) -> bool:
        """Say whether somebody has won, or nobody can any more."""
        full = "" not in self.squares
        return full or any("" != self.squares[a] == self.squares[b] == self.squares[c] for a, b, c in LINES)


async def load(channel: str) -> Game:
    """Play a game from its channel's history, which may begin in the middle of an old one."""
    moves = [msgspec.json.decode(p.data, type=Move) for p in (await hub.history(channel)).publications]
    newest = max((move.game for move in moves), default=1)
    game = Game(newest)
    for move in moves:
        if move.game == newest:
            game.apply(move)
    return game


@app.websocket("/ws/{room}/{player}")
async def play(websocket: WebSocket, room: Name, player: Name) -> None:
    """Let a player, or an onlooker, into a game: first the moves so far, then each one as it is made."""
    channel = f"game:{room}"
    async with hub.connect(websocket, user=player) as connection:
        await connection.subscribe(channel, history=100)
        async for wish in connection.iter_json(Wish):
            game = await load(channel)
            move = Move(game.number + game.is_over(), player, wish.square)
            problem = game.apply(move)
            if problem:
                await connection.send_json({"refused": problem})
            else:
                await connection.publish(channel, move)


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Serve the page."""
    return FileResponse(PAGES / "game.html")


app.mount("/pages", StaticFiles(directory=PAGES))
