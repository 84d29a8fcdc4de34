"""Build a synthetic dataset in a folder: once, atomically, in parallel."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
from filelock import FileLock
from tqdm import tqdm

from vmae_det.synthetic_data.text_files import write_text
from vmae_det.utils.cpu import count_cores
from vmae_det.utils.errors import DataError, UserError

Job, Result = TypeVar("Job"), TypeVar("Result")


@dataclass(frozen=True)
class SyntheticDataset:
    """A dataset and the function that generates it.

    Args:
        name: in messages and in the manifest.
        manifest: name of the file that states version, seed and size. It is written last.
        version: of the generator. A folder of another version is replaced.
        full: dataclass with the numbers of videos of the full dataset.
        megabytes: upper bound of the disk space that it needs.
        fill: writes all files except the manifest, from folder, seed and size. It renders the videos with
            `Workers.map`.
    """

    name: str
    manifest: str
    version: int
    full: Any
    megabytes: int
    fill: Callable[[Path, int, Any, Workers], None]

    def build(
        self,
        root: Path,
        seed: int = 0,
        workers: int | None = None,
        progress: bool = True,
        size: Any = None,
    ) -> Path:
        """Generate the dataset in the folder `root`, unless it exists, and return `root`.

        The same seed and size give the same bytes, whatever the number of workers. Several processes can call
        this at the same time: one generates, the others wait. The folder is written atomically. A folder of
        another seed, size or version is replaced.

        Args:
            workers: number of processes. None: one for each CPU.
            progress: whether to show a progress bar.
            size: the numbers of videos. None: `full`.

        Raises:
            UserError: `seed` or `workers` is out of range.
            DataError: `root` cannot be written, or contains something else.
        """
        if seed < 0:
            raise UserError(f"seed: expected a non-negative integer, got {seed}")
        if workers is not None and workers < 1:
            raise UserError(f"workers: expected a positive integer, or None for one per CPU, got {workers}")
        folder, size = Path(root).resolve(), size or self.full
        manifest = {"generator": self.name, "version": self.version, "seed": seed, "size": asdict(size)}
        if self._manifest_of(folder) == manifest:
            return root
        self._refuse_import_of_main()
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f".{folder.name}.lock")):
                if self._manifest_of(folder) != manifest:
                    pool = Workers(workers or count_cores(), f"generating {self.name}", progress)
                    self._replace(folder, manifest, lambda partial: self.fill(partial, seed, size, pool))
        except OSError as error:
            raise DataError(
                f"{self.name} cannot be written here ({error.strerror or error}); choose a writable folder "
                f"on a disk with {self.megabytes} MB of free space",
                root,
            ) from error
        return root

    def _manifest_of(self, folder: Path) -> dict | None:
        try:
            return json.loads((folder / self.manifest).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _refuse_import_of_main(self) -> None:
        """Refuse an unguarded main script, which a spawned worker imports and which would wait for its
        parent."""
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(
                f"guard the main script with `if __name__ == '__main__':` to build {self.name} in parallel"
            )

    def _replace(self, folder: Path, manifest: dict, fill: Callable[[Path], None]) -> None:
        if (
            folder.exists()
            and not (folder / self.manifest).is_file()
            and (not folder.is_dir() or any(folder.iterdir()))
        ):
            raise DataError(
                f"expected {self.name}, got a file or folder without {self.manifest}; choose another folder, "
                "or move this one",
                folder,
            )
        # Only the process with the lock uses these two, so leftovers of an interrupted run can be removed.
        partial, replaced = (folder.with_name(f".{folder.name}.{part}") for part in ("partial", "replaced"))
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            fill(partial)
            write_text(partial / self.manifest, json.dumps(manifest, indent=2) + "\n")
            if folder.exists():
                folder.rename(replaced)
            partial.rename(folder)
        finally:
            for leftover in (partial, replaced):
                shutil.rmtree(leftover, ignore_errors=True)


@dataclass(frozen=True)
class VideoJob:
    """A video to render: its plan and its file."""

    plan: Any
    path: Path


@dataclass(frozen=True)
class Workers:
    """Processes that render videos.

    Args:
        count: number of processes.
        title: of the progress bar.
        progress: whether to show a progress bar.
    """

    count: int
    title: str
    progress: bool

    def map(
        self, render: Callable[[Job], Result], jobs: Sequence[Job], jobs_at_once: int = 2
    ) -> list[Result]:
        """Return the results of all jobs, computed in parallel processes if possible.

        Args:
            render: function of a module, which renders one video.
            jobs_at_once: number of consecutive jobs that one process gets at a time.
        """
        results: list[Result] = []
        with tqdm(
            total=len(jobs), desc=self.title, unit="video", disable=None if self.progress else True
        ) as bar:
            # Daemonic processes, such as data loader workers, cannot have children.
            if self.count > 1 and not multiprocessing.current_process().daemon:
                context = multiprocessing.get_context("spawn")
                try:
                    with ProcessPoolExecutor(
                        self.count, context, initializer=cv2.setNumThreads, initargs=(1,)
                    ) as pool:
                        for result in pool.map(render, jobs, chunksize=jobs_at_once):
                            results.append(result)
                            bar.update()
                except BrokenProcessPool:
                    bar.set_postfix_str("worker processes failed; rendering in this process")
            for job in jobs[len(results) :]:
                results.append(render(job))
                bar.update()
        return results
