"""A setting that nobody is shown: its text is asked for by name, and travels only to our own workers."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainSerializer, SecretStr

__all__ = ("Secret",)

#: Hidden when printed; serialised as it is, for a worker process is given its settings that way.
Secret = Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), return_type=str)]
