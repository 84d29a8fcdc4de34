"""Feature files: rows of features in .npy, .npz, HDF5 or Parquet, with columns, and a JSON manifest.

Rows are appended while a video is processed, so that memory does not grow with its length. Files appear
complete or not at all, and depend only on the rows: the same rows result in the same bytes.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np

import vmae_det
from vmae_det.config import CfgNode
from vmae_det.config.cfg_node import flatten
from vmae_det.inference.features import Columns, FeatureStream
from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.output_files import atomic_write, write_json

MANIFEST = ".json"
CLIP_TIMES = ("start", "center")  # columns of clips that the manifest contains too
# Prefixes of the config keys that features depend on, also those of persons, and keys that change no feature.
_CONFIG_KEYS = ("INPUT.", "MODEL.", "SOLVER.AMP", "DATALOADER.READER", "DATALOADER.DECODE_SMALLER")
_PERSON_KEYS = ("PERSON_DETECTOR.", "TEST.PERSON_BOX_SCORE")
_UNRELATED_KEYS = ("MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.BACKBONE.CHECKPOINT")
_CHUNK = 16 << 20  # bytes to copy at a time


class FeatureRows:
    """Rows of features in an open file, in the format of .npy, with columns in memory.

    Args:
        file: open for reading and writing.
        row_shape: shape of the features of one row.
        half: round the features to float16.
    """

    def __init__(self, file: BinaryIO, row_shape: tuple[int, ...], half: bool = False) -> None:
        self.row_shape, self.dtype = row_shape, np.dtype(np.float16 if half else np.float32)
        self.count = 0
        self._file = file
        self._columns: list[Columns] = []
        self._write_header()
        self.offset = file.tell()

    def append(self, features: np.ndarray, columns: Columns) -> None:
        """Append features float32 (n, *row_shape) and columns (n,).

        Raises:
            UserError: a feature is not finite, or beyond the range of float16.
        """
        if not np.isfinite(features).all():
            raise UserError("the model returned a feature that is not finite; set SOLVER.AMP to none")
        with np.errstate(over="ignore"):
            rounded = np.ascontiguousarray(features, dtype=self.dtype)
        if not np.isfinite(rounded).all():
            raise UserError(f"--half: a feature is {np.abs(features).max():.6g}, and float16 ends at 65504")
        self._file.write(rounded.data)
        self._columns.append(columns)
        self.count += len(rounded)

    def finish(self) -> None:
        """Write the number of rows into the header."""
        self._file.seek(0)
        self._write_header()
        if self._file.tell() != self.offset:
            raise RuntimeError("the header of the .npy file changed its length")
        self._file.flush()

    @property
    def columns(self) -> Columns:
        """The columns (count,) of all rows."""
        names = self._columns[0] if self._columns else ()
        return {name: np.concatenate([part[name] for part in self._columns]) for name in names}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all features."""
        return (self.count, *self.row_shape)

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield all features in order, some rows at a time."""
        values = int(np.prod(self.row_shape))
        number = max(_CHUNK // (values * self.dtype.itemsize), 1)
        self._file.seek(self.offset)
        for start in range(0, self.count, number):
            rows = min(number, self.count - start)
            content = np.frombuffer(self._file.read(rows * values * self.dtype.itemsize), self.dtype)
            yield content.reshape(rows, *self.row_shape)

    def copy_to(self, file: BinaryIO) -> None:
        """Write the .npy file, header included, to another file."""
        self._file.seek(0)
        while content := self._file.read(_CHUNK):
            file.write(content)

    def _write_header(self) -> None:
        # NumPy pads the header so that the number of rows can grow in place.
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self._file, header | {"shape": self.shape})


def _write_npy(rows: FeatureRows, path: Path) -> None:
    """Write a .npy file of the features, without the columns."""
    with path.open("wb") as file:
        rows.copy_to(file)


def _write_npz(rows: FeatureRows, path: Path) -> None:
    """Write an .npz with the arrays `features` and the columns."""
    with zipfile.ZipFile(path, "w") as archive:
        # ZipInfo has a constant time; ZipFile.writestr with a name would store the current one.
        with archive.open(zipfile.ZipInfo("features.npy"), "w", force_zip64=True) as file:
            rows.copy_to(file)
        for name, column in rows.columns.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(column), allow_pickle=False)


def _write_hdf5(rows: FeatureRows, path: Path) -> None:
    """Write an HDF5 file with the datasets `features` and the columns."""
    h5py = import_h5py()
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", rows.shape, rows.dtype, track_times=False)
        start = 0
        for chunk in rows.chunks():
            features[start : start + len(chunk)] = chunk
            start += len(chunk)
        for name, column in rows.columns.items():
            file.create_dataset(name, data=column, track_times=False)


def _write_parquet(rows: FeatureRows, path: Path) -> None:
    """Write a Parquet file with the columns and a column `features` of arrays. All rows are in memory."""
    import polars as pl

    dtype: Any = pl.Float32
    for size in reversed(rows.row_shape):
        dtype = pl.Array(dtype, size)
    chunks = [pl.Series("features", chunk, dtype=dtype) for chunk in rows.chunks()]
    features = pl.concat(chunks, rechunk=True) if chunks else pl.Series("features", [], dtype=dtype)
    pl.DataFrame(
        [*(pl.Series(name, column) for name, column in rows.columns.items()), features]
    ).write_parquet(path)


# Suffix and writer of each format.
FORMATS: dict[str, tuple[str, Callable[[FeatureRows, Path], None]]] = {
    "npy": (".npy", _write_npy),
    "npz": (".npz", _write_npz),
    "hdf5": (".h5", _write_hdf5),
    "parquet": (".parquet", _write_parquet),
}


def import_h5py() -> Any:
    """Import h5py; UserError if it is not installed."""
    try:
        import h5py
    except ImportError:
        raise UserError(
            '--format hdf5: needs h5py, which is not installed; pip install "vmae_det[hdf5]"'
        ) from None
    return h5py


@contextmanager
def write_rows(path: Path, format: str, row_shape: tuple[int, ...], half: bool) -> Iterator[FeatureRows]:
    """Open a feature file for appending rows. It appears when the block ends without an error.

    Raises:
        OutputError: the file cannot be written.
    """
    # Nothing remains of the TemporaryFile, which contains the rows so far, even if the process is killed.
    with atomic_write(path) as temporary, TemporaryFile(dir=path.parent) as file:
        rows = FeatureRows(file, row_shape, half)
        yield rows
        rows.finish()
        FORMATS[format][1](rows, temporary)


def feature_path(stem: Path, format: str) -> Path:
    """Return the path of a feature file, given its path without suffix."""
    return stem.with_name(stem.name + FORMATS[format][0])


def manifest_path(stem: Path) -> Path:
    """Return the path of the manifest. It is written last: a video with a manifest is done."""
    return stem.with_name(stem.name + MANIFEST)


def describe_config(cfg: CfgNode, persons: bool = False) -> dict[str, Any]:
    """Return the config keys that features depend on, as JSON values.

    Args:
        persons: whether the features are those of persons.
    """
    prefixes = (*_CONFIG_KEYS, *(_PERSON_KEYS if persons else ()))
    keys = {
        key: value for key, value in flatten(cfg) if key.startswith(prefixes) and key not in _UNRELATED_KEYS
    }
    return json.loads(json.dumps(keys))


def extract_to_files(
    stream: FeatureStream,
    stem: Path,
    settings: dict[str, Any],
    facts: dict[str, Any],
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[Path]:
    """Write the features of a video and their manifest.

    Args:
        stream: the rows.
        stem: path of the files without suffix.
        settings: JSON values that determine the features, such as `format` and `dtype`. For the manifest.
        facts: other JSON values for the manifest: `video` and its size, `bytes`, among them.
        progress: is called with the fraction of the video that is done.

    Returns:
        Paths of the feature file and of the manifest.

    Raises:
        UserError: the video cannot be read, a feature is not finite, or a file cannot be written.
    """
    path, manifest = feature_path(stem, settings["format"]), manifest_path(stem)
    manifest.unlink(missing_ok=True)  # until the new features are complete, the video is not done
    half = settings["dtype"] == "float16"
    with write_rows(path, settings["format"], stream.row_shape, half) as rows:
        for features, columns in stream:
            rows.append(features, columns)
            progress(stream.progress)
    times = {name: column.round(6).tolist() for name, column in rows.columns.items() if name in CLIP_TIMES}
    about = {"features": path.name, "shape": list(rows.shape), "vmae_det": vmae_det.__version__}
    write_json(manifest, facts | stream.info | about | settings | times)
    return [path, manifest]


def is_done(stem: Path, settings: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Return whether the features of a video exist with these settings.

    Raises:
        DataError: they exist with other settings, or of another video with the same name.
    """
    manifest = manifest_path(stem)
    if not manifest.is_file():
        return False
    try:
        stored = dict(flatten(json.loads(manifest.read_text(encoding="utf-8"))))
    except (ValueError, AttributeError, RecursionError):
        raise DataError(
            "is not a manifest of features; use another --output, or --overwrite", manifest
        ) from None
    if stored.get("bytes") != facts["bytes"]:
        raise DataError(
            f"is of {stored.get('video')}, which is not {facts['video']}: their sizes differ; use another "
            "--output, or --overwrite",
            manifest,
        )
    for key, value in flatten(settings):
        if stored.get(key) != value:
            raise DataError(
                f"the features have {key} {stored.get(key)}, and {value} is requested; use another --output, "
                "or --overwrite",
                manifest,
            )
    return feature_path(stem, settings["format"]).is_file()
