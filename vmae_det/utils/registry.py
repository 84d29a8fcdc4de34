"""Looking a name up in a registry, with an error that names the config key."""

from __future__ import annotations

from typing import Any

from fvcore.common.registry import Registry

from vmae_det.utils.errors import ConfigError, did_you_mean


def lookup(registry: Registry, name: str, key: str) -> Any:
    """What `registry` holds under `name`; ConfigError naming the config `key` if there is none."""
    if name not in registry:
        known = [known_name for known_name, _ in registry]
        raise ConfigError(f"{key}: got '{name}', which is not registered{did_you_mean(name, known)}")
    return registry.get(name)
