"""Models of the Hugging Face hub by name; the hub itself is played by its cache, or by a function."""

import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors

from vmae_det.checkpoint import read_checkpoint
from vmae_det.checkpoint.hub import HubModel, parse_hub_name
from vmae_det.checkpoint.locate import locate
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
    """cache(REPO, FILES, REVISION): puts files in the hub's cache; nothing else can be fetched."""
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


def test_a_model_in_the_cache(cache, files, tmp_path, monkeypatch):
    cache("me/model", files)
    cache("me/model", [], "v1")
    monkeypatch.chdir(tmp_path)
    for name in ("me/model", "me/model@v1", f"me/model@{COMMIT}", "https://huggingface.co/me/model"):
        assert torch.equal(state_dict_of(read_checkpoint(name))["number"], torch.ones(1))
        assert locate(name, folders=True).name == COMMIT
    # A path goes before a name.
    (tmp_path / "me" / "model").mkdir(parents=True)
    with pytest.raises(WeightsError, match=r"^me/model: a folder without model.safetensors"):
        read_checkpoint("me/model")


def test_a_file_of_weights_is_never_a_folder_of_the_hub(cache):
    with pytest.raises(WeightsError, match="no such checkpoint file"):
        locate("me/model")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            errors.LocalEntryNotFoundError("x"),
            r"not in the cache \(\$HF_HOME\), and the hub cannot be reached",
        ),
        (ConnectionError("no route"), "the hub gives no model.safetensors: no route"),
        (OSError(28, "No space left on device"), "No space left"),
        (errors.EntryNotFoundError("x"), "holds no weights on the hub; expected model.safetensors, "),
    ],
)
def test_what_the_hub_cannot_give(cache, monkeypatch, error, expected):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(WeightsError, match=rf"^me/model@v1: .*{expected}"):
        read_checkpoint("me/model@v1")


def test_no_network_is_one_line(cache, tmp_path, capsys):
    assert main(["convert", "me/model", str(tmp_path / "x.pt"), "--to", "videomae"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "me/model: no such file or folder here; as a model of the Hugging Face hub: not in" in lines[0]


def test_what_is_fetched(files, tmp_path, monkeypatch):
    """The files that exist, of one commit, once."""
    snapshot = tmp_path / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    asked = []

    def download(repo, name, revision=None):
        asked.append((name, revision))
        for file in files:
            if file.name == name:
                return shutil.copy(file, snapshot)
        raise errors.EntryNotFoundError(name)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert locate("me/model@v1", folders=True) == snapshot
    assert asked == [
        ("model.safetensors", "v1"),
        ("model.safetensors.index.json", "v1"),
        ("pytorch_model.bin", "v1"),
        ("config.json", COMMIT),
        ("preprocessor_config.json", COMMIT),
        ("video_preprocessor_config.json", COMMIT),
    ]


def test_settings_that_are_not_in_the_cache_are_missed(cache, files, caplog):
    cache("me/model", [file for file in files if file.suffix == ".bin"])
    read_checkpoint("me/model")
    assert "goes without config.json" in caplog.text
