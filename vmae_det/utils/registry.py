"""Registries: parts by name, so that a new part is a new file and no existing one changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fvcore.common.registry import Registry as FvcoreRegistry

from vmae_det.utils.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(FvcoreRegistry):
    """fvcore's registry; parts may have a name other than their class's."""

    def register_as(self, name: str) -> Callable[[T], T]:
        """A decorator that registers its object under `name`."""

        def decorate(obj: T) -> T:
            self._do_register(name, obj)
            return obj

        return decorate


def lookup(registry: Registry, name: str, key: str) -> Any:
    """What `registry` holds under `name`; ConfigError naming the config `key` if there is none."""
    if name not in registry:
        known = [known_name for known_name, _ in registry]
        raise ConfigError(
            f"{key}: got '{name}', which is not registered{did_you_mean(name, known)}; "
            "--import MODULE registers own parts"
        )
    return registry.get(name)
