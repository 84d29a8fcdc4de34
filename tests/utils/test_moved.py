import importlib
import importlib.util

import pytest

from vmae_det.engine.trainer import HookBase
from vmae_det.utils.errors import UserError
from vmae_det.utils.extensions import import_extensions
from vmae_det.utils.moved import MODULES


@pytest.mark.parametrize(("old", "new"), MODULES.items())
def test_a_moved_module_is_named_with_its_new_path(old, new):
    with pytest.raises(ModuleNotFoundError, match=rf"{old} was renamed to {new} "):
        importlib.import_module(old)
    assert importlib.util.find_spec(new)


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [
        ("engine.setup", "run_training", "engine.train"),
        ("engine.setup", "run_evaluation", "engine.evaluation"),
        ("visualization", "VideoWriter", "video.writer"),
        ("visualization", "draw_people", "rendering"),
        ("visualization", "KIND_COLOURS", "rendering"),
    ],
)
def test_a_moved_name_is_named_with_its_new_module(module, name, new):
    with pytest.raises(ImportError, match=rf"was moved to vmae_det.{new}.{name} "):
        exec(f"from vmae_det.{module} import {name}")
    assert hasattr(importlib.import_module(f"vmae_det.{new}"), name)


def test_other_names_are_missing_as_usual():
    module = importlib.import_module("vmae_det.visualization")
    assert not hasattr(module, "no_such_name")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'vmae_det.data.no_such_module'"):
        importlib.import_module("vmae_det.data.no_such_module")


def test_an_extension_that_uses_an_old_path_ends_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "old_reader.py").write_text("from vmae_det.data.readers import VideoReader\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--import old_reader: vmae_det.data.readers was renamed to"):
        import_extensions(["old_reader"])


@pytest.mark.parametrize(("old", "new"), [("alarm", "flag_event"), ("alarmed", "handle_event")])
def test_a_hook_with_an_old_method_is_an_error(old, new):
    with pytest.raises(TypeError, match=rf"HookBase.{old} was renamed to {new}"):
        type("OldHook", (HookBase,), {old: lambda self: None})
