"""Every command checks its outputs first, and reports outputs that cannot be written in one line."""

import os

import pytest

from vmae_det.cli.main import main

# One output of each command, OUTPUT, is invalid. The inputs are not read.
FILES = [
    "evaluate --ground-truth a.csv --detections b.csv --label-map c --json OUTPUT",
    "check-data a.yaml --json OUTPUT",
    "print-config --json OUTPUT",
    "benchmark gpu-scaling --json OUTPUT",
    "convert a.pt OUTPUT --to vmae_det",
    "export --weights a.pt --format onnx --output OUTPUT",
    "detect-persons a.mp4 --output OUTPUT",
    "visualize page --video a.mp4 --detections a.csv --label-map c --output OUTPUT",
    "visualize curves run --output OUTPUT",
]
FOLDERS = [
    "evaluate --ground-truth a.csv --detections b.csv --label-map c --report OUTPUT",
    "check-data a.yaml --sheets OUTPUT",
    "classify a.mp4 --weights a.pt --output OUTPUT",
    "detect a.mp4 --weights a.pt --output OUTPUT",
    "shard a.yaml --output OUTPUT",
    "resize . --output OUTPUT",
    "import a.xml --output OUTPUT",
    "inspect --output OUTPUT",
    "quickstart --output OUTPUT",
    "review run --output OUTPUT",
    "visualize reconstruction --weights a.pt --output OUTPUT",
    "visualize attention --weights a.pt --video v.mp4 --output OUTPUT",
    "visualize batch --output OUTPUT",
    "visualize embedding --weights a.pt --output OUTPUT",
]
# Outputs that are checked after the arguments are parsed.
LATE = [
    "train --config-file MiniAVA/pretrain.yaml OUTPUT_DIR OUTPUT",
    "test --config-file MiniAVA/pretrain.yaml OUTPUT_DIR OUTPUT",
    "prepare ucf101 --videos . --annotations . --root OUTPUT",
]


@pytest.fixture
def site(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("keep")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere" / "x")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_and_fail(command, output, capsys):
    """Run a command that exits with status 2; return its last line on stderr."""
    try:
        status = main([output if word == "OUTPUT" else word for word in command.split()])
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    assert status == 2, printed
    assert "Traceback" not in printed.err
    return printed.err.splitlines()[-1]


@pytest.mark.parametrize("command", FILES)
def test_a_file_that_cannot_be_written(site, command, capsys):
    for output in (".", "/", "folder", "file/x.json", "n" * 300, "", "new/" + "n" * 300):
        line = run_and_fail(command, output, capsys)
        assert "cannot be written" in line, (output, line)
    assert sorted(os.listdir(site)) == ["file", "folder", "lost", "pipe"]


@pytest.mark.parametrize("command", FOLDERS + LATE)
def test_a_folder_that_cannot_be_written(site, command, capsys):
    for output in ("file", "file/x", "n" * 300, "lost", "pipe", "pipe/x"):
        line = run_and_fail(command, output, capsys)
        assert "cannot be written" in line, (output, line)
    assert (site / "file").read_text() == "keep"
    assert (site / "pipe").is_fifo()


def test_an_input_is_not_overwritten(site, capsys):
    (site / "a.pt").write_bytes(b"weights")
    assert "would overwrite an input file" in run_and_fail(
        "convert a.pt OUTPUT --to vmae_det", "a.pt", capsys
    )
    assert (site / "a.pt").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("evaluate --ground-truth a.csv --classes out --label-map c --json OUTPUT", "out/v_classes.csv"),
        (
            "evaluate --ground-truth a.csv --person-boxes b.json --images out/i.json --json OUTPUT",
            "out/i.json",
        ),
        ("detect v.mp4 --weights a.pt --output out --overwrite --boxes OUTPUT", "out/v.csv"),
        ("features v.mp4 --weights a.pt --output out --overwrite --boxes OUTPUT", "out/v.json"),
    ],
)
def test_an_input_in_the_folder_of_the_results_is_not_overwritten(site, command, path, capsys):
    (site / "out").mkdir()
    (site / path).write_text("keep")
    (site / "v.mp4").write_text("")
    assert f"{path}: would overwrite an input file" in run_and_fail(command, path, capsys)
    assert (site / path).read_text() == "keep"
