"""Import paths of version 0.1: importing one raises an error that names the new path.

The table contains the documented paths. CHANGELOG.md lists all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.abc import MetaPathFinder
from types import ModuleType

MODULES = {
    "vmae_det.data.annotations": "vmae_det.formats.ava_csv",
    "vmae_det.data.label_map": "vmae_det.formats.label_map",
    "vmae_det.data.mini_ava": "vmae_det.synthetic_data.mini_ava",
    "vmae_det.mini_ava": "vmae_det.synthetic_data.mini_ava",
    "vmae_det.data.person_boxes": "vmae_det.formats.person_boxes",
    "vmae_det.data.rand_augment": "vmae_det.data.augmentation",
    "vmae_det.data.readers": "vmae_det.video.readers",
    "vmae_det.data.tubes": "vmae_det.formats.tube_csv",
}


class _MovedModuleFinder(MetaPathFinder):
    """Called before all other finders, which would import the leftovers of an old package, such as its
    `__pycache__`, as an empty package."""

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> None:
        if fullname in MODULES:
            new = MODULES[fullname]
            raise ModuleNotFoundError(f"{fullname} was renamed to {new} in vmae_det 0.2.0", name=fullname)


def install() -> None:
    """Register the finder of moved modules."""
    sys.meta_path.insert(0, _MovedModuleFinder())


def moved_names(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """Return a `__getattr__` for a module whose names moved.

    It raises ImportError for such a name: Python replaces the message of an AttributeError in
    `from module import NAME`.

    Args:
        module: its name.
        names: name to the module that contains it now.
    """

    def __getattr__(name: str) -> object:
        if name in names:
            raise ImportError(f"{module}.{name} was moved to {names[name]}.{name} in vmae_det 0.2.0")
        raise AttributeError(f"module '{module}' has no attribute '{name}'")

    return __getattr__
