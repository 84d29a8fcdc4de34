"""Proposals of a detector on disk, so that a restart does not compute them again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from vmae_det.utils.output_files import atomic_write
from vmae_det.web.annotate.proposals import Proposal

logger = logging.getLogger(__name__)

_FORMAT = 1


class ProposalFiles:
    """A folder with a file for each video. Each is valid for one detector and one state of the video.

    Args:
        folder: created when the first proposals are written.
        detector: text that identifies the detector and its settings.
        videos: video ids and their files.
    """

    def __init__(self, folder: Path, detector: str, videos: Mapping[str, Path | None]) -> None:
        self._folder, self._videos = folder, videos
        self._detector = hashlib.sha256(detector.encode()).hexdigest()

    def read(self, video: str) -> list[Proposal]:
        """Return the proposals of a video; none if there is no valid file."""
        try:
            content = json.loads(self._path(video).read_bytes())
            if content["key"] != self._key(video):
                return []
            return [
                Proposal(time, track, tuple(box), score, tuple(map(tuple, actions)), uncertainty)
                for time, track, box, score, actions, uncertainty in content["proposals"]
            ]
        except (OSError, ValueError, KeyError, TypeError):  # missing or damaged
            return []

    def read_all(self) -> Iterator[tuple[str, list[Proposal]]]:
        """Yield the videos with valid files, and their proposals."""
        if self._folder.is_dir():
            names = {path.name for path in self._folder.iterdir()}
            for video in self._videos:
                if self._path(video).name in names and (found := self.read(video)):
                    yield video, found

    def write(self, video: str, proposals: list[Proposal]) -> None:
        """Write the proposals of a video. If that fails, they are only in memory."""
        key = self._key(video)
        if key["video"] is None:
            return
        content = {"key": key, "proposals": [astuple(proposal) for proposal in proposals]}
        try:
            self._folder.mkdir(exist_ok=True)
            with atomic_write(self._path(video)) as temporary:
                temporary.write_text(json.dumps(content), encoding="utf-8")
        except OSError as error:
            logger.warning("the proposals of %s are not kept: %s", video, error)

    def _path(self, video: str) -> Path:
        return self._folder / f"{hashlib.sha256(video.encode()).hexdigest()[:32]}.json"

    def _key(self, video: str) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "id": video,
            "video": describe_file(self._videos.get(video)),
            "detector": self._detector,
        }


def describe_file(path: Path | str | None) -> list[Any] | None:
    """Return path, size and time of a file, which tell its versions apart; None if it cannot be found."""
    try:
        status = os.stat(path) if path else None
    except OSError:
        return None
    return status and [os.path.abspath(path), status.st_size, status.st_mtime_ns]
