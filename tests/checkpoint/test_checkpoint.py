import os
import random

import pytest
import torch

from vmae_det.checkpoint import Checkpointer, load_weights, read_checkpoint, save_weights
from vmae_det.checkpoint.convert import convert_weights
from vmae_det.modeling import build_model
from vmae_det.utils.errors import WeightsError


@pytest.fixture
def model(tiny_cfg):
    return build_model(tiny_cfg("pretrain"))


def test_a_saved_file_loads_bit_for_bit(model, tiny_cfg, tmp_path):
    path = save_weights(model.state_dict(), "SEED: 1\n", tmp_path / "model.pt")
    other = build_model(tiny_cfg("pretrain", "SEED", 9))
    report = load_weights(other, path)
    assert not report.missing
    assert not report.unused
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_from_pre_training_to_classifier_and_detector(model, tiny_cfg):
    for task in ("finetune", "detect"):
        target = build_model(tiny_cfg(task, "SEED", 9))
        report = load_weights(target, model.state_dict())
        assert torch.equal(target.backbone.blocks[1].mlp.fc1.weight, model.backbone.blocks[1].mlp.fc1.weight)
        assert all("head" in name or "norm" in name for name in report.missing)
        assert all("decoder" in name or "mask_token" in name or "norm" in name for name in report.unused)


def test_from_classifier_to_detector_with_other_classes(tiny_cfg):
    classifier = build_model(tiny_cfg("finetune", "MODEL.CLASSIFIER.NUM_CLASSES", 5))
    detector = build_model(tiny_cfg("detect"))
    report = load_weights(detector, classifier.state_dict(), backbone_only=True)
    assert "backbone.norm.weight" in report.missing
    assert not report.unused


def test_another_architecture_is_refused_and_nothing_is_loaded(model, tiny_cfg):
    wider = build_model(tiny_cfg("pretrain", "MODEL.BACKBONE.EMBED_DIM", 32))
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(WeightsError, match=r"is \(24, .*\) in the file, \(32, .*\) in the model"):
        load_weights(wider, model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())


def test_a_file_with_more_or_fewer_blocks_is_refused(model, tiny_cfg):
    for depth, expected in ((1, "blocks.1.* is not in the model"), (3, "blocks.2.* is not in the file")):
        other = build_model(tiny_cfg("pretrain", "MODEL.BACKBONE.DEPTH", depth))
        with pytest.raises(WeightsError, match=expected):
            load_weights(other, model.state_dict())


def test_a_head_for_other_classes_is_refused_with_advice(tiny_cfg):
    classifier = build_model(tiny_cfg("finetune", "MODEL.CLASSIFIER.NUM_CLASSES", 5))
    with pytest.raises(WeightsError, match=r"MODEL\.BACKBONE\.CHECKPOINT"):
        load_weights(build_model(tiny_cfg("finetune")), classifier.state_dict())


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
def test_bytes_lost_or_changed_anywhere_end_in_one_error(model, tmp_path, suffix):
    """Or pass unseen, inside of a number."""
    torch.save({"model": model.state_dict()}, tmp_path / "model.pt")
    whole = convert_weights(
        tmp_path / "model.pt", tmp_path / f"whole{suffix}", "videomae"
    ).output.read_bytes()
    draw = random.Random(0)
    errors = []
    for number in range(200):
        damaged = bytearray(whole[: draw.randrange(len(whole))] if number % 4 == 0 else whole)
        for _ in range(3):
            place = draw.randrange(min(len(damaged), 4000) or 1)  # in the header, mostly
            damaged[place : place + 1] = bytes([draw.randrange(256)])
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(damaged)
        try:
            load_weights(model, path)
        except WeightsError as error:
            errors.append(str(error))
    assert len(errors) > 100
    assert all(str(path) in error for error in errors)


def test_code_in_a_file_is_not_executed(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Malicious()}, "bad.pt")
    with pytest.raises(
        WeightsError, match=r"holds no parameters, but model \(an object of (posix|nt).system\)"
    ):
        load_weights(model, "bad.pt")
    assert not (tmp_path / "hacked").exists()


def test_a_missing_file_and_unknown_names(model, tmp_path):
    with pytest.raises(WeightsError, match="no such checkpoint file"):
        load_weights(model, tmp_path / "gone.pt")
    with pytest.raises(WeightsError, match=r"no known format.*conv1\.weight"):
        load_weights(model, {"conv1.weight": torch.zeros(3)})
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="expected a dict"):
        load_weights(model, tmp_path / "list.pt")


def test_the_last_few_checkpoints_are_kept_and_the_newest_whole_one_is_found(tmp_path):
    checkpointer = Checkpointer(tmp_path / "run", keep=2)
    assert checkpointer.load_newest() is None
    for step in (1, 2, 3):
        checkpointer.save({"step": step}, step)
    checkpointer.wait()
    assert [path.name for path in checkpointer.all()] == ["checkpoint_0000002.pt", "checkpoint_0000003.pt"]
    assert checkpointer.load_newest()[1]["step"] == 3
    (tmp_path / "run" / "checkpoint_0000003.pt").write_bytes(b"PK half")
    path, state = checkpointer.load_newest()
    assert (path.name, state["step"]) == ("checkpoint_0000002.pt", 2)


def test_a_failed_save_leaves_the_old_files_alone(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path, keep=2)
    checkpointer.save({"step": 1}, 1)
    checkpointer.wait()
    before = set(tmp_path.iterdir())

    def broken(_, file):
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", broken)
    checkpointer.save({"step": 2}, 2)
    with pytest.raises(
        WeightsError, match=r"0000002\.pt: the .* No space left .* on disk is checkpoint_0000001\.pt"
    ):
        checkpointer.wait()
    assert set(tmp_path.iterdir()) == before
