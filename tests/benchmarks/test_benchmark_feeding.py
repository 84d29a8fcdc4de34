"""The benchmark of what feeds a GPU, on a short video."""

import json

import pytest
from numbered_videos import Recipe, write_numbered

from vmae_det.benchmarks.feeding import Feeding
from vmae_det.cli.main import main


def test_cores_and_disk_are_calculated_from_the_measured_times():
    result = Feeding("a", "pyav", 6.0, 4.0, 100_000, 1_000_000, None, rate=332)
    assert result.samples_per_core(1) == 100
    assert result.samples_per_core(2) == pytest.approx(1000 / 7)
    assert (result.cores(1), result.cores(8), result.cores(8, 2)) == (4, 27, 19)
    assert result.disk == 240  # GB: 2.4 million seconds of 100 kB
    assert result.read_rate() == 332
    assert result.read_rate(2) == 166


def test_feeding(tmp_path, capsys):
    video, file = write_numbered(tmp_path / "video", Recipe(count=64)), tmp_path / "feeding.json"
    command = ["benchmark", "feeding", "--videos", str(video), "--short-sides", "64", "--repeats", "1"]
    command += ["--json", str(file), "--config-file", "Kinetics/vit_base_16x4_pretrain.yaml"]
    assert main(command) == 0
    entries = {(entry["source"], entry["reader"]): entry for entry in json.loads(file.read_text())}
    names = ["original", *(f"resize --short-side 64 --gop {gop}" for gop in (250, 16, 1))]
    assert all((name, "pyav") in entries for name in names)
    assert ("resize --short-side 64 --gop 1, tar shards", "pyav") in entries
    images = entries["folders of JPEG images, short side 64", "images"]
    assert images["bytes_per_clip"] == pytest.approx(images["bytes_per_second"] * 16 / 25)
    assert all(entry["decode"] > 0 and entry["transform"] > 0 for entry in entries.values())
    assert entries[names[3], "pyav"]["psnr"] > 20
    assert entries[names[3], "pyav"]["bytes_per_second"] > entries[names[1], "pyav"]["bytes_per_second"]
    assert "| original | pyav |" in capsys.readouterr().out
