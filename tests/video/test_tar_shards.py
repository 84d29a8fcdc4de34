import io
import tarfile

import pytest
from numbered_videos import Recipe, numbers, write_numbered, x264

from vmae_det.utils.errors import DataError
from vmae_det.video.readers import list_shard, open_video
from vmae_det.video.readers.base import VideoLocation
from vmae_det.video.readers.decord_reader import DecordReader
from vmae_det.video.readers.tar_shard import find_in_shard

READERS = ["decord", "pyav"]


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """Videos of 20, 30 and 40 frames, the second with an open GOP. Two have labels."""
    folder = tmp_path_factory.mktemp("shards")
    with tarfile.open(folder / "train-000.tar", "w") as tar:
        for key, count, suffix, gop in (
            ("a", 20, ".mp4", 0),
            ("dir/b", 30, ".mkv", 1),
            ("c.x", 40, ".mp4", 0),
        ):
            options = x264(keyint=8, bframes=2, open_gop=gop)
            file = write_numbered(folder / "v", Recipe(suffix=suffix, count=count, options=options))
            add(tar, f"{key}{suffix}", file.read_bytes())
            add(tar, f"{key}.json", b'{"caption": "blocks"}')
            if key != "dir/b":
                add(tar, f"{key}.cls", str(count).encode())
        add(tar, "bad.mp4", b"not a video at all\n" * 50)
    return folder / "train-000.tar"


def test_list_of_videos(shard):
    videos = list_shard(shard)
    assert [video.key for video in videos] == ["a", "dir/b", "c.x", "bad"]
    assert [video.label for video in videos] == [20, None, 40, None]
    assert videos[1].path == shard / "dir/b.mkv"


@pytest.mark.parametrize("reader", READERS)
def test_videos_are_read_in_place(shard, reader):
    for video, count in zip(list_shard(shard), (20, 30, 40)):
        opened = open_video(video.path, reader)
        assert opened.path == video.path
        assert len(opened) == count
        for indices in ([count - 1, 0, 9, 9], [10], list(range(count))):
            assert numbers(opened.frames(indices)) == indices
    assert DecordReader(VideoLocation(shard, shard, *find_in_shard(shard, "a.mp4"))).uses_decord
    assert open_video(shard / "a.mp4", reader, short_side=32).frames([3]).shape == (1, 32, 48, 3)


@pytest.mark.parametrize("reader", READERS)
def test_missing_member_and_member_that_is_not_a_video(shard, reader):
    with pytest.raises(DataError, match=r"train-000\.tar: contains no file 'z\.mp4'"):
        open_video(shard / "z.mp4", reader)
    with pytest.raises(DataError, match=r"train-000\.tar/bad\.mp4: cannot be read as a video"):
        open_video(shard / "bad.mp4", reader)
    with pytest.raises(DataError, match="no such video file"):
        open_video(shard.with_name("other.tar") / "a.mp4", reader)


def test_damaged_shards(tmp_path, shard):
    data = shard.read_bytes()
    path = tmp_path / "broken.tar"
    for content, cause in (
        (b"text" * 500, "uncompressed tar file"),
        (b"", "contains no videos|uncompressed tar file"),
        (data[: len(data) // 2], "truncated|uncompressed tar file"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"broken\.tar: .*({cause})"):
            list_shard(path)
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "a.mp4", b"x")
    with pytest.raises(DataError, match="uncompressed tar file"):
        list_shard(path)
    with tarfile.open(path, "w") as tar:
        add(tar, "a.mp4", b"x")
        add(tar, "a.cls", b"running")
    with pytest.raises(DataError, match=r"a\.cls: expected a class index 0, 1, 2, \.\.\., got 'running'"):
        list_shard(path)
    with pytest.raises(DataError, match=r"gone\.tar: cannot be read"):
        list_shard(tmp_path / "gone.tar")
