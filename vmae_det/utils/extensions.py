"""User modules that register backbones, heads, datasets, readers and so on: `--import MODULE`.

Only the command line names them. A config or a checkpoint cannot, so that files never execute code.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from vmae_det.utils.errors import UserError
from vmae_det.utils.moved import MODULES

OPTION = "--import"

_imported: list[str] = []


def import_extensions(modules: Sequence[str]) -> None:
    """Import modules by name, from the current folder or the installed packages.

    Raises:
        UserError: a module is not found, or its import fails.
    """
    if modules and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
            raise UserError(f"{OPTION}: expected a module name such as my_package.my_head, got '{module}'")
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            where = f"{error.name} is neither in {os.getcwd()} nor installed"
            if error.name in MODULES:
                where = str(error)
            raise UserError(f"{OPTION} {module}: {where}") from None
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{OPTION} {module}: import failed: {reason}") from error
        if module not in _imported:
            _imported.append(module)


def imported_extensions() -> tuple[str, ...]:
    """Return the modules imported so far, for the processes that this one starts."""
    return tuple(_imported)


def pop_import_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split command-line arguments into those without `--import MODULE` (anywhere) and the modules.

    Raises:
        UserError: the name of a module is missing.
    """
    rest, modules = [], []
    given = iter(arguments)
    for argument in given:
        if argument == OPTION:
            module = next(given, None)
            if module is None:
                raise UserError(f"{OPTION}: expected a module name")
            modules.append(module)
        elif argument.startswith(f"{OPTION}="):
            modules.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    return rest, modules
