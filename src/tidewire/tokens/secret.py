"""A secret setting: never printed, and serialised for our own workers only."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainSerializer, SecretStr

__all__ = ("Secret",)

#: Hidden when printed; serialised in full, because a worker process receives its settings that way.
Secret = Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), return_type=str)]
