"""Starts one module of tidewire as a program that starts fast: `python -P …/boot.py MODULE [ARGUMENT …]`.

The packages above a module import FastAPI and the whole engine, which no step needs. Here they are loaded only when one
of their names is used. Standard library only.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

__all__ = ("main",)

_HERE = os.path.dirname(os.path.abspath(__file__))
_FOLDERS = {"tidewire": os.path.dirname(_HERE), "tidewire.pipelines": _HERE}
#: The modules of `tidewire.pipelines` that a step may use and that load without the rest.
_LIGHT = ("job", "remote_job", "errors")


class _Package(ModuleType):
    """A package that is loaded as a whole when one of its names is used that no light module has."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(name)
        self._loader = SourceFileLoader(name, os.path.join(folder, "__init__.py"))
        self.__path__ = [folder]
        self.__file__ = self._loader.path
        self.__spec__ = ModuleSpec(name, self._loader, origin=self._loader.path, is_package=True)
        self.__spec__.submodule_search_locations = self.__path__

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or PathFinder.find_spec(f"{self.__name__}.{name}", self.__path__):
            raise AttributeError(name)  # the import system then imports the submodule
        for light in _LIGHT if self.__name__ == "tidewire.pipelines" else ():
            module = importlib.import_module(f"{self.__name__}.{light}")
            if name in module.__all__:
                return getattr(module, name)
        if "__all__" not in self.__dict__:
            self._loader.exec_module(self)
        if name in self.__dict__:
            return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def main() -> None:
    """Call `main` of the module that the command line names."""
    for name, folder in _FOLDERS.items():
        sys.modules[name] = _Package(name, folder)
    del sys.argv[0]
    importlib.import_module(sys.argv[0]).main()


if __name__ == "__main__":
    main()
