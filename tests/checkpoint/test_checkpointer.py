"""The checkpoints of a run: the last few are kept, and the newest intact one is found."""

import pytest
import torch

from vmae_det.checkpoint import Checkpointer
from vmae_det.utils.errors import WeightsError


def test_the_last_few_checkpoints_are_kept_and_the_newest_intact_one_is_found(tmp_path):
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


def test_a_failed_save_keeps_the_old_files(tmp_path, monkeypatch):
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
