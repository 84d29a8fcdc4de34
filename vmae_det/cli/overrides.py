"""Splits the arguments of a command from its `KEY VALUE` overrides, before argparse parses them."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterator, Sequence

from vmae_det.config.defaults import KEYS
from vmae_det.config.other_toolkits import OPTION_REPLACEMENTS, replacement_hint
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES

_GROUPS = {key.partition(".")[0] for key in KEYS if "." in key}
# A file such as TEST.MP4 or model.pth is not a key.
_FILE_SUFFIXES = (
    VIDEO_SUFFIXES
    | IMAGE_SUFFIXES
    | frozenset(
        (
            ".pt",
            ".pth",
            ".ckpt",
            ".bin",
            ".safetensors",
            ".pt2",
            ".onnx",
            ".pkl",
            ".csv",
            ".json",
            ".yaml",
            ".yml",
        )
    )
)
_LOCAL_RANK = re.compile(r"--local[-_]rank(=(.*))?")


def take_local_rank(argv: Sequence[str]) -> list[str]:
    """Remove `--local-rank=N`, which older launchers add, and set the variable LOCAL_RANK instead.

    Raises:
        ConfigError: N is not a number.
    """
    rest = list(argv)
    for index, token in enumerate(rest):
        match = _LOCAL_RANK.fullmatch(token)
        if match:
            value = match[2] if match[1] else "".join(rest[index + 1 : index + 2])
            if not re.fullmatch("[0-9]{1,4}", value):
                raise ConfigError(f"--local-rank: expected the rank of a process, got '{value[:50]}'")
            os.environ.setdefault("LOCAL_RANK", value)
            del rest[index : index + (1 if match[1] else 2)]
            return rest
    return rest


def split_overrides(argv: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Split a command line into the arguments of the command and the `KEY VALUE` pairs after them.

    The pairs start after `--opts`, or at the first token that is or resembles a config key of this or another
    toolkit.

    Args:
        argv: tokens after the name of the command.
        parser: parser of the command. Its options with a value determine which tokens are values.

    Raises:
        ConfigError: an option belongs to another toolkit, or follows a pair; or `--resume` has a value.
    """
    options = dict(_options(parser))
    for index, token in enumerate(argv):
        if token == "--opts":
            return list(argv[:index]), _check_pairs(argv[index + 1 :])
        name = token.partition("=")[0]
        known = any(option.startswith(name) for option in options)
        if name in OPTION_REPLACEMENTS and not known:
            hint = replacement_hint(argv[index + 1].partition("=")[0]) if index + 1 < len(argv) else ""
            raise ConfigError(f"{name}: an option of another toolkit; use {OPTION_REPLACEMENTS[name]}{hint}")
        before = argv[index - 1] if index else ""
        if before.startswith("--") and any(
            option.startswith(before) and takes_value for option, takes_value in options.items()
        ):
            continue
        if _is_key(token):
            return list(argv[:index]), _check_pairs(argv[index:])
        if before == "--resume" and options.get(before) is False and not token.startswith("-"):
            raise ConfigError(
                f"--resume: takes no value, got {token}; resumes from the latest checkpoint in OUTPUT_DIR; "
                "to start from the weights in a file, set MODEL.WEIGHTS"
            )
    return list(argv), []


def _check_pairs(overrides: Sequence[str]) -> list[str]:
    for key in overrides[0::2]:
        if key.startswith("-"):
            raise ConfigError(f"{key}: not a config key; options must come before the first KEY VALUE")
    return list(overrides)


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, bool]]:
    """Yield all options, including those of subcommands, and whether they take a value."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)
        for option in action.option_strings:
            yield option, action.nargs != 0


def _is_key(token: str) -> bool:
    """Whether a token is or resembles a config key."""
    name = token.partition("=")[0]
    suffix = f".{name.rpartition('.')[2].lower()}"
    if suffix in _FILE_SUFFIXES or os.path.exists(token):
        return False
    if name.upper() in KEYS or replacement_hint(name):
        return True
    has_key_form = re.fullmatch(r"[A-Z_]+(\.[A-Z][A-Z0-9_]*)+", name) is not None
    return has_key_form and bool(difflib.get_close_matches(name.partition(".")[0], _GROUPS, cutoff=0.75))
