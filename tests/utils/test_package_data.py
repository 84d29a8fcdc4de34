import ast
from pathlib import Path

import pytest

import vmae_det

ROOT = Path(vmae_det.__file__).parents[1]


@pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="setup.py is in a clone, not in the installed package"
)
def test_every_data_file_is_installed():
    setup = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    keyword = next(
        each for each in ast.walk(setup) if isinstance(each, ast.keyword) and each.arg == "package_data"
    )
    folders = {"vmae_det.model_zoo.configs": ROOT / "configs"}
    installed = {
        path
        for package, patterns in ast.literal_eval(keyword.value).items()
        for pattern in patterns
        for path in folders.get(package, ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = [
        path for folder in ("configs", "vmae_det") for path in (ROOT / folder).rglob("*") if path.is_file()
    ]
    ours = {path for path in files if path.suffix not in (".py", ".pyc")}
    assert ours <= installed
