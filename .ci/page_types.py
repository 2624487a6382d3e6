"""Write the types of the chat's page from the models of the server: `make page-types`."""

from __future__ import annotations

import sys
from pathlib import Path

from tidewire.asyncapi.typescript import typescript
from tidewire.server.app import create_app
from tidewire.server.settings import Settings

FILE = Path(__file__).parents[1] / "src/tidewire/server/ui/js/channels.ts"


def text() -> str:
    """Return the module as the models want it."""
    app = create_app(Settings())
    return typescript(app.state.hub.asyncapi(app))


if __name__ == "__main__":
    FILE.write_text(text())
    sys.stdout.write(f"wrote {FILE}\n")
