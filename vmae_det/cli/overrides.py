"""Where the arguments of a command end and its `KEY VALUE` pairs begin, before argparse sees them."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterator, Sequence

from vmae_det.config.defaults import KEYS
from vmae_det.config.other_toolkits import OPTIONS, replacement_hint
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES

_GROUPS = {key.partition(".")[0] for key in KEYS if "." in key}
# A file such as TEST.MP4 or model.pth is no key.
_FILES = (
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
    """The arguments without the `--local-rank=N` that older launchers add; torch's way is the variable
    LOCAL_RANK.

    Raises:
        ConfigError: N is no number.
    """
    rest = list(argv)
    for place, token in enumerate(rest):
        found = _LOCAL_RANK.fullmatch(token)
        if found:
            value = found[2] if found[1] else "".join(rest[place + 1 : place + 2])
            if not re.fullmatch("[0-9]{1,4}", value):
                raise ConfigError(f"--local-rank: expected the number of a process, got '{value[:50]}'")
            os.environ.setdefault("LOCAL_RANK", value)
            del rest[place : place + (1 if found[1] else 2)]
            return rest
    return rest


def split_overrides(argv: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """The arguments of a command, and the `KEY VALUE` pairs after them.

    The pairs begin at a token that is a config key or looks like one, ours or another toolkit's; or after
    `--opts`.

    Args:
        parser: of the command; its options that take a value tell what is one.

    Raises:
        ConfigError: an option of another toolkit, or one after a pair.
    """
    options = dict(_options(parser))
    for place, token in enumerate(argv):
        if token == "--opts":
            return list(argv[:place]), _pairs(argv[place + 1 :])
        name = token.partition("=")[0]
        known = any(option.startswith(name) for option in options)
        if name in OPTIONS and not known:
            after = replacement_hint(argv[place + 1].partition("=")[0]) if place + 1 < len(argv) else ""
            raise ConfigError(f"{name}: an option of another toolkit; use {OPTIONS[name]}{after}")
        before = argv[place - 1] if place else ""
        if before.startswith("--") and any(
            option.startswith(before) and takes_value for option, takes_value in options.items()
        ):
            continue
        if _is_key(token):
            return list(argv[:place]), _pairs(argv[place:])
    return list(argv), []


def _pairs(overrides: Sequence[str]) -> list[str]:
    for key in overrides[0::2]:
        if key.startswith("-"):
            raise ConfigError(f"{key}: no config key; options come before the first KEY VALUE")
    return list(overrides)


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, bool]]:
    """All options, also those of commands below, and whether they take a value."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)
        for option in action.option_strings:
            yield option, action.nargs != 0


def _is_key(token: str) -> bool:
    name = token.partition("=")[0]
    suffix = f".{name.rpartition('.')[2].lower()}"
    if suffix in _FILES or os.path.exists(token):
        return False
    if name.upper() in KEYS or replacement_hint(name):
        return True
    looks_like_one = re.fullmatch(r"[A-Z_]+(\.[A-Z][A-Z0-9_]*)+", name) is not None
    return looks_like_one and bool(difflib.get_close_matches(name.partition(".")[0], _GROUPS, cutoff=0.75))
