"""The Dockerfile, read as text: copied files, extras, user, and the commands of the installation page."""

import ast
import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

from vmae_det.cli.main import build_parser
from vmae_det.cli.overrides import split_overrides
from vmae_det.config import get_cfg
from vmae_det.model_zoo import get_config_file

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "Dockerfile").is_file(), reason="the image is built from a clone")


def instructions():
    """Return (instruction, arguments) of the Dockerfile, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def arguments():
    """Return the defaults of the build arguments."""
    return dict(value.split("=", 1) for name, value in instructions() if name == "ARG")


def copied():
    return [source for name, value in instructions() if name == "COPY" for source in value.split()[:-1]]


def setup_arguments():
    """Return the keyword arguments of setup() that are literals, or dicts of them."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "setup")
    return {keyword.arg: keyword.value for keyword in call.keywords}


def test_copied_files_exist_and_are_not_ignored():
    ignored = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert ignored[0] == "*"
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert sorted(copied()) == sorted(kept)
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not any(fnmatch(source, line) for line in ignored[1:] if not line.startswith("!")), source


def test_everything_that_setup_reads_is_copied():
    folders = ast.literal_eval(setup_arguments()["package_dir"]).values()
    files = re.findall(r'ROOT / "([\w.]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert {*folders, *files, "setup.py", "vmae_det"} <= set(copied())


def test_extras_and_python_are_supported():
    extras = set(ast.literal_eval(setup_arguments()["extras_require"]))
    assert set(arguments()["EXTRAS"].split(",")) <= extras
    lowest = ast.literal_eval(setup_arguments()["python_requires"]).removeprefix(">=")
    assert [int(n) for n in arguments()["PYTHON"].split(".")] >= [int(n) for n in lowest.split(".")]


def test_every_build_argument_is_used():
    text = "\n".join(value for name, value in instructions() if name != "ARG")
    assert arguments()["TORCH"] == "cpu"
    assert not [name for name in arguments() if f"${{{name}}}" not in text]


def test_the_command_runs_without_root():
    parts = instructions()
    names = [name for name, _ in parts]
    user = names.index("USER")
    assert names.count("USER") == 1
    assert parts[user][1] not in ("root", "0")
    assert "RUN" not in names[user:]
    scripts = ast.literal_eval(setup_arguments()["entry_points"])["console_scripts"]
    assert [script.partition("=")[0] for script in scripts] == json.loads(dict(parts)["ENTRYPOINT"])


def commands_of_the_page():
    page = (ROOT / "docs/get_started/install.md").read_text(encoding="utf-8")
    return re.findall(r"^    (docker .*)$", page, re.MULTILINE)


def test_commands_of_the_page():
    builds = [shlex.split(line) for line in commands_of_the_page() if line.startswith("docker build")]
    runs = [shlex.split(line) for line in commands_of_the_page() if line.startswith("docker run")]
    images = {words[words.index("-t") + 1] for words in builds}
    assert len(images) == 2
    for words in builds:
        given = [words[i + 1].partition("=")[0] for i, word in enumerate(words) if word == "--build-arg"]
        assert set(given) <= set(arguments())
    assert {image for words in runs for image in words if image in images} == images
    for words in runs:
        position = next(i for i, word in enumerate(words) if word in images)
        assert ("--gpus" in words[:position]) == words[position].endswith(":cuda")
        command, *argv = words[position + 1 :]
        parser, command_parser, _ = build_parser(command)
        argv, overrides = split_overrides(argv, command_parser)
        args = parser.parse_args([command, *argv])
        assert get_config_file(args.config_file).is_file()
        get_cfg().merge_from_list(overrides)
