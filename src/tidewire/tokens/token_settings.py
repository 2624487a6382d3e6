"""The settings of a verifier of tokens, apart from it, so that readers of settings import no cryptography."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, SecretStr

from tidewire.tokens.secret import Secret

__all__ = ("TokenTable",)


class TokenTable(BaseModel):
    """The table `[client.token]`: the keys that verify the tokens of the application."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    #: The shared secret of HS256, HS384, HS512.
    hmac_secret_key: Secret = SecretStr("")
    #: The previous shared secret, which still verifies the tokens that it signed.
    hmac_previous_secret_key: Secret = SecretStr("")
    #: Public keys in PEM, for RS256, RS384, RS512 and for ES256, ES384, ES512.
    rsa_public_key: str = ""
    ecdsa_public_key: str = ""
    #: Where a key set is published (RS*, ES*, EdDSA); tokens name their key by `kid`.
    jwks_public_endpoint: str = ""
    #: The values that `aud` and `iss` must have, as text or as a regular expression.
    audience: str = ""
    audience_regex: str = ""
    issuer: str = ""
    issuer_regex: str = ""
    #: The claim that holds the user's id, instead of `sub`.
    user_id_claim: str = ""
    #: A token without `exp` is refused.
    require_exp: bool = False
    #: Seconds by which the clock of the application may be ahead of this one (`nbf`, `iat`).
    leeway: float = 5.0

    @property
    def has_keys(self) -> bool:
        """Whether there is any key."""
        secret = self.hmac_secret_key.get_secret_value()
        return bool(secret or self.rsa_public_key or self.ecdsa_public_key or self.jwks_public_endpoint)
