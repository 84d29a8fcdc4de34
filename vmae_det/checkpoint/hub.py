"""Models of the Hugging Face hub by name, through huggingface_hub and its cache."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from vmae_det.checkpoint.shards import WEIGHT_FILES, files_of_index, is_index
from vmae_det.utils.errors import WeightsError

logger = logging.getLogger(__name__)

_NAME = re.compile(
    r"(?:https://huggingface\.co/)?(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(?:(?:@|/tree/)(?P<revision>[\w./-]{1,200}))?/?"
)
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".onnx", ".pt2", ".pkl", ".pyth", ".ckpt", ".tar")
# Missing files that a model may do without.
_SETTINGS = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json")


@dataclass(frozen=True)
class HubModel:
    """A repository of the hub and a revision (branch, tag or commit) of it; None: its main branch."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "")


def parse_hub_name(text: str) -> HubModel | None:
    """The model that `org/name`, `org/name@revision` or the address of its page names; None for other text.

    What ends like a file of weights is none.
    """
    match = _NAME.fullmatch(text)
    if match is None or match["repo"].endswith(_FILE_SUFFIXES):
        return None
    return HubModel(match["repo"], match["revision"])


def fetch_model(model: HubModel) -> Path:
    """The folder with a model's weights, `config.json` and `preprocessor_config.json`, fetched once.

    Files in the cache of huggingface_hub ($HF_HOME) are used as they are. All files are of one commit.

    Raises:
        WeightsError: the hub cannot be reached, has no such model or revision, or no weights of it.
    """
    repository = _Repository(model)
    weights = repository.cached_weights() or repository.weights()
    if is_index(weights):
        for name in files_of_index(weights):
            if repository.get(name) is None:
                raise WeightsError(f"{model}: has no {name}, which {weights.name} names")
    for name in _SETTINGS:
        try:
            repository.get(name)
        except WeightsError as error:
            logger.warning("%s: goes without %s", error, name)
            break
    return weights.parent


class _Repository:
    def __init__(self, model: HubModel) -> None:
        self.model = model
        self.revision = model.revision

    def cached_weights(self) -> Path | None:
        """The file of weights, or their index, that lies in the cache with all that it names."""
        for name in WEIGHT_FILES:
            path = self._cached(name)
            if isinstance(path, Path) and (
                not is_index(path) or all(isinstance(self._cached(n), Path) for n in files_of_index(path))
            ):
                return self._pin(path)
        return None

    def weights(self) -> Path:
        """The first file of WEIGHT_FILES that the repository has."""
        for name in WEIGHT_FILES:
            path = self.get(name)
            if path is not None:
                return self._pin(path)
        raise WeightsError(f"{self.model}: holds no weights on the hub; expected {', '.join(WEIGHT_FILES)}")

    def get(self, name: str) -> Path | None:
        """A file from the cache or the hub; None where the repository has none of this name."""
        from huggingface_hub import errors, hf_hub_download

        cached = self._cached(name)
        if cached is not False:
            return cached
        try:
            return Path(hf_hub_download(self.model.repo, name, revision=self.revision))
        except errors.LocalEntryNotFoundError:
            raise self._unreachable("not in the cache ($HF_HOME), and the hub cannot be reached") from None
        except errors.EntryNotFoundError:
            return None
        except errors.RevisionNotFoundError:
            raise self._unreachable(f"the hub has no revision '{self.revision}' of it") from None
        except errors.RepositoryNotFoundError:
            raise self._unreachable(
                "the hub has no such model, or it is private or gated (`hf auth login`)"
            ) from None
        except Exception as error:  # of the connection, whose kinds differ between versions, and of the disk
            raise self._unreachable(
                f"the hub gives no {name}: {' '.join(str(error).split())[:200]}"
            ) from None

    def _cached(self, name: str) -> Path | bool | None:
        """A file in the cache; None where the repository is known to lack it, False where that is unknown."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        found = try_to_load_from_cache(self.model.repo, name, revision=self.revision)
        if found is _CACHED_NO_EXIST:
            return None
        return Path(found) if isinstance(found, str) else False

    def _pin(self, path: Path) -> Path:
        """Take all further files from the commit of this one."""
        if path.parent.parent.name == "snapshots":
            self.revision = path.parent.name
        return path

    def _unreachable(self, reason: str) -> WeightsError:
        return WeightsError(
            f"{self.model}: no such file or folder here; as a model of the Hugging Face hub: {reason}"
        )
