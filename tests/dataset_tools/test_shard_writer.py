"""Pack datasets into shards and read them back."""

import tarfile

import pytest

from vmae_det.cli.main import main
from vmae_det.data.catalog import get_dataset
from vmae_det.dataset_tools import shard_writer
from vmae_det.dataset_tools.shard_writer import write_shards
from vmae_det.utils.errors import DataError, UserError
from vmae_det.video.readers import list_shard
from vmae_det.video.shards import find_shards


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VMAE_DET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def videos(tmp_path):
    """Ten files of 1000 bytes in two folders. They are not videos; packing does not check that."""
    for number in range(10):
        path = tmp_path / "videos" / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 1000)
    return tmp_path / "videos"


def contents(videos):
    sources = [videos.location(number) for number in range(len(videos))]
    return [source.file.read_bytes()[source.start :][: source.size] for source in sources]


def test_a_folder_is_restored(videos, tmp_path, capsys):
    assert main(["shard", str(videos), "--output", str(tmp_path / "out"), "--size", "7KB"]) == 0
    assert "videos-{000000..000003}.tar" in capsys.readouterr().out
    shards = find_shards(str(tmp_path / "out/videos-{000000..000003}.tar"))
    assert [file.stat().st_size <= 10240 for file in shards.files] == [True] * 4
    expected = sorted(videos.rglob("*.mp4"))
    found = shards.videos
    assert [name for _, name in found.members()] == [str(path.relative_to(videos)) for path in expected]
    assert contents(found) == [path.read_bytes() for path in expected]
    # Pack the shards again.
    assert len(write_shards(get_dataset(str(tmp_path / "out")), tmp_path / "again", 10**9)) == 1
    assert contents(find_shards(str(tmp_path / "again")).videos) == contents(found)


def test_labels_are_packed(videos, tmp_path):
    (tmp_path / "list.csv").write_text("b/1.mp4 7\na/0.mp4 0\n")
    (tmp_path / "own.yaml").write_text("type: classification\nvideos: videos\nannotations: list.csv\n")
    (path,) = write_shards(get_dataset(str(tmp_path / "own.yaml")), tmp_path / "out", 10**9)
    assert [(video.key, video.label) for video in list_shard(path)] == [("b/1", 7), ("a/0", 0)]


def test_ids_are_keys(mini_ava, tmp_path):
    spec = get_dataset(str(mini_ava / "val.yaml"))
    (path,) = write_shards(spec, tmp_path / "out", 10**9)
    keys = {line.split(",")[0] for line in spec.annotations.read_text().splitlines()}
    assert {video.key for video in list_shard(path)} == keys


def test_a_stopped_run_can_be_resumed(videos, tmp_path, monkeypatch):
    out, spec, written = tmp_path / "out", get_dataset(str(videos)), []
    write = shard_writer._write

    def record(path, members, bar):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, members, bar)

    monkeypatch.setattr(shard_writer, "_write", record)
    with pytest.raises(KeyboardInterrupt):
        write_shards(spec, out, 7000)
    (out / "videos-000001.tar").write_bytes(b"half of it")
    written.clear()
    monkeypatch.setattr(shard_writer, "_write", lambda *args: written.append(args[0].name) or write(*args))
    write_shards(spec, out, 7000)
    assert written == ["videos-000001.tar", "videos-000002.tar", "videos-000003.tar"]
    with pytest.raises(UserError, match=r"contains other shards, such as videos-000001\.tar"):
        write_shards(spec, out, 10**9)
    with pytest.raises(UserError, match=r"videos-000000\.tar contains other videos"):
        write_shards(spec, out, 6000)


def test_a_file_that_disappears_leaves_no_shard(videos, tmp_path, monkeypatch):
    plan = shard_writer._plan

    def remove(members, size):
        members[3].source.file.unlink()
        return plan(members, size)

    monkeypatch.setattr(shard_writer, "_plan", remove)
    with pytest.raises(DataError, match="cannot be packed: No such file"):
        write_shards(get_dataset(str(videos)), tmp_path / "out", 10**9)
    assert list((tmp_path / "out").iterdir()) == []


def test_datasets_that_cannot_be_packed(videos, tmp_path, capsys):
    (videos / "a/0.mkv").write_bytes(b"x")
    with pytest.raises(DataError, match=r"0\.mp4: has the same key 'a/0' as .*0\.mkv"):
        write_shards(get_dataset(str(videos)), tmp_path / "out", 10**9)
    (tmp_path / "list.csv").write_text("../other.mp4 7\n")
    (tmp_path / "own.yaml").write_text("type: classification\nvideos: videos\nannotations: list.csv\n")
    with pytest.raises(DataError, match=r"list\.csv: '\.\./other\.mp4' is outside"):
        write_shards(get_dataset(str(tmp_path / "own.yaml")), tmp_path / "out", 10**9)
    with pytest.raises(SystemExit):
        main(["shard", str(videos), "--output", str(tmp_path / "out"), "--size", "much"])
    assert "expected a size such as 500MB" in capsys.readouterr().err


def test_a_video_larger_than_a_shard_gets_its_own(videos, tmp_path):
    paths = write_shards(get_dataset(str(videos)), tmp_path / "out", 1)
    assert len(paths) == 10
    with tarfile.open(paths[0]) as tar:
        assert tar.getnames() == ["a/0.mp4"]
