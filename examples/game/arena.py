"""The rules of the arena, without any network: players run after coins, and the arena decides who has one."""

import math
import random
from typing import Annotated

from pydantic import BaseModel, Field

SIZE, EDGE, SPEED, REACH, COINS = 1_000.0, 50.0, 12.0, 32.0, 6
#: Seconds for which an absent player is kept, and may come back as the same one.
PATIENCE = 60.0

Unit = Annotated[float, Field(ge=-1, le=1)]


class Steer(BaseModel):
    """Where a player wants to go; `at` is the player's own clock, which comes back to show the latency."""

    dx: Unit
    dy: Unit
    at: float = 0


class Player(BaseModel):
    x: float
    y: float
    dx: float = 0
    dy: float = 0
    points: int = 0
    away: bool = False
    at: float = 0
    heard: float


class Snapshot(BaseModel):
    """All that there is to see."""

    tick: int = 0
    players: dict[str, Player] = {}
    coins: list[tuple[float, float]] = []


class Arena:
    """The one truth about a game."""

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self.state = snapshot or Snapshot()
        while len(self.state.coins) < COINS:
            self.state.coins.append(self._place())

    def steer(self, name: str, steer: Steer, now: float) -> None:
        """Take what a player wants; a player who is not known enters at a random place."""
        if name not in self.state.players:
            x, y = self._place()
            self.state.players[name] = Player(x=x, y=y, heard=now)
        player = self.state.players[name]
        player.dx, player.dy, player.at, player.heard = steer.dx, steer.dy, steer.at, now

    def tick(self, now: float) -> Snapshot:
        """Move everybody by one step."""
        state = self.state
        state.tick += 1
        state.players = {name: player for name, player in state.players.items() if now - player.heard < PATIENCE}
        for player in state.players.values():
            step = SPEED / max(1, math.hypot(player.dx, player.dy))  # nobody is faster on the diagonal
            player.x = min(SIZE - EDGE, max(EDGE, player.x + step * player.dx))
            player.y = min(SIZE - EDGE, max(EDGE, player.y + step * player.dy))
            player.away = now - player.heard > 2
            if player.away:  # a client that has gone does not run on
                player.dx = player.dy = 0
            for number, (x, y) in enumerate(state.coins):
                if abs(player.x - x) < REACH and abs(player.y - y) < REACH:
                    player.points += 1
                    state.coins[number] = self._place()
        return state

    @staticmethod
    def _place() -> tuple[float, float]:
        return random.uniform(EDGE, SIZE - EDGE), random.uniform(EDGE, SIZE - EDGE)
