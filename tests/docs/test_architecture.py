"""The drawing, the walks and the answers in docs/explanation match the code."""

import configparser
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "explanation"
pytestmark = pytest.mark.skipif(not PAGES.is_dir(), reason="the pages are part of a clone")


@pytest.fixture(scope="module")
def drawing():
    spec = importlib.util.spec_from_file_location("drawing", ROOT / "docs" / "_ext" / "drawing.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packages():
    return {path.parent.name for path in (ROOT / "vmae_det").glob("*/__init__.py")}


def test_the_drawing_has_the_packages_in_the_layers_of_the_import_contract(drawing):
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    layers = re.findall(r"\S.*", config["importlinter:contract:layers"]["layers"])
    rows = {}
    picture = (ROOT / "docs" / "images" / "packages.svg").read_text(encoding="utf-8")
    for top, name in re.findall(r' y="(\d+)"[^>]*font-weight="bold"[^>]*>(\w+)<', picture):
        rows.setdefault(int(top), []).append(name)
    assert [" | ".join(rows[top]) for top in sorted(rows)] == layers
    assert {name for row in rows.values() for name in row} == packages()


def test_the_drawing_is_up_to_date(drawing):
    """If this fails, run python docs/_ext/drawing.py."""
    assert drawing.FILE.read_text(encoding="utf-8") == drawing.draw(drawing.layers())
    assert set(drawing.PURPOSES) == packages()


def defines(file, name):
    """Whether a file defines a function, class, method, config key or constant."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.search(rf"^\s*(?:def|class) {name}\b|^(?:[\w.]+\.)?{name}\b[^=\n]*= ", text, re.MULTILINE)


def walks():
    text = (PAGES / "architecture.md").read_text(encoding="utf-8").partition("## Four walks")[2]
    for section in text.split("\n### ")[1:]:
        title = section.partition("\n")[0]
        yield pytest.param(re.findall(r"^\d+\. `([^`]+)`, `([^`]+)`: ", section, re.MULTILINE), id=title)


def test_there_are_four_walks():
    assert len(list(walks())) == 4


@pytest.mark.parametrize("steps", list(walks()))
def test_a_walk_names_at_most_eight_files_and_never_returns(steps):
    assert 5 <= len(steps) <= 8
    files = [file for file, _ in steps]
    assert len(set(files)) == len(files)
    visited = []
    for file, name in steps:
        assert defines(file, name), f"{file} does not define {name}"
        package = file.split("/")[1]
        if not visited or visited[-1] != package:
            assert package not in visited, f"the walk returns to {package}"
            visited.append(package)


def answers():
    text = (PAGES / "where_is_it.md").read_text(encoding="utf-8")
    return re.findall(r"^\| (.*\?) \| `([^`]+)` \| (?:`(\w+)`)? ?\|$", text, re.MULTILINE)


@pytest.mark.parametrize(("question", "file", "name"), list(answers()))
def test_answers_name_existing_code(question, file, name):
    assert (ROOT / file).is_file()
    if name:
        assert defines(file, name), f"{file} does not define {name}"


def test_the_questions_are_answered():
    text = " ".join(question for question, _, _ in answers())
    assert len(answers()) == (PAGES / "where_is_it.md").read_text(encoding="utf-8").count("?") - 1
    for topic in (
        "jittered",
        "learning rate",
        "keyframe chosen",
        "checkpoint renamed",
        "50 best rows",
        "label drawn",
    ):
        assert topic in text
