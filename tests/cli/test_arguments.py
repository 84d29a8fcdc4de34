"""Numbers on the command line: every numeric option of every command."""

import argparse
from pathlib import Path

import pytest

from vmae_det.cli.arguments import (
    dataset_time,
    fraction,
    integer_in,
    keyframe_interval,
    number_in,
    output_file,
    output_folder,
    positive_int,
)
from vmae_det.cli.main import COMMANDS, build_parser, main

ODD = ["nan", "inf", "-inf", "1e-320", "-1e-320", "1e400", "-1", "1_000", "0x10", "1j", "", " ", "9" * 5000]


def options(parser, path=()):
    """Yield the options with a typed value of a command and its subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from options(command, (*path, name))
        elif action.type not in (None, Path, output_file, output_folder):
            yield pytest.param(action.type, id=" ".join((*path, action.dest)))


ALL = [option for name in COMMANDS for option in options(build_parser(name)[0], ()) if name in option.id]


def test_no_option_uses_int_or_float_as_its_type():
    assert len(ALL) > 50
    assert not [option.id for option in ALL if option.values[0] in (int, float)]


@pytest.mark.parametrize("parse", ALL)
def test_unusual_values_are_accepted_or_rejected_in_one_line(parse):
    for text in ODD:
        try:
            value = parse(text)
        except argparse.ArgumentTypeError as error:
            assert len(str(error)) < 300  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert value == value, text  # not NaN


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (positive_int, "3", 3),
        (integer_in("[0, 9]"), "+7", 7),
        (keyframe_interval, "0.04", 0.04),
        (dataset_time, "-900", -900.0),
        (fraction, "1", 1.0),
        (number_in("(0, inf]"), "inf", float("inf")),
    ],
)
def test_valid_numbers(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--start", "nan"], "--start: expected a number in [0, 1000000000], got 'nan'"),
        (["--every", "1e-320"], "--every: expected a number in [0.001, 1000000], got '1e-320'"),
        (
            ["--video-start", "inf"],
            "--video-start: expected a number in [-1000000000, 100",
        ),
        (["--end", "nan"], "--end: expected a number in (0, inf], got 'nan'"),
        (["--top-k", "9" * 5000], "--top-k: expected an integer in [1, 1000000], got '999"),
        (["--start", "5", "--end", "5"], "--end: must be greater than --start 5, got 5"),
    ],
)
def test_invalid_times_of_detect(capsys, tmp_path, argv, expected):
    out = ["--output", str(tmp_path / "out"), "--weights", "w.pt"]
    try:
        status = main(["detect", "a.mp4", *out, *argv])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("url", ["https://[bad", "rtsp://[x", "http://a:99999999/x.mp4"])
def test_an_invalid_url_is_named(capsys, tmp_path, url):
    assert main(["detect", url, "--output", str(tmp_path / "out"), "--weights", "w.pt"]) == 2
    assert f"{url}: not a valid URL" in capsys.readouterr().err
