"""Open the dataset to annotate: an existing one in place or as a copy, or a new one of a folder of videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from vmae_det.data.catalog import DatasetSpec, dataset_names, get_dataset, read_dataset_file
from vmae_det.data.split import write_dataset_file
from vmae_det.dataset_tools.check.checker import counterpart
from vmae_det.dataset_tools.importers.convert import FILES, PERSONS
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.formats.label_map import LabelMap, write_label_map
from vmae_det.formats.person_boxes import read_person_boxes
from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.input_files import open_input
from vmae_det.utils.output_files import atomic_write, check_output_file, write_text
from vmae_det.utils.paths import relative_path
from vmae_det.utils.safe_yaml import load_yaml
from vmae_det.video.discovery import videos_by_id
from vmae_det.video.shards import Shards
from vmae_det.web.annotate.lines import Lines

_ANNOTATIONS, _LABEL_MAP, FILE = FILES
_POSE = "PERSON_MOVEMENT"  # AVA's type of the actions of which a person has one at a time
_NEW_FOLDER = "_annotations"  # added to the name of a folder of videos


@dataclass(frozen=True)
class AnnotatedDataset:
    """A detection dataset whose files are written.

    Attributes:
        file: the dataset file.
        spec: its content.
        label_map: its actions.
        source: the dataset of which it is a copy; None if it is not known to be one.
        persons: boxes of all people, which exist while somebody has no action; None if the dataset's person
            boxes are another file, such as detections, which is never written.
    """

    file: Path
    spec: DatasetSpec
    label_map: LabelMap
    source: DatasetSpec | None
    persons: Path | None

    @property
    def annotations(self) -> Path:
        """AVA's CSV."""
        return self.spec.annotations

    @property
    def ids(self) -> Path:
        """Ids that the other files do not state, see `lines`."""
        return self._beside("_person_ids.csv")

    @property
    def journal(self) -> Path:
        """Edits that the files do not contain yet."""
        return self._beside(".unsaved.json", hidden=True)

    @property
    def proposals(self) -> Path:
        """Folder of what a detector proposed."""
        return self._beside(".proposals", hidden=True)

    @property
    def lock(self) -> Path:
        """Locked while a server writes the dataset."""
        return self._beside(".lock", hidden=True)

    def _beside(self, suffix: str, hidden: bool = False) -> Path:
        return self.annotations.with_name("." * hidden + self.annotations.stem + suffix)

    @property
    def poses(self) -> frozenset[int]:
        """Ids of the actions of which a person has at most one."""
        return frozenset(
            number for number, kind in zip(self.label_map.ids, self.label_map.kinds) if kind == _POSE
        )

    def videos(self) -> Mapping[str, Path | None]:
        """Return the file of each video: those of the folder or the shards, and None for missing ones.

        Videos that the other set of a training and validation set annotates are not among them.
        """
        files: Mapping[str, Path] = {}
        if isinstance(self.spec.videos, Shards) or self.spec.videos.is_dir():
            files = videos_by_id(self.spec.videos)
        own = Lines.read(self.annotations).runs
        other = counterpart(self.source or self.spec)
        others = Lines.read(other.annotations).runs if other is not None and other.annotations else {}
        names = [name for name in files if name in own or name not in others]
        return {name: files.get(name) for name in dict.fromkeys([*names, *own])}


def open_dataset(
    name: str, output: Path | None = None, label_map: str = "", actions: Sequence[str] = ()
) -> AnnotatedDataset:
    """Return the dataset to annotate; create or copy it if necessary.

    Args:
        name: a dataset file, which is written, or if it is a part of another dataset, that one; a registered
            dataset, of which a copy is written to `output`; or a folder of videos or tar shards, for which a
            new dataset is created.
        output: folder of the copy or of the new dataset; a dataset there is opened. The default is
            FOLDER_annotations next to a folder of videos.
        label_map: file or built-in name, for a new dataset.
        actions: names of actions, for a new dataset, instead of a label map.

    Raises:
        UserError: an argument is missing or not used, or a file cannot be written.
        DataError: the dataset is invalid.
    """
    path, registered = Path(name), name in dataset_names()
    if not registered and (path / FILE).is_file():
        path = path / FILE
    is_file = not registered and path.suffix in (".yaml", ".yml")
    spec = read_dataset_file(path) if is_file else get_dataset(name, option="DATASET")
    if spec.part_of:
        whole = get_dataset(spec.part_of, option="part_of")
        if whole.part_of:
            raise DataError(f"part_of: expected an entire dataset, but {spec.part_of} is a part, too", name)
        return open_dataset(spec.part_of, output, label_map, actions)
    if registered and output is None:
        raise UserError(
            f"{name}: is a registered dataset, which other projects may use; pass --output FOLDER to "
            "annotate a copy"
        )
    if spec.type == "videos" and output is None and not is_file:
        output = Path(f"{name.rstrip('/')}{_NEW_FOLDER}")
    if output is None:
        file, source = path, None
    else:
        file, source = output / FILE, spec
        if not file.exists() and spec.type == "videos":
            _create(file, spec, label_map, actions)
            label_map, actions = "", ()
        elif not file.exists():
            _check_type(spec)
            _copy(file, spec)
    if label_map or actions:
        option = "--label-map" if label_map else "--actions"
        raise UserError(f"{option}: not used with {file}, which has a label map")
    return _open(file, source)


def _open(file: Path, source: DatasetSpec | None) -> AnnotatedDataset:
    spec = read_dataset_file(file)
    _check_type(spec)
    label_map = LabelMap.from_file(spec.label_map)
    persons = spec.person_boxes
    if persons is None:
        prefix = "" if file.name == FILE else f"{file.stem}_"
        persons = file.with_name(prefix + PERSONS)
    own = persons.name.endswith(PERSONS)
    dataset = AnnotatedDataset(file, spec, label_map, source, persons if own else None)
    for written in (dataset.annotations, dataset.ids, dataset.journal, *filter(None, [dataset.persons])):
        check_output_file(written)
    if Lines.read(spec.annotations).runs:
        read_action_csv(spec.annotations, label_map)
    if own and persons.exists():
        read_person_boxes(persons, allow_empty=True)
    return dataset


def _check_type(spec: DatasetSpec) -> None:
    if spec.type != "detection":
        raise UserError(f"{spec.name}: is of type '{spec.type}', expected 'detection'")


def _create(file: Path, spec: DatasetSpec, label_map: str, actions: Sequence[str]) -> None:
    """Write an empty dataset for videos."""
    if bool(label_map) == bool(actions):
        raise UserError(
            f"{spec.name}: a new dataset needs its actions; pass either --actions NAME,NAME,... or "
            "--label-map FILE, which may be a built-in one, such as ava_v2.2"
        )
    if not isinstance(spec.videos, Shards) and not len(videos_by_id(spec.videos)):
        raise DataError("contains no videos directly; pass the folder of the videos", spec.videos)
    classes = LabelMap.from_file(label_map) if label_map else _label_map(actions)
    folder = file.parent
    write_label_map(folder / _LABEL_MAP, classes)
    write_text(folder / _ANNOTATIONS, "")
    videos = str(spec.videos)
    content = {
        "type": "detection",
        "videos": relative_path(videos, folder) if isinstance(spec.videos, Path) else videos,
        "annotations": _ANNOTATIONS,
        "label_map": _LABEL_MAP,
    }
    write_text(file, _to_yaml(content))


def _label_map(actions: Sequence[str]) -> LabelMap:
    """Return a label map of names. Those of AVA's actions get AVA's types."""
    ava = LabelMap.builtin("ava_v2.2")
    kinds = {}
    for name, kind in zip(ava.names, ava.kinds):
        for part in (name, *name.split("/")):
            kinds.setdefault(part.casefold(), kind)
    repeated = {name for name in actions if actions.count(name) > 1}
    if repeated:
        raise UserError(f"--actions: {min(repeated)!r} is given twice")
    if not all(name.strip() and name.isprintable() for name in actions):
        raise UserError("--actions: expected names separated by commas")
    return LabelMap(
        tuple(range(1, len(actions) + 1)),
        tuple(actions),
        tuple(kinds.get(name.casefold(), "") for name in actions),
    )


def _copy(file: Path, spec: DatasetSpec) -> None:
    """Copy the annotations of a dataset. Videos, label map and detected persons are those of the original."""
    folder = file.parent
    names = {"annotations": _ANNOTATIONS}
    sources = {spec.annotations: folder / _ANNOTATIONS}
    ids = spec.annotations.with_name(f"{spec.annotations.stem}_person_ids.csv")
    if ids.exists():
        sources[ids] = folder / f"{Path(_ANNOTATIONS).stem}_person_ids.csv"
    if spec.person_boxes is not None and spec.person_boxes.name.endswith(PERSONS):
        sources[spec.person_boxes] = folder / PERSONS
        names["person_boxes"] = PERSONS
    for source, target in sources.items():
        with open_input(source) as stream, atomic_write(target) as temporary:
            temporary.write_bytes(stream.read())
    write_dataset_file(file, replace(spec), "A copy of {}, written by vmae-det annotate.", **names)


def add_person_boxes(file: Path, persons: Path) -> None:
    """Name the boxes of people in a dataset file, which keeps its other content, unless it names some."""
    text = file.read_text(encoding="utf-8")
    content = load_yaml(text)
    if "person_boxes" in content:
        return
    added = _added_keys(file, persons)
    added = {key: value for key, value in added.items() if key not in content}
    lines = "" if text.endswith("\n") or not text else "\n"
    longer = text + lines + _to_yaml(added)
    try:
        keeps = load_yaml(longer) == content | added
    except ValueError:
        keeps = False
    write_text(file, longer if keeps else _to_yaml(content | added))


def has_added_person_boxes(file: Path, persons: Path) -> bool:
    """Return whether a dataset file ends with the lines that `add_person_boxes` writes."""
    return ("\n" + file.read_text(encoding="utf-8")).endswith("\n" + _to_yaml(_added_keys(file, persons)))


def remove_person_boxes(file: Path, persons: Path) -> None:
    """Remove the lines for which `has_added_person_boxes` is true."""
    lines = _to_yaml(_added_keys(file, persons))
    write_text(file, file.read_text(encoding="utf-8").removesuffix(lines))


def _added_keys(file: Path, persons: Path) -> dict[str, object]:
    return {"person_boxes": relative_path(persons, file.parent), "complete_persons": False}


def _to_yaml(content: Mapping[str, object]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
