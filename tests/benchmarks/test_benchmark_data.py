"""The benchmark of the data loader, on a few small videos."""

import json
import shutil

import pytest

from vmae_det.benchmarks import synthetic_videos
from vmae_det.cli.main import main


@pytest.fixture(scope="module", autouse=True)
def write_once(tmp_path_factory):
    """Encode the videos once for all tests."""
    write, folder = synthetic_videos.write_videos, tmp_path_factory.mktemp("written") / "videos"

    def write_or_copy(target, width, height, gop):
        assert (width, height) == (96, 64)
        if not folder.exists():
            write(folder, width, height, gop)
        shutil.copytree(folder, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_videos, "write_videos", write_or_copy)
        yield


@pytest.mark.parametrize("config", ["Kinetics/vit_base_16x4_finetune.yaml", "AVA/vit_base_16x4.yaml"])
def test_synthetic_dataset_for_each_task(config, capsys):
    command = ["benchmark", "data", "--videos", "96x64", "--clips", "32", "--repeats", "1", "--config-file"]
    size = ("INPUT.CROP_SIZE", "64", "INPUT.TRAIN_SHORT_SIDE", "64", "INPUT.NUM_FRAMES", "4")
    assert main([*command, config, *size, "DATALOADER.NUM_WORKERS", "1"]) == 0
    assert "of the decoder alone" in capsys.readouterr().out


def test_loader_and_decoder(tmp_path, capsys):
    size = ("INPUT.CROP_SIZE", "64", "MODEL.BACKBONE.PATCH_SIZE", "16", "INPUT.NUM_FRAMES", "4")
    command = ["benchmark", "data", "--videos", "96x64", "--clips", "32", "--repeats", "1"]
    command += [
        "--json",
        str(tmp_path / "data.json"),
        "--config-file",
        "Kinetics/vit_base_16x4_pretrain.yaml",
    ]
    assert main([*command, *size, "DATALOADER.NUM_WORKERS", "1", "DATALOADER.REPEATED_AUG", "2"]) == 0
    figures = json.loads((tmp_path / "data.json").read_text())
    assert set(figures["stages"]) == {"read", "decode", "transform", "collate", "copy"}
    assert figures["samples"] == 2 * figures["loader"]
    assert figures["share_of_ceiling"] == figures["loader"] / figures["ceiling"]  # with a single turn
    assert "clips a second" in capsys.readouterr().out


def test_invalid_size(capsys):
    assert main(["benchmark", "data", "--videos", "large"]) == 2
    assert "--videos: expected a size such as 340x256, at least 64x64, got large" in capsys.readouterr().err
