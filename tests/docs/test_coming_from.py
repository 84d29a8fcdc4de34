"""The tables of docs/guides/coming_from.md: commands, config keys, data files and checkpoints."""

import json
import pickle
import re
import shlex
import subprocess
from pathlib import Path
from pkgutil import resolve_name

import cv2
import numpy as np
import pytest
import torch
from checkpoint import published_files

from vmae_det.checkpoint.loading import read_weights
from vmae_det.checkpoint.published_formats import FORMATS, OWN_FORMAT
from vmae_det.checkpoint.rename_parameters import rename_from_published
from vmae_det.cli.main import build_parser
from vmae_det.cli.overrides import split_overrides
from vmae_det.config import get_cfg
from vmae_det.config.defaults import KEYS
from vmae_det.config.other_toolkits import replacement_hint
from vmae_det.dataset_tools.importers.base import AnnotationFile, find_importer
from vmae_det.formats.label_map import LabelMap
from vmae_det.formats.video_list import read_video_list
from vmae_det.utils.errors import ConfigError, DataError, WeightsError
from vmae_det.video.packed_paths import PackedPaths

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "coming_from.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the pages are part of a clone")
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
SPANS = re.findall(r"`([^`\n]+)`", TEXT)


def table(heading, number=0):
    """The rows of a table of a section, without its header: lists of cells."""
    section = re.split(rf"^#+ {re.escape(heading)}$", TEXT, flags=re.MULTILINE)[1]
    section = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    return [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in tables[number].splitlines()[2:]
    ]


def spans(cell):
    return re.findall(r"`([^`]+)`", cell)


def train_options():
    return {option for action in build_parser("train")[1]._actions for option in action.option_strings}


COMMANDS = list(dict.fromkeys(span for span in SPANS if re.match(r"vmae-det [a-z-]+ ", span)))


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line):
    command, *argv = shlex.split(line)[1:]
    parser, command_parser, _ = build_parser(command)
    argv, overrides = split_overrides(argv, command_parser)
    parser.parse_args([command, *argv])
    get_cfg().merge_from_list(overrides)


def test_every_command_of_the_table_is_ours():
    assert len(COMMANDS) > 20
    for row in table("Commands"):
        assert spans(row[-1])[0] in COMMANDS, row


@pytest.mark.parametrize("toolkit", ["SlowFast", "mmaction2", "detectron2"])
def test_keys_of_a_toolkit_suggest_ours(toolkit):
    rows = table(f"{toolkit}'s keys")
    assert len(rows) > 10
    for theirs, ours, note in rows:
        (key,) = spans(theirs)
        hint = replacement_hint(key)
        assert f"a key of {toolkit}" in hint, key
        for name in spans(ours):
            assert name in hint, key
            assert name in KEYS or name in train_options(), key
        if ours == "nothing":
            assert "without a counterpart here" in hint, key
        elif not ours:
            assert "a dataset file" in hint or spans(note)[0] in hint, (key, hint)


def test_options_of_videomae_suggest_ours():
    rows, parser = table("VideoMAE's options"), build_parser("train")[1]
    assert len(rows) > 30
    for theirs, ours, _ in rows:
        (option,) = spans(theirs)
        with pytest.raises(ConfigError, match=f"^{option}: an option of another toolkit; use ") as error:
            split_overrides([option, "1"], parser)
        for name in spans(ours):
            assert name in str(error.value), option
            assert name in KEYS or name in train_options(), option


def test_keys_of_the_same_name_are_accepted():
    rows = table("Same name, other meaning")
    sentence = re.search(r"^(`.*\n?.*)\nthe same meaning\.$", TEXT, re.MULTILINE)[1]
    keys = [spans(row[0])[0] for row in rows] + spans(sentence)
    assert len(keys) > 10
    assert not [key for key in keys if key not in KEYS or replacement_hint(key)]


def test_every_other_key_of_the_page_is_ours_or_known():
    pattern = re.compile(r"[A-Z_]+(\.[A-Z0-9_]+)+( \S+| \"[^\"]+\")?")
    found = [span for span in SPANS if pattern.fullmatch(span)]
    assert len(found) > 100
    for span in found:
        key, _, value = span.partition(" ")
        assert key in KEYS or replacement_hint(key), key
        if key in KEYS and value and not re.fullmatch("W|F|OUT", value):
            get_cfg().merge_from_list([key, value.strip('"')])


def test_the_example_of_the_learning_rate():
    rate, size = re.search(r"`lr=([\d.e-]+)` and a base batch size of (\d+)", TEXT).groups()
    base = re.search(r"This is\n`SOLVER.BASE_LR ([\d.e-]+)` here", TEXT)[1]
    assert float(base) == pytest.approx(float(rate) * 256 / int(size))


def test_the_messages_of_the_page():
    message = re.search(r"vmae-det: error: (TRAIN.BATCH_SIZE: .*)", TEXT)[1]
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        get_cfg().merge_from_list(["TRAIN.BATCH_SIZE", "8"])
    option = re.search(r"`(--cfg: .*?)`", TEXT)[1]
    with pytest.raises(ConfigError, match=f"^{re.escape(option)}$"):
        split_overrides(["--cfg", "x.yaml"], build_parser("train")[1])


# ---------------------------------------------------------------- data files

BOX = "0.1,0.2,0.5,0.9"
TUBE = np.array([[frame, 10, 20, 30, 50] for frame in range(1, 7)], dtype=np.float32)
ALPHACTION = {
    "images": [{"id": 1, "movie": "v", "timestamp": 902, "width": 100, "height": 50}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 30], "score": 0.9}],
}
COCO = {
    "images": [{"id": 1, "file_name": "v/frame_000000.PNG", "width": 100, "height": 50}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 30]}],
    "categories": [{"id": 1, "name": "wave"}],
}
PICKLES = {
    "ava_dense_proposals_val.FAIR.recall_93.9.pkl": {"v,0902": np.array([[0.1, 0.2, 0.5, 0.9, 0.95]])},
    "JHMDB-GT.pkl": {
        "labels": ["run"],
        "gttubes": {"v": {0: [TUBE]}},
        "train_videos": [[]],
        "test_videos": [["v"]],
        "nframes": {"v": 6},
        "resolution": {"v": (50, 100)},
    },
}
# Content of each file in the table, and the number of entries that its reader returns.
FILES = {
    "ava_val_v2.2.csv": (f"v,0902,{BOX},12,0\nv,0903,{BOX},17,0\n", 2),
    "ava_val_excluded_timestamps_v2.2.csv": ("v,0905\n", 1),
    "ava_action_list_v2.2_for_activitynet_2019.pbtxt": ('item {\n  name: "dance"\n  id: 4\n}\n', 1),
    "label_map.txt": ("1: bend/bow (at the waist)\n3: crouch/kneel\n", 2),
    "ava_val_predicted_boxes.csv": (f"v,0902,{BOX},,0.99\n", 1),
    "ava_dense_proposals_val.FAIR.recall_93.9.pkl": (None, 1),
    "ava_val_det_person_bbox.json": (json.dumps(ALPHACTION), 1),
    "train.csv": ("a b.mp4 0\nc.mp4 1\n", 2),
    "VIDEO_ID/VIDEO_ID_000001.jpg": (None, 2),
    "VIDEO_ID/img_00001.jpg": (None, 2),
    "JHMDB-GT.pkl": (None, 1),
    "instances.json": (json.dumps(COCO), 1),
    "detections.csv": (f"v,0902,{BOX},12,0.7\n", 1),
}


def write_example(folder, name):
    """Write an example of a file of the table; return the path to read."""
    path, content = folder / name, FILES[name][0]
    path.parent.mkdir(parents=True)
    if name in PICKLES:
        path.write_bytes(pickle.dumps(PICKLES[name]))
    elif content is None:
        for number in "12":
            cv2.imwrite(str(path.with_stem(path.stem[:-1] + number)), np.zeros((32, 48, 3), np.uint8))
        return path.parent
    else:
        path.write_text(content)
    return path


def test_data_files_are_read_by_the_reader_named(tmp_path):
    read = set()
    for _, examples, _, reader in table("Data files"):
        for example in spans(examples):
            path = write_example(tmp_path / str(len(read)), example)
            (name,) = spans(reader)
            if name == "vmae_det.dataset_tools.importers":
                source = AnnotationFile(path)
                content = find_importer(source, "auto").read(source)
            else:
                options = {"kind": "detections"} if example == "detections.csv" else {}
                content = resolve_name(name)(path, **options)
            count = len(content.names) if example == "train.csv" else len(content)
            assert count == FILES[example][1], example
            read.add(example)
    assert read == set(FILES)


def test_files_that_are_not_read_have_the_remedy_of_the_page(tmp_path):
    remedies = {spans(example)[0]: spans(remedy) for _, example, remedy in table("Data files", 1)}

    def repaired(name, content):
        (tmp_path / name).write_text(content)
        (command,) = (span for span in remedies[name] if span.startswith("awk"))
        done = subprocess.run(["bash", "-ec", command], cwd=tmp_path, capture_output=True, check=True)
        (tmp_path / "repaired.txt").write_bytes(done.stdout)
        return tmp_path / "repaired.txt"

    path = repaired("label_map_k400.txt", "abseiling\nair drumming\n")
    with pytest.raises(DataError, match="expected item"):
        LabelMap.from_file(tmp_path / "label_map_k400.txt")
    assert LabelMap.from_file(path).names == ("abseiling", "air drumming")
    path = repaired("train_rawframes.txt", "abseiling/v 120 3\n")
    assert read_video_list(path).names.tolist() == ["abseiling/v"]


def test_paths_in_a_list_may_be_absolute(tmp_path):
    path = tmp_path / "a.mp4"
    assert PackedPaths(tmp_path / "videos", [str(path)])[0] == path


# ---------------------------------------------------------------- checkpoints

SLOWFAST = {
    "convolutional": {"s1.pathway0_stem.conv.weight": (8, 3, 1, 7, 7), "head.projection.weight": (5, 8)},
    "class token": {
        "cls_token": (1, 1, published_files.WIDTH),
        "pos_embed_spatial": (1, 16, published_files.WIDTH),
        **published_files.patch_embedding("patch_embed.proj"),
        **published_files.blocks("blocks", published_files.image_block),
        **published_files.norm("norm"),
    },
}


def test_checkpoints_load_as_the_page_says():
    named = {name for row in table("Checkpoints") for name in spans(row[1])}
    assert named == {known.name for known in FORMATS} - {OWN_FORMAT.name}
    shapes = {kind: shapes for kind, (_, _, shapes) in published_files.PUBLISHED.items()}
    shapes["image-mae", "pretrain"] = published_files.IMAGE_MAE
    shapes["mae-st", "pretrain"] = published_files.MAE_ST
    shapes["mae-st", "finetune"] = published_files.MAE_ST_CLASSIFIER
    shapes |= published_files.VJEPA | {"Hiera": published_files.HIERA}
    model = shapes["huggingface", "pretrain"]
    shapes["huggingface", "model"] = {
        name.removeprefix("videomae."): shape for name, shape in model.items() if name.startswith("videomae.")
    }
    found = {rename_from_published(published_files.tensors(part)).format.name for part in shapes.values()}
    assert found == named


@pytest.mark.parametrize("kind", SLOWFAST)
def test_checkpoints_of_slowfast_are_refused(kind):
    row = next(row for row in table("Checkpoints") if "SlowFast" in row[0] and kind in row[0])
    assert row[1] == "refused"
    weights = {name: torch.zeros(shape) for name, shape in SLOWFAST[kind].items()}
    with pytest.raises(WeightsError, match=r"match no known format|a video model with a class token"):
        read_weights({"model_state": weights}, "checkpoint_epoch_00001.pyth")
