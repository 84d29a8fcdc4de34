"""Datasets of videos in tar shards, local and at URLs."""

import io
import os
import pickle
import shutil
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from vmae_det.data.catalog import get_dataset
from vmae_det.data.loader import build_dataset, build_train_dataset, build_train_loader
from vmae_det.dataset_tools.check import check_dataset
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video import shards as shards_module
from vmae_det.video.probe import probe_video
from vmae_det.video.readers import tar_shard
from vmae_det.video.shards import expand_braces, find_shards


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VMAE_DET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def pack(folder, videos, per_shard=2, labels=None):
    """Shards train-000.tar, ... of `videos`: key to file or content."""
    folder.mkdir(exist_ok=True)
    items = list(videos.items())
    paths = []
    for number in range(0, len(items), per_shard):
        paths.append(folder / f"train-{number // per_shard:03d}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for key, content in items[number : number + per_shard]:
                add(tar, f"{key}.mp4", content.read_bytes() if isinstance(content, Path) else content)
                if labels is not None:
                    add(tar, f"{key}.cls", str(labels[key]).encode())
    return paths


@pytest.fixture
def sharded(mini_ava, tmp_path):
    """MiniAVA's videos in shards of two, next to its annotations."""
    folder = tmp_path / "sharded"
    shutil.copytree(mini_ava, folder, ignore=shutil.ignore_patterns("videos"))
    pack(folder / "videos", {path.stem: path for path in sorted((mini_ava / "videos").glob("*.mp4"))})
    return folder


def clips(mini_ava):
    """File and class of the first labeled clips."""
    lines = (mini_ava / "annotations/clips_train.csv").read_text().split("\n")[:5]
    return [(mini_ava / line.split()[0], int(line.split()[1])) for line in lines]


# ---------------------------------------------------------------- which shards


def test_braces():
    assert list(expand_braces("a.tar")) == ["a.tar"]
    assert list(expand_braces("t-{008..011}.tar")) == ["t-008.tar", "t-009.tar", "t-010.tar", "t-011.tar"]
    assert list(expand_braces("{9..10}")) == ["9", "10"]
    assert list(expand_braces("{a,b}/{0..1}")) == ["a/0", "b/0", "a/1", "b/1"]


def test_single_shard_folder_and_pattern(tmp_path):
    pack(tmp_path / "many", {str(n): b"x" for n in range(5)})
    for text, count in (("many/train-001.tar", 2), ("many", 5), ("many/train-{000..001}.tar", 4)):
        spec = get_dataset(str(tmp_path / text))
        assert (spec.type, len(spec.videos.videos)) == ("videos", count)
    assert list(spec.videos.videos)[-1] == tmp_path / "many/train-001.tar/3.mp4"
    with pytest.raises(DataError, match="0 of 0 shards do not exist"):
        get_dataset(str(tmp_path / "many/train-{2..1}.tar"))
    with pytest.raises(DataError, match=r"2 of 4 shards do not exist, such as .*train-003\.tar"):
        get_dataset(str(tmp_path / "many/train-{001..004}.tar"))
    with pytest.raises(ConfigError, match="nor tar shards"):
        get_dataset(str(tmp_path / "many/train"))
    (tmp_path / "many/video.mp4").touch()  # a tar file next to videos is not a shard of them
    assert find_shards(str(tmp_path / "many")) is None


def test_headers_are_read_once(tmp_path, monkeypatch, cache):
    paths = pack(tmp_path / "many", {str(n): b"x" * n for n in range(6)})
    read = []
    monkeypatch.setattr(
        shards_module, "scan_shard", lambda path: read.append(path) or tar_shard.scan_shard(path)
    )
    first = find_shards(str(tmp_path / "many")).videos
    again = find_shards(str(tmp_path / "many")).videos
    assert sorted(read) == paths
    assert [first.location(n) for n in range(6)] == [again.location(n) for n in range(6)]
    os.utime(paths[0], ns=(0, 0))  # another shard with the same name
    assert list(find_shards(str(tmp_path / "many")).videos) == list(first)
    assert len(read) == 6
    (cached,) = (cache / "shards").glob("*.npz")
    cached.write_bytes(b"damaged")
    assert list(find_shards(str(tmp_path / "many")).videos) == list(first)
    assert len(read) == 9


def test_concurrent_processes_read_the_headers_once(tmp_path, monkeypatch):
    pack(tmp_path / "many", {str(n): b"x" for n in range(6)})
    read, found = [], []
    monkeypatch.setattr(
        shards_module, "scan_shard", lambda path: read.append(path) or tar_shard.scan_shard(path)
    )
    threads = [
        threading.Thread(target=lambda: found.append(list(find_shards(str(tmp_path / "many")).videos)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 3
    assert len(found) == 4
    assert all(videos == found[0] for videos in found)


def test_headers_are_read_without_a_writable_cache(tmp_path, cache, caplog):
    pack(tmp_path / "many", {"a": b"x"})
    cache.write_text("a file")
    assert len(find_shards(str(tmp_path / "many")).videos) == 1
    assert "cannot be cached in" in caplog.text


def test_loader_workers_get_arrays(tmp_path):
    """The data sent to a loader worker contains few objects, and no header is read again."""
    pack(tmp_path / "many", {f"v{n:04d}": b"x" for n in range(1000)}, per_shard=100)
    videos = find_shards(str(tmp_path / "many")).videos
    assert len(pickle.dumps(videos)) < 100 * len(videos)
    copied = pickle.loads(pickle.dumps(videos))
    assert copied.location(777) == videos.location(777)
    assert copied.location(777).file.read_bytes()[copied.location(777).start] == ord("x")


# ---------------------------------------------------------------- datasets of each type


def test_pretraining(tiny_cfg, mini_ava, tmp_path, monkeypatch):
    files = sorted((mini_ava / "videos").glob("*.mp4"))[:6]
    pack(tmp_path / "many", {file.stem: file for file in files})
    cfg = tiny_cfg("pretrain", "DATALOADER.NUM_WORKERS", 1)
    cfg.DATASETS.TRAIN = (str(tmp_path / "many/train-{000..002}.tar"),)
    dataset = build_train_dataset(cfg, "pretraining")
    assert dataset.num_files == 6
    forbidden = pytest.fail
    monkeypatch.setattr(tar_shard, "_scan", lambda *_: forbidden("a header was read again"))
    loader = iter(build_train_loader(cfg, dataset))
    assert next(loader)["video"].shape[0] == 4 * cfg.DATALOADER.REPEATED_AUG
    loader.close()
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in files:
        shutil.copy(file, folder)
    cfg.DATASETS.TRAIN = (str(folder),)
    assert (build_train_dataset(cfg, "pretraining")[0, 3][0]["video"] == dataset[0, 3][0]["video"]).all()


def test_classes_from_shards_or_from_a_list(tiny_cfg, mini_ava, tmp_path):
    videos = clips(mini_ava)
    labels = {f"sub/{file.stem}": label for file, label in videos}
    pack(tmp_path / "many", {f"sub/{file.stem}": file for file, _ in videos}, labels=labels)
    dataset_file, cfg = tmp_path / "custom.yaml", tiny_cfg("finetune")
    dataset_file.write_text("type: classification\nvideos: many\n")
    dataset = build_dataset(cfg, "classification", str(dataset_file), True)
    assert dataset.labels.tolist() == list(labels.values())
    assert dataset[0, 1][0]["label"] == videos[1][1]
    name = videos[4][0].stem
    (tmp_path / "list.csv").write_text(
        f"train-002.tar/sub/{name}.mp4 7\ntrain-000.tar/{list(labels)[1]}.mp4 3\n"
    )
    dataset_file.write_text(
        "type: classification\nvideos: many/train-{000..002}.tar\nannotations: list.csv\n"
    )
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 8
    listed = build_dataset(cfg, "classification", str(dataset_file), True)
    assert listed.labels.tolist() == [7, 3]
    assert [path.stem for path in listed.files] == [name, videos[1][0].stem]
    assert listed[0, 0][0]["video"].shape[0] == 3
    (tmp_path / "list.csv").write_text("train-000.tar/gone.mp4 7\n")
    with pytest.raises(
        DataError, match=r"list\.csv:1: expected SHARD\.tar/KEY\.mp4 of .*got 'train-000\.tar/gone"
    ):
        build_dataset(cfg, "classification", str(dataset_file), True)


def test_missing_or_invalid_class(tiny_cfg, tmp_path):
    dataset_file = tmp_path / "custom.yaml"
    dataset_file.write_text("type: classification\nvideos: many\n")
    (path,) = pack(tmp_path / "many", {"a": b"x", "b": b"y"}, labels={"a": 1, "b": "run"})
    with pytest.raises(DataError, match=r"train-000\.tar: b\.cls: expected a class index"):
        build_dataset(tiny_cfg("finetune"), "classification", str(dataset_file), True)
    assert [finding.kind for finding in check_dataset(get_dataset(str(dataset_file))).findings] == [
        "broken_file"
    ]
    with tarfile.open(path, "a") as tar:
        add(tar, "c.mp4", b"z")
        add(tar, "b.cls", b"2")
    with pytest.raises(
        DataError, match=r"1 of 3 videos have no class, such as .*/c: expected c\.cls next to it"
    ):
        build_dataset(tiny_cfg("finetune"), "classification", str(dataset_file), True)
    dataset_file.write_text("type: classification\nvideos: .\n")
    with pytest.raises(DataError, match="annotations: missing"):
        get_dataset(str(dataset_file))


@pytest.mark.parametrize("training", [True, False])
def test_detection_by_key(tiny_cfg, mini_ava, sharded, training):
    name = "train.yaml" if training else "val.yaml"
    cfg = tiny_cfg("detect")
    expected = build_dataset(cfg, "detection", str(mini_ava / name), training)
    found = build_dataset(cfg, "detection", str(sharded / name), training)
    assert len(found) == len(expected)
    for index in (0, len(expected) - 1):
        assert (found[0, index][0]["video"] == expected[0, index][0]["video"]).all()


def test_two_videos_with_the_same_key(tiny_cfg, sharded):
    shutil.copy(sharded / "videos/train-000.tar", sharded / "videos/train-100.tar")
    with pytest.raises(
        DataError, match=r"two videos have the key '.*': .*train-000\.tar/.* and .*train-100\.tar"
    ):
        build_dataset(tiny_cfg("detect"), "detection", str(sharded / "train.yaml"), True)


# ---------------------------------------------------------------- check-data


@pytest.fixture
def in_process(monkeypatch):
    def probe(paths, decode, workers):
        return {path: probe_video(str(path), decode) for path in set(paths)}

    monkeypatch.setattr("vmae_det.dataset_tools.check.context.probe_videos", probe)


def test_check_data_reads_shards(mini_ava, sharded, in_process):
    expected = check_dataset(get_dataset(str(mini_ava / "train.yaml")))
    report = check_dataset(get_dataset(str(sharded / "train.yaml")))
    assert report.findings == []
    assert (report.counts, report.recall) == (expected.counts, expected.recall)


def test_check_data_finds_damaged_and_missing_videos_in_shards(sharded, in_process):
    spec = get_dataset(str(sharded / "train.yaml"))
    first, second = np.unique([*map(str, spec.videos.videos)])[:2]
    broken, gone = (Path(path) for path in (first, second))
    with tarfile.open(broken.parent, "w") as tar:
        add(tar, broken.name, b"\0\0\0\x18ftypmp42" + b"no index" * 50)
    found = {f.kind: f for f in check_dataset(get_dataset(str(sharded / "train.yaml"))).findings}
    assert {"missing_video", "unreadable_video"} <= set(found)
    assert "MP4 file without an index" in found["unreadable_video"].examples[0].text
    assert gone.stem in found["missing_video"].examples[0].text


def test_check_data_on_lists_and_labels_of_shards(mini_ava, tmp_path, in_process):
    videos = clips(mini_ava)
    (shard,) = pack(
        tmp_path / "many",
        {file.stem: file for file, _ in videos},
        per_shard=9,
        labels={file.stem: label for file, label in videos},
    )
    dataset_file, held_out = tmp_path / "custom.yaml", tmp_path / "other.yaml"
    dataset_file.write_text("type: classification\nvideos: many\n")
    (tmp_path / "list.csv").write_text(f"{shard.name}/{videos[0][0].name} 0\n{shard.name}/gone.mp4 1\n")
    held_out.write_text("type: classification\nvideos: many/train-000.tar\nannotations: list.csv\n")
    report = check_dataset(get_dataset(str(dataset_file)))
    assert report.counts["videos"] == 5
    assert {f.kind for f in report.findings} <= {"class_without_training_rows"}
    report = check_dataset(get_dataset(str(held_out)), against=get_dataset(str(dataset_file)))
    assert {f.kind: f.count for f in report.findings} == {"missing_video": 1, "video_in_both_sets": 1}
    shard.write_bytes(shard.read_bytes()[:3000])
    (finding,) = check_dataset(get_dataset(str(tmp_path / "many"))).findings
    assert finding.kind == "broken_file"
    assert "train-000.tar" in str(finding.examples[0])


# ---------------------------------------------------------------- URLs


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requested.append(self.path)
        super().do_GET()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """HTTP server of the folder `tmp_path/site`. `requested` contains the requested paths."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "site").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "site"))
    server.requested = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_dataset_at_a_url_is_downloaded_once(tiny_cfg, mini_ava, tmp_path, server):
    labels = {file.stem: label for file, label in clips(mini_ava)}
    pack(tmp_path / "site/shards", {file.stem: file for file, _ in clips(mini_ava)}, labels=labels)
    names = [f'item {{ name: "{n}" id: {n + 1} }}\n' for n in range(max(labels.values()) + 1)]
    (tmp_path / "site/names.pbtxt").write_text("".join(names))
    dataset_file = tmp_path / "custom.yaml"
    dataset_file.write_text(
        f"type: classification\nvideos: {server.url}/shards/train-{{000..002}}.tar\n"
        f"label_map: {server.url}/names.pbtxt\n"
    )
    cfg = tiny_cfg("finetune", "DATALOADER.NUM_WORKERS", 2)
    cfg.DATASETS.TRAIN = (str(dataset_file),)
    for _ in range(2):
        loader = iter(build_train_loader(cfg, build_train_dataset(cfg, "classification")))
        assert set(next(loader)["label"].tolist()) <= set(labels.values())
        loader.close()
    shards = [f"/shards/train-{number:03d}.tar" for number in range(3)]
    assert sorted(server.requested) == ["/names.pbtxt", *shards]


def test_urls_of_lists_and_of_other_files(tiny_cfg, mini_ava, tmp_path, server):
    (file, label), *_ = clips(mini_ava)
    pack(tmp_path / "site", {file.stem: file})
    (tmp_path / "site/list.csv").write_text(f"train-000.tar/{file.name} {label}\n")
    dataset_file = tmp_path / "custom.yaml"
    dataset_file.write_text(
        f"type: classification\nvideos: {server.url}/train-000.tar\nannotations: {server.url}/list.csv\n"
    )
    assert build_dataset(tiny_cfg("finetune"), "classification", str(dataset_file), True).labels.tolist() == [
        label
    ]
    assert len(get_dataset(f"{server.url}/train-000.tar").videos.videos) == 1
    with pytest.raises(DataError, match=r"/videos: expected the URL of tar shards \(\.tar\)"):
        get_dataset(f"{server.url}/videos")
