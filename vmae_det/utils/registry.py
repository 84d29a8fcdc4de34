"""Registries: classes by name, so that adding one requires a new file and no change to existing ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fvcore.common.registry import Registry as FvcoreRegistry

from vmae_det.utils.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(FvcoreRegistry):
    """fvcore's registry, with names that may differ from that of the class."""

    def register_as(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its object under `name`."""

        def decorate(obj: T) -> T:
            self._do_register(name, obj)
            return obj

        return decorate


def lookup(registry: Registry, name: str, key: str) -> Any:
    """Return the object registered under `name`.

    Raises:
        ConfigError: no object has that name; the message starts with the config `key`.
    """
    if name not in registry:
        known = [known_name for known_name, _ in registry]
        raise ConfigError(
            f"{key}: got '{name}', which is not registered{did_you_mean(name, known)}; "
            "register custom classes with --import MODULE"
        )
    return registry.get(name)
