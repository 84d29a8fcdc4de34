"""Models on the Hugging Face hub by name, from its cache and from a local server with the hub's API."""

import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors

from vmae_det.checkpoint import read_checkpoint
from vmae_det.checkpoint.locate import HubModel, locate, parse_hub_name
from vmae_det.checkpoint.state_dicts import state_dict_of
from vmae_det.cli.main import main
from vmae_det.utils.errors import WeightsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MCG-NJU/videomae-base", HubModel("MCG-NJU/videomae-base", None)),
        ("me/my_model.v2@v1.0", HubModel("me/my_model.v2", "v1.0")),
        ("me/model@refs/pr/1", HubModel("me/model", "refs/pr/1")),
        ("https://huggingface.co/me/model", HubModel("me/model", None)),
        ("https://huggingface.co/me/model/tree/main", HubModel("me/model", "main")),
        ("https://huggingface.co/me/model/resolve/main/model.safetensors", None),
        ("videomae-base", None),
        ("output/model_final.pt", None),
        ("a/b/c", None),
        ("./me/model", None),
        ("/me/model", None),
        ("../model", None),
        ("~/model", None),
    ],
)
def test_names(text, expected):
    assert parse_hub_name(text) == expected


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """cache(REPO, FILES, REVISION): puts files in the hub's cache. The hub itself is offline."""
    root = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(repo, files, revision="main"):
        folder = root / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / revision).write_text(COMMIT)
        for file in files:
            target = folder / "snapshots" / COMMIT / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        return folder

    return put


@pytest.fixture
def files(tmp_path):
    """The files of a model."""
    folder = tmp_path / "files"
    folder.mkdir()
    torch.save(
        {"videomae.embeddings.x": torch.zeros(2), "number": torch.ones(1)}, folder / "pytorch_model.bin"
    )
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    return sorted(folder.iterdir())


class Hub(ThreadingHTTPServer):
    """Serves the `files` of the model me/model, a dict from names to bytes, at the revisions main and v1.

    `downloads` lists the commit and name of each file that was downloaded.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files, self.downloads, self.commit = {}, [], COMMIT

    def shut_down(self):
        self.shutdown()
        self.server_close()


class HubHandler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/models/me/model/(revision|tree)/(\w+)", path):
            if match[2] not in ("main", "v1", hub.commit):
                return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": f"{index:040}"}
                for index, (name, content) in enumerate(hub.files.items())
            ]
            info = {
                "id": "me/model",
                "sha": hub.commit,
                "siblings": [{"rfilename": name} for name in hub.files],
            }
            return self.answer(200, json.dumps(tree if match[1] == "tree" else info).encode())
        if match := re.fullmatch(r"/me/model/resolve/(\w+)/(.+)", path):
            commit, name = match[1], match[2]
            if name not in hub.files:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.commit})
            if self.command == "GET":
                hub.downloads.append((commit, name))
            etag = f'"{list(hub.files).index(name):040}"'
            return self.answer(200, hub.files[name], {"ETag": etag, "X-Repo-Commit": hub.commit})
        return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path, monkeypatch, files):
    """A hub with the files of a model, and an empty cache."""
    server = Hub()
    server.files = {file.name: file.read_bytes() for file in files} | {"README.md": b"read me"}
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shut_down()
    thread.join()


def test_a_cached_model_is_used_offline(cache, files, tmp_path, monkeypatch):
    cache("me/model", files)
    cache("me/model", [], "v1")
    monkeypatch.chdir(tmp_path)
    for name in ("me/model", "me/model@v1", f"me/model@{COMMIT}", "https://huggingface.co/me/model"):
        assert torch.equal(state_dict_of(read_checkpoint(name))["number"], torch.ones(1))
        assert locate(name, folders=True).name == COMMIT
    # An existing path has precedence over a name.
    (tmp_path / "me" / "model").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"^me/model: the folder contains no model.safetensors"):
        read_checkpoint("me/model")


def test_where_a_file_is_expected_a_hub_name_is_refused(cache):
    with pytest.raises(WeightsError, match="no such checkpoint file"):
        locate("me/model")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            errors.LocalEntryNotFoundError("x"),
            r"not in the cache \(\$HF_HOME\), and it cannot be downloaded: x",
        ),
        (ConnectionError("no route"), "it cannot be downloaded: no route"),
        (OSError(28, "No space left on device"), "No space left"),
    ],
)
@pytest.mark.parametrize("function", ["list_repo_files", "snapshot_download"])
def test_errors_of_a_download(cache, monkeypatch, function, error, expected):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: ["model.safetensors"])
    monkeypatch.setattr(huggingface_hub, function, fail)
    with pytest.raises(WeightsError, match=rf"^me/model@v1: .*{expected}"):
        read_checkpoint("me/model@v1")


def test_no_network_is_one_line(cache, tmp_path, capsys):
    assert main(["convert", "me/model", str(tmp_path / "x.pt"), "--to", "videomae"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "me/model: no such file or folder; tried the Hugging Face hub: not in the cache" in lines[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("me/model@v2", "the hub has no revision 'v2' of this model"),
        ("me/other", "the hub has no such model, or it is private or gated"),
    ],
)
def test_models_and_revisions_that_do_not_exist(hub, name, expected):
    with pytest.raises(WeightsError, match=rf"^{name}: no such file or folder.*{expected}"):
        read_checkpoint(name)
    assert hub.downloads == []


def test_a_model_without_weights(hub):
    del hub.files["pytorch_model.bin"]
    with pytest.raises(WeightsError, match=r"^me/model: no weights on the hub; expected model.safetensors, "):
        read_checkpoint("me/model")
    assert hub.downloads == []


def test_only_the_needed_files_are_downloaded_once_and_from_one_commit(hub, tmp_path):
    folder = locate("me/model@v1", folders=True)
    assert folder == tmp_path / "hub" / "models--me--model" / "snapshots" / COMMIT
    needed = ("pytorch_model.bin", "config.json", "preprocessor_config.json")
    assert sorted(hub.downloads) == sorted((COMMIT, name) for name in needed)
    # From now on the cache is used, also without a server.
    hub.commit = "f" * 40
    assert locate("me/model@v1", folders=True) == folder
    hub.shut_down()
    assert locate("me/model@v1", folders=True) == folder
    assert locate(f"me/model@{COMMIT}", folders=True) == folder
    assert len(hub.downloads) == len(needed)


def test_the_hub_is_asked_once_for_a_missing_preprocessor_config(hub, caplog):
    del hub.files["preprocessor_config.json"]
    folder = locate("me/model", folders=True)
    hub.shut_down()
    assert locate("me/model", folders=True) == folder
    assert "cached weights without" not in caplog.text


def test_the_weights_that_transformers_prefers_are_downloaded(hub):
    hub.files["model.safetensors"] = b"not read here"
    locate("me/model", folders=True)
    assert (COMMIT, "model.safetensors") in hub.downloads
    assert (COMMIT, "pytorch_model.bin") not in hub.downloads


def test_all_shards_of_a_model_are_downloaded(hub, tmp_path):
    shards = ("pytorch_model-00001-of-00002.bin", "other-shard.bin")
    for number, shard in enumerate(shards):
        torch.save({f"part{number}.weight": torch.full((2,), number)}, tmp_path / shard)
        hub.files[shard] = (tmp_path / shard).read_bytes()
    del hub.files["pytorch_model.bin"]
    index = {"weight_map": {"part0.weight": shards[0], "part1.weight": shards[1]}}
    hub.files["pytorch_model.bin.index.json"] = json.dumps(index).encode()
    weights = state_dict_of(read_checkpoint("me/model"))
    assert weights["part1.weight"].tolist() == [1, 1]
    assert weights.keys() == {"part0.weight", "part1.weight"}
    assert {commit for commit, _ in hub.downloads} == {COMMIT}
    # A shard that is missing in the cache is downloaded again, one that is missing on the hub is an error.
    folder = locate("me/model", folders=True)
    (folder / shards[1]).unlink()
    assert state_dict_of(read_checkpoint("me/model")).keys() == weights.keys()
    (folder / shards[1]).unlink()
    del hub.files[shards[1]]
    with pytest.raises(WeightsError, match=rf"me/model: {shards[1]}, which .* lists, is not on the hub"):
        read_checkpoint("me/model")


def test_configs_missing_in_the_cache_come_from_the_same_commit(hub, files, cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    cache("me/model", [file for file in files if file.suffix == ".bin"])
    locate("me/model", folders=True)
    assert sorted(hub.downloads) == [(COMMIT, "config.json"), (COMMIT, "preprocessor_config.json")]


def test_missing_configs_are_a_warning_if_the_hub_cannot_be_reached(cache, files, caplog):
    cache("me/model", [file for file in files if file.suffix == ".bin"])
    assert torch.equal(state_dict_of(read_checkpoint("me/model"))["number"], torch.ones(1))
    assert "using the cached weights without config.json" in caplog.text
