"""The benchmark of the video readers, on a short video."""

import json

from numbered_videos import Recipe, write_numbered

from vmae_det.cli.main import main


def test_readers(tmp_path, capsys):
    video, file = write_numbered(tmp_path / "video", Recipe(count=20)), tmp_path / "readers.json"
    command = ["benchmark", "readers", str(video), "--short-side", "32", "--repeats", "1"]
    assert main([*command, "--json", str(file)]) == 0
    entries = [entry for entry in json.loads(file.read_text()) if entry["reader"] == "pyav"]
    assert [entry["short_side"] for entry in entries] == [None, 32]
    assert all(entry["first_opening"] > 0 and entry["opening_and_clip"] > 0 for entry in entries)
    assert "| pyav | 32 |" in capsys.readouterr().out


def test_missing_video(tmp_path, capsys):
    assert main(["benchmark", "readers", str(tmp_path / "none.mp4")]) == 2
    assert "none.mp4" in capsys.readouterr().err
