"""Find weights by path, URL, model zoo name or Hugging Face hub name, and download them if needed."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmae_det.checkpoint.huggingface_config import CONFIG, PREPROCESSORS
from vmae_det.checkpoint.huggingface_folder import WEIGHT_FILES, is_index, shards_of_index
from vmae_det.checkpoint.timm_models import hub_name, is_timm_name
from vmae_det.model_zoo.weights import WEIGHTS, Weights
from vmae_det.utils.downloads import cache_folder
from vmae_det.utils.errors import DataError, UserError, WeightsError, did_you_mean
from vmae_det.utils.input_files import check_regular_file
from vmae_det.utils.paths import is_url, local_path

logger = logging.getLogger(__name__)

_HUB_NAME = re.compile(
    r"(?:https://huggingface\.co/)?(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(?:(?:@|/tree/)(?P<revision>[\w./-]{1,200}))?/?"
)
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".onnx", ".pt2", ".pkl", ".pyth", ".ckpt", ".tar")


def locate(source: str | Path, folders: bool = False) -> Path:
    """Return the local path of weights. Downloads them if they are not in a cache.

    Args:
        source: a path; an http(s) URL, whose file is cached, and verified if the URL ends in
            `#sha256=DIGITS`; a name in `model_zoo.WEIGHTS`, whose file is downloaded or, without a
            URL, expected in the cache folder; or, with `folders`, a model of timm as `timm:NAME`, or a model
            on the Hugging Face hub as `org/name` or `org/name@revision`. An existing path has precedence.
        folders: whether the result may be a folder.

    Raises:
        WeightsError: there is no such file, or it cannot be downloaded.
    """
    text = str(source)
    if not text:
        raise WeightsError("the path of the weights is empty")
    if not is_url(text) and Path(text).exists():
        return _checked(Path(text), folders)
    if folders and is_timm_name(text):
        return download_from_hub(HubModel(hub_name(text), None))
    if text in WEIGHTS:
        published = WEIGHTS[text]
        if not published.url:
            return _downloaded_by_hand(text, published)
        text = published.url + (f"#sha256={published.sha256}" if published.sha256 else "")
    elif folders and (model := parse_hub_name(text)) is not None:
        return download_from_hub(model)
    elif not is_url(text):
        suggestion = "" if "/" in text or Path(text).suffix else did_you_mean(text, WEIGHTS)
        raise WeightsError(f"{text}: no such checkpoint file or model zoo name{suggestion}")
    try:
        path = local_path(text)
    except UserError as error:
        raise WeightsError(str(error)) from None
    return _checked(path, folders)


def _downloaded_by_hand(name: str, published: Weights) -> Path:
    """Return the file of published weights that have no URL: NAME.pth in the cache folder."""
    path = cache_folder() / f"{name}.pth"
    if not path.is_file():
        raise WeightsError(
            f"{name}: cannot be downloaded by a program; download the file from {published.page} and save it "
            f"as {path}"
        )
    return path


def _checked(path: Path, folders: bool) -> Path:
    if not (folders and path.is_dir()):
        try:
            check_regular_file(path)
        except DataError as error:
            raise WeightsError(str(error)) from None
    return path


@dataclass(frozen=True)
class HubModel:
    """A model repository on the Hugging Face hub, at a branch, tag or commit; None is the default branch."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "")


def parse_hub_name(text: str) -> HubModel | None:
    """Parse `org/name`, `org/name@revision` or the URL of the model's page. Return None for other text.

    Text that ends in the suffix of a weights file is not a hub name.
    """
    match = _HUB_NAME.fullmatch(text)
    if match is None or match["repo"].endswith(_FILE_SUFFIXES):
        return None
    return HubModel(match["repo"], match["revision"])


def download_from_hub(model: HubModel) -> Path:
    """Return the cached folder with the weights, `config.json` and `preprocessor_config.json` of a model.

    Files that are in the cache of huggingface_hub ($HF_HOME) are not requested again, so that this works
    offline. All files are from one commit.

    Raises:
        WeightsError: the hub cannot be reached, or has no such model, revision or weights.
    """
    cached = _cached_folder(model)
    if cached is not None and _has_configs(model, cached):
        return cached
    try:
        # The name of a cached folder is its commit.
        return _download(model, model.revision if cached is None else cached.name)
    except WeightsError as error:
        if cached is None:
            raise
        logger.warning("%s; using the cached weights without %s or %s", error, CONFIG, PREPROCESSORS[0])
        return cached


def _cached_folder(model: HubModel) -> Path | None:
    """Return the snapshot folder in the cache if it contains all files of the weights."""
    from huggingface_hub import try_to_load_from_cache

    for name in WEIGHT_FILES:
        path = try_to_load_from_cache(model.repo, name, revision=model.revision)
        if isinstance(path, str):  # neither None nor the marker of a missing file
            path = Path(path)
            shards = shards_of_index(path) if is_index(path) else ()
            if all(path.with_name(shard).is_file() for shard in shards):
                return path.parent
    return None


def _has_configs(model: HubModel, folder: Path) -> bool:
    """Return whether each config file is in the cache, or known to be missing on the hub."""
    from huggingface_hub import try_to_load_from_cache

    cached = {
        name: try_to_load_from_cache(model.repo, name, revision=folder.name)
        for name in (CONFIG, *PREPROCESSORS)
    }
    has_preprocessor = any(isinstance(cached[name], str) for name in PREPROCESSORS)
    return all(path is not None or (has_preprocessor and name != CONFIG) for name, path in cached.items())


def _download(model: HubModel, revision: str | None) -> Path:
    from huggingface_hub import errors, hf_hub_download, list_repo_files, snapshot_download

    try:
        files = list_repo_files(model.repo, revision=revision)
        weights = next((name for name in WEIGHT_FILES if name in files), None)
        if weights is None:
            raise WeightsError(f"{model}: no weights on the hub; expected {', '.join(WEIGHT_FILES)}")
        wanted = [weights, CONFIG, *PREPROCESSORS]
        folder = Path(snapshot_download(model.repo, revision=revision, allow_patterns=wanted))
        for name in (CONFIG, *PREPROCESSORS):
            if name not in files:  # the cache remembers that it is missing
                with suppress(errors.EntryNotFoundError):
                    hf_hub_download(model.repo, name, revision=folder.name)
        if is_index(folder / weights):
            shards = shards_of_index(folder / weights)
            for name in shards:
                if name not in files:
                    raise WeightsError(f"{model}: {name}, which {weights} lists, is not on the hub")
            snapshot_download(model.repo, revision=folder.name, allow_patterns=shards)
        return folder
    except WeightsError:
        raise
    except errors.RevisionNotFoundError:
        reason = f"the hub has no revision '{revision}' of this model"
    except errors.RepositoryNotFoundError:
        reason = "the hub has no such model, or it is private or gated (run `hf auth login`)"
    except Exception as error:  # the kinds of connection errors differ between versions of huggingface_hub
        details = " ".join(str(error).split())[:200]
        reason = f"not in the cache ($HF_HOME), and it cannot be downloaded: {details}"
    raise WeightsError(f"{model}: no such file or folder; tried the Hugging Face hub: {reason}")
