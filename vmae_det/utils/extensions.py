"""Modules of the user's that register backbones, heads, datasets, readers and so on: `--import MODULE`.

Only who starts the program names them. A config or a checkpoint never does: nothing from outside is executed.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from vmae_det.utils.errors import UserError

OPTION = "--import"

_imported: list[str] = []


def import_extensions(modules: Sequence[str]) -> None:
    """Import modules by name, from the current folder or from what is installed.

    Raises:
        UserError: a module is not found, or fails while it is imported.
    """
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
            raise UserError(f"{OPTION}: expected a module's name such as my_package.my_head, got '{module}'")
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            where = f"{error.name} is neither in {os.getcwd()} nor installed"
            raise UserError(f"{OPTION} {module}: {where}") from None
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{OPTION} {module}: fails while it is imported: {reason}") from error
        if module not in _imported:
            _imported.append(module)


def imported_extensions() -> tuple[str, ...]:
    """The modules imported so far, for processes that this one starts."""
    return tuple(_imported)


def pop_import_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command-line arguments without `--import MODULE`, wherever it stands, and the modules.

    Raises:
        UserError: a module's name is missing.
    """
    rest, modules = [], []
    given = iter(arguments)
    for argument in given:
        if argument == OPTION:
            module = next(given, None)
            if module is None:
                raise UserError(f"{OPTION}: expected a module's name after it")
            modules.append(module)
        elif argument.startswith(f"{OPTION}="):
            modules.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    return rest, modules
