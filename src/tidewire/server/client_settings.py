"""The table `[client]` of the settings: which clients may connect, and by which keys."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from tidewire.tokens.token_settings import TokenTable

__all__ = ("ClientTable", "PersonalTable")


class SubscriptionTokenTable(TokenTable):
    """The table `[client.subscription_token]`: other keys for subscription tokens, if enabled."""

    enabled: bool = False


class PersonalTable(BaseModel):
    """The table `[client.subscribe_to_user_personal_channel]`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    #: Each connection of a user is subscribed to `#user`, or `namespace:#user`.
    enabled: bool = False
    personal_channel_namespace: str = ""


class ClientTable(BaseModel):
    """The table `[client]`: which clients may connect, and as which users."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    #: Every client may connect and do everything: for development and tests only.
    insecure: bool = False
    allow_anonymous_connect_without_token: bool = False
    disallow_anonymous_connection_tokens: bool = False
    #: Users of the server's own accounts may connect too; None: yes, unless signing up is open and your application
    #: signs tokens, because then a stranger could sign up with the name of one of your users.
    allow_accounts: bool | None = None
    token: TokenTable = TokenTable()
    subscription_token: SubscriptionTokenTable = SubscriptionTokenTable()
    subscribe_to_user_personal_channel: PersonalTable = PersonalTable()
