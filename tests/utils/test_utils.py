import json

import pytest
import torch

from vmae_det.utils.errors import ConfigError, DataError, did_you_mean, one_line
from vmae_det.utils.events import EventStorage, JSONWriter
from vmae_det.utils.output_files import atomic_write
from vmae_det.utils.registry import Registry, lookup


def test_file_is_written_completely_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"

    def fail():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_metrics_are_averaged_between_two_writes():
    storage = EventStorage()
    for value in (1.0, 2.0, torch.tensor(6.0)):
        storage.put("loss", value)
    storage.put("lr", 0.5)
    for count in (1.0, 4.0):
        storage.put_latest("bad_videos", count)
    assert storage.take() == {"bad_videos": 4.0, "loss": 3.0, "lr": 0.5}
    assert storage.take() == {}


def test_a_resumed_log_drops_repeated_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JSONWriter(path)
    for step in (1, 2, 3):
        writer.write(step, {"loss": float("nan") if step == 1 else 1.0})
    writer.close()
    path.write_text(path.read_text() + '{"step": 4, "lo')
    writer = JSONWriter(path, start=2)
    writer.write(3, {"loss": 2.0})
    writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1, "loss": None}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 2.0}]


def test_suggestions():
    assert did_you_mean("trian", ["train", "test"]) == "; did you mean 'train'?"
    assert did_you_mean("xyz", ["train", "test"]) == "; expected one of: train, test"
    assert did_you_mean("xyz", []) == ""


def test_data_errors_have_a_location():
    assert str(DataError("bad", "a.csv", 3)) == "a.csv:3: bad"
    assert str(DataError("bad", "a.csv")) == "a.csv: bad"
    assert str(DataError("bad")) == "bad"


def test_registries():
    registry = Registry("TOOL")
    registry.register_as("hammer")(dict)
    assert lookup(registry, "hammer", "TOOLS.NAME") is dict
    with pytest.raises(ConfigError, match=r"TOOLS\.NAME: got 'hamer'.*did you mean 'hammer'"):
        lookup(registry, "hamer", "TOOLS.NAME")


def test_message_is_one_line_of_limited_length():
    assert one_line("a\n  b\tc") == "a b c"
    text = one_line("begin " + "x" * 100_000 + " end")
    assert len(text) < 1100
    assert text.startswith("begin x")
    assert text.endswith("x end")
