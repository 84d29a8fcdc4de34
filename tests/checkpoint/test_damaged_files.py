"""Damaged checkpoints: truncated files, changed bytes and files of other types are one clear error."""

import os
import random

import pytest
import torch

from vmae_det.checkpoint import load_weights, read_checkpoint, save_weights
from vmae_det.checkpoint.convert import convert_weights
from vmae_det.modeling import build_model
from vmae_det.utils.errors import WeightsError


@pytest.fixture
def model(tiny_cfg):
    return build_model(tiny_cfg("pretrain"))


class Malicious:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("weights.pt", b"", "damaged, or not a checkpoint"),
        ("weights.pt", b"PK\x03\x04 not really", "damaged, or not a checkpoint"),
        ("weights.pt", b"hello, I am a text file\n", "refused|damaged"),
        ("weights.safetensors", b"", "damaged, or not a checkpoint"),
        ("weights.safetensors", b"\xff" * 100, "damaged, or not a checkpoint"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=expected) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)


def test_a_truncated_file(model, tmp_path):
    path = save_weights(model.state_dict(), "", tmp_path / "model.pt")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(model, path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_lost_or_changed_bytes_anywhere_are_one_error(model, tmp_path, suffix):
    """Unless the change is inside a number, where it cannot be noticed."""
    torch.save({"model": model.state_dict()}, tmp_path / "model.pt")
    intact = convert_weights(
        tmp_path / "model.pt", tmp_path / f"intact{suffix}", "videomae"
    ).output.read_bytes()
    draw = random.Random(0)
    errors = []
    for trial in range(200):
        damaged = bytearray(intact[: draw.randrange(len(intact))] if trial % 4 == 0 else intact)
        for _ in range(3):
            index = draw.randrange(min(len(damaged), 4000) or 1)  # mostly in the header
            damaged[index : index + 1] = bytes([draw.randrange(256)])
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(damaged)
        try:
            load_weights(model, path)
        except WeightsError as error:
            errors.append(str(error))
    assert len(errors) > 100
    assert all(str(path) in error for error in errors)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Malicious()}, "bad.pt")
    with pytest.raises(
        WeightsError, match=r"contains no parameters; it contains model \(an object of (posix|nt).system\)"
    ):
        load_weights(model, "bad.pt")
    assert not (tmp_path / "hacked").exists()
