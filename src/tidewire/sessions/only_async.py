"""Objects that only `async with` enters."""

from __future__ import annotations

from types import TracebackType
from typing import ClassVar, NoReturn

from tidewire.errors import TidewireError

__all__ = ("OnlyAsync",)


class OnlyAsync:
    """An object that tells how to enter it when it is awaited, or used with a plain `with` or `for`."""

    __slots__ = ()
    _form: ClassVar[str]

    def _refuse(self, form: str) -> NoReturn:
        raise TidewireError(f"write `{self._form}`; `{form}` does not open it")

    def __await__(self) -> NoReturn:
        """Raise TidewireError: it is entered, not awaited."""
        self._refuse("await")

    def __enter__(self) -> NoReturn:
        """Raise TidewireError: its block waits."""
        self._refuse("with")

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing; a plain `with` looks for this first."""

    def __iter__(self) -> NoReturn:
        """Raise TidewireError: its iteration waits."""
        self._refuse("for")
