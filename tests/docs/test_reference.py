"""The reference pages are generated from the code, without Sphinx."""

import importlib.util
import re
from pathlib import Path

import pytest

from vmae_det.cli.main import COMMANDS
from vmae_det.config import defaults

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "_ext" / "reference.py"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="the pages are part of a clone")


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference_pages", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_config_page_has_every_key_with_default_range_and_comment(reference):
    rows = re.findall(
        r"^\| `([A-Z0-9_.]+)` \| (.+?) \| (.+?) \| (.+?) \|$", reference.config_page(), re.MULTILINE
    )
    assert [row[0] for row in rows] == list(defaults.KEYS)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("MODEL.DEVICE", "`auto` or `cpu` or `cuda` or `mps`"),
        ("MODEL.BACKBONE.DEPTH", "int in [1, 256]"),
        ("MODEL.PIXEL_MEAN", "3 values, each: float in [0, 255]"),
        ("MODEL.BACKBONE.NAME", "a name in `BACKBONE_REGISTRY`"),
        ("MODEL.COMPILE", "bool"),
        ("MODEL.WEIGHTS", "str"),
    ],
)
def test_ranges_in_words(reference, key, expected):
    assert reference.describe_range(defaults.KEYS[key].range) == expected


def test_commands_page_has_every_command_with_its_options(reference):
    page = reference.commands_page()
    for name in COMMANDS:
        assert f"\n## vmae-det {name}\n" in f"\n{page}"
    for option in ("--config-file", "--num-gpus", "--weights", "--label-map", "--import MODULE"):
        assert f"`{option}" in page
    assert "### vmae-det visualize reconstruction" in page
    assert "### vmae-det prepare kinetics400" in page


def test_api_page_has_every_exported_name(reference):
    page = reference.api_page()
    for package in reference.public_packages():
        for name in package.__all__:
            assert f":: {package.__name__}.{name}\n" in page
    for name in reference.DOCUMENTED:
        assert f":: {name}\n" in page


def test_docstrings_become_lists(reference):
    lines = [
        "Load x_y_ of *all*.",
        "",
        "Args:",
        "    model: any `model_`, with",
        "        a head.",
        "",
        "Raises:",
        "    E: no.",
    ]
    assert reference.to_rst(lines) == [
        "Load x_y\\_ of \\*all\\*.",
        "",
        "",
        "**Parameters**",
        "",
        "- `model`: any `model_`, with",
        "  a head.",
        "",
        "",
        "**Raises**",
        "",
        "- `E`: no.",
    ]


def test_markers_of_the_pages_are_known(reference):
    for name in ("config", "command_line", "api"):
        text = (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")
        assert reference.MARKER.search(text)
        assert not reference.MARKER.search(reference.replace_markers(text))
