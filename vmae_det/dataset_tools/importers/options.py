"""What an import is told, and what it tells."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from vmae_det.dataset_tools.importers.formats import AUTO


@dataclass(frozen=True)
class ImportOptions:
    """How annotations are read.

    Args:
        format: a name of the registry, or "auto".
        videos: folder of the video files.
        every: seconds between keyframes.
        label_map: names and ids of the actions; None: made of those found.
        video_start: second of the dataset's clock at which every video file starts.
        rate: frames per second of the frame numbers, against what the file or the videos say.
        first_frame: number of a video's first frame in names of images.
        ignored: classes, attributes and actions to pass over.
        video: id of the video, where the files do not say of which one they are.
        frame_size: width and height of the frames in pixels, where the files do not say it.
    """

    format: str = AUTO
    videos: Path | None = None
    every: float = 1.0
    label_map: Path | None = None
    video_start: float = 0.0
    rate: float | None = None
    first_frame: int = 0
    ignored: frozenset[str] = frozenset()
    video: str | None = None
    frame_size: tuple[int, int] | None = None


@dataclass
class ImportReport:
    """What became of the annotations: counts, what was left out, and what to look after."""

    videos: int = 0
    keyframes: int = 0
    persons: int = 0
    boxes: int = 0
    labels: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def as_text(self) -> str:
        """For people, a few lines."""
        counts = ("videos", "keyframes", "persons", "boxes", "labels", "rows")
        lines = [", ".join(f"{getattr(self, name)} {name}" for name in counts)]
        lines += [f"left out: {count} {what}" for what, count in sorted(self.left_out.items()) if count]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])
