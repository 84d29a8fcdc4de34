"""The examples of docs/guides/extend.md, read from the page and imported by `--import`."""

import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vmae_det.checkpoint import load_weights, read_checkpoint
from vmae_det.cli.main import main
from vmae_det.data.loader import build_dataset
from vmae_det.engine.elastic_agent import WorkerTask
from vmae_det.engine.inspection import count_flops, count_tokens
from vmae_det.engine.launch import _run_with_extensions
from vmae_det.modeling import BACKBONE_REGISTRY, build_model
from vmae_det.solver import parameter_groups
from vmae_det.utils import extensions
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.utils.extensions import import_extensions

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "extend.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the pages are part of a clone")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The folder of the page's my_parts.py, which is imported once because registries cannot be reset."""
    folder = tmp_path_factory.mktemp("parts")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "my_parts.py").write_text("\n\n".join(blocks))
    yield folder
    sys.path[:] = [path for path in sys.path if path != str(folder)]
    extensions._imported.clear()


PARTS = (
    *("MODEL.BACKBONE.NAME", "MyBackbone", "MODEL.ROI_HEAD.NAME", "MyHead"),
    *("DATALOADER.READER", "gray", "DATASETS.TRAIN", "('my_set_train',)"),
)


def part_is_imported():
    assert "another_part" in sys.modules


def test_started_processes_import_the_modules_too(parts, monkeypatch):
    monkeypatch.chdir(parts)
    (parts / "another_part.py").write_text("")
    import_extensions(["another_part"])
    job = pickle.loads(pickle.dumps(WorkerTask(part_is_imported, (), None, 60.0)))  # what the agent sends
    monkeypatch.delitem(sys.modules, "another_part")
    with pytest.raises(AssertionError):
        part_is_imported()
    _run_with_extensions(job, ())


def test_the_parts_of_the_page(parts, tiny_cfg, mini_ava, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(parts)
    cfg = tiny_cfg("detect", "DATASETS.ROOT", str(mini_ava.parent))
    (tmp_path / "config.yaml").write_text(cfg.dump())
    config = ("--config-file", str(tmp_path / "config.yaml"))
    assert main(["train", *config, *PARTS]) == 2  # not imported yet
    assert "register custom classes with --import MODULE" in capsys.readouterr().err
    assert main(["train", "--import", "my_parts", *config, *PARTS]) == 0
    weights = f"{cfg.OUTPUT_DIR}/model_final.pt"
    names = read_checkpoint(weights)["model"]
    assert "backbone.stem.weight" in names
    assert "roi_head.hidden.0.weight" in names
    video = next((mini_ava / "videos").glob("*.mp4"))
    output = ("--output", str(tmp_path / "out"), "--whole-frame", "--format", "csv,subtitles")
    assert main(["detect", str(video), "--weights", weights, *output, "--import=my_parts"]) == 0
    subtitles = (tmp_path / "out" / f"{video.stem}.srt").read_text().splitlines()
    assert subtitles[:2] == ["1", "00:00:00,000 --> 00:00:01,000"]
    assert re.match(r"1: \w+", subtitles[2])
    copy = str(tmp_path / "copy.safetensors")
    assert main(["convert", weights, copy, "--to", "vmae_det", "--import", "my_parts"]) == 0
    assert names.keys() == read_checkpoint(copy)["model"].keys()
    assert all(torch.equal(names[name], value) for name, value in read_checkpoint(copy)["model"].items())
    assert main(["convert", weights, copy, "--to", "videomae", "--import", "my_parts"]) == 2
    assert "MODEL.BACKBONE.NAME is MyBackbone, expected VideoViT" in capsys.readouterr().err


def test_the_masked_backbone_of_the_page(parts, tiny_cfg, monkeypatch):
    monkeypatch.chdir(parts)
    import_extensions(["my_parts"])
    cfg = tiny_cfg("pretrain", "MODEL.BACKBONE.NAME", "MyMaskedBackbone")
    model = build_model(cfg).train()
    assert count_tokens(cfg).encoded == model.backbone.cubes(torch.zeros(1, 3, 4, 64, 64)).shape[1] // 4
    video = torch.randint(0, 256, (2, 3, 4, 64, 64), dtype=torch.uint8)
    model({"video": video, "seed": torch.arange(2)})["loss"].backward()
    assert model.backbone.stem.weight.grad.any()


def test_the_person_head_of_the_page(parts, tiny_cfg, monkeypatch):
    monkeypatch.chdir(parts)
    import_extensions(["my_parts"])
    cfg = tiny_cfg("detect", "MODEL.PERSON_HEAD.NAME", "MyPersonHead", "MODEL.PERSON_HEAD.CHANNELS", 8)
    cfg.MODEL.PERSON_HEAD.SCORE_THRESHOLD = 0.0
    head = build_model(cfg).eval().person_head
    predictions = head([torch.randn(1, 4 * 5, 24)] * 4, (4, 5))
    _, scores = head.candidates(predictions, torch.tensor([[80.0, 64.0]]))
    expected = predictions.logits.sigmoid().sqrt()
    assert torch.equal(scores[scores > 0], expected[scores > 0])
    with pytest.raises(ConfigError, match="which MyBackbone does not return"):
        build_model(tiny_cfg("detect", "MODEL.PERSON_HEAD.NAME", "MyPersonHead", *PARTS[:2]))


class PlainBackbone(nn.Module):
    """A backbone from before the interface: it has no member that later versions added."""

    def __init__(self, cfg, final_norm):
        super().__init__()
        node = cfg.MODEL.BACKBONE
        self.embed_dim, self.tubelet_size, self.patch_size = node.EMBED_DIM, 2, 16
        self.stem = nn.Conv3d(3, self.embed_dim, (2, 16, 16), stride=(2, 16, 16))
        self.norm = nn.LayerNorm(self.embed_dim) if final_norm else nn.Identity()

    @classmethod
    def from_config(cls, cfg, final_norm=True):
        return cls(cfg, final_norm)

    def grid(self, video):
        return tuple(size // stride for size, stride in zip(video.shape[2:], (2, 16, 16)))

    def num_layers(self):
        return 1

    def layer_of(self, name):
        return 0 if name.startswith("stem.") else 1

    def forward(self, video):
        return self.norm(self.stem(video).flatten(2).transpose(1, 2))


def test_a_backbone_without_the_base_class(tiny_cfg, monkeypatch, tmp_path):
    monkeypatch.setitem(BACKBONE_REGISTRY._obj_map, "PlainBackbone", PlainBackbone)
    cfg = tiny_cfg("detect", "MODEL.BACKBONE.NAME", "PlainBackbone")
    model = build_model(cfg).train()
    boxes = [torch.tensor([[4.0, 4.0, 40.0, 60.0]])]
    video = torch.zeros(1, 3, 4, 64, 96, dtype=torch.uint8)
    labels = [torch.ones(1, cfg.MODEL.ROI_HEAD.NUM_CLASSES)]
    batch = {"video": video, "boxes": boxes, "labels": labels, "seed": torch.zeros(1, dtype=torch.int64)}
    model(batch)["loss"].backward()
    assert [group["lr_scale"] for group in parameter_groups(model, 0.05, 0.5)] == [0.5, 0.5, 1.0, 1.0]
    loaded = build_model(cfg)
    assert load_weights(loaded, {"model": model.state_dict()}).missing == ()
    assert count_flops(cfg, count_tokens(cfg)) > 2 * 16 * 24 * 3 * 2 * 16 * 16  # of the convolution
    with pytest.raises(ConfigError, match="PlainBackbone cannot encode a part of the tokens"):
        build_model(tiny_cfg("pretrain", "MODEL.BACKBONE.NAME", "PlainBackbone"))


def test_importer_of_the_page(parts, mini_ava, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(parts)
    rows = "video,frame,person,x1,y1,x2,y2,action\n"
    rows += "".join(f"hall,{frame},a,{10 + frame},20,90,140,wave\n" for frame in (0, 12, 24))
    (tmp_path / "boxes.csv").write_text(rows + "hall,12,b,100,20,180,140,walk\n")
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "hall.mp4").symlink_to(next((mini_ava / "videos").glob("*.mp4")))
    command = [
        "import",
        str(tmp_path / "boxes.csv"),
        "--videos",
        str(videos),
        "--output",
        str(tmp_path / "data"),
    ]
    assert main([*command, "--import", "my_parts", "--format", "frame_csv"]) == 0
    assert "1 videos, 3 keyframes, 2 persons, 4 boxes, 2 labels, 4 rows" in capsys.readouterr().out
    lines = (tmp_path / "data" / "annotations.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ["0000", "0001", "0001", "0002"]


def test_dataset_type_of_the_page(parts, tiny_cfg, mini_ava, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(parts)
    import_extensions(["my_parts"])
    for number, name in enumerate(("wave", "stand", "wave")):
        (tmp_path / "clips" / name).mkdir(parents=True, exist_ok=True)
        source = sorted((mini_ava / "videos").glob("*.mp4"))[number]
        (tmp_path / "clips" / name / f"{number}.mp4").symlink_to(source)
    file = tmp_path / "own.yaml"
    file.write_text("type: class_folders\nvideos: clips\n")
    cfg = tiny_cfg("finetune")
    dataset = build_dataset(cfg, "classification", str(file), training=True)
    assert [dataset[0, index][0]["label"] for index in range(3)] == [0, 1, 1]
    assert dataset[0, 0][0]["video"].shape == (3, 4, 64, 64)
    assert len(build_dataset(cfg, "pretraining", str(file), training=True)) == 3
    assert main(["check-data", str(file), "--import", "my_parts", "--decode", "none"]) == 0
    capsys.readouterr()
    (tmp_path / "notes.txt").write_text("written by the user\n")
    for name in ("train", "val"):
        (tmp_path / f"{name}.yaml").write_text("type: class_folders\nvideos: clips\nannotations: notes.txt\n")
    options = ["--against", str(tmp_path / "train.yaml"), "--import", "my_parts", "--decode", "none"]
    main(["check-data", str(tmp_path / "val.yaml"), *options])
    text = capsys.readouterr().out
    assert "only the videos of a custom type are checked" in text
    assert "video_in_both_sets" in text
    assert "broken_file" not in text
    file.write_text("type: class_folders\n")
    with pytest.raises(DataError, match="videos: missing; it is required for type 'class_folders'"):
        build_dataset(cfg, "classification", str(file), training=True)


@pytest.mark.parametrize(
    ("module", "content", "message"),
    [
        ("no_such_module", None, "no_such_module is neither in "),
        ("broken_part", "1 / 0", "broken_part: import failed: ZeroDivisionError"),
        ("needs_more", "import no_such_dependency", "no_such_dependency is neither in"),
        ("exits_on_import", "raise SystemExit(0)", "exits_on_import: import failed: SystemExit"),
        ("my_head.py", None, "expected a module name such as my_package.my_head, got 'my_head.py'"),
        ("", None, "expected a module name"),
        ("no_dataset", "import vmae_det.data.catalog as c; c.CatalogEntry()", "either content or file"),
    ],
)
def test_a_module_that_cannot_be_imported(tmp_path, monkeypatch, capsys, module, content, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    if content:
        (tmp_path / f"{module}.py").write_text(content)
    assert main(["inspect", "--config-file", "MiniAVA/detect.yaml", "--import", module]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_abbreviated_option_imports_too(capsys):
    assert main(["inspect", "--config-file", "MiniAVA/detect.yaml", "--imp", "no_such_module"]) == 2
    assert "no_such_module is neither in" in capsys.readouterr().err


def test_commands_that_build_nothing_refuse_the_option(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--import", "my_parts"])
    assert main(["train", "--import"]) == 2
    assert "--import: expected a module name" in capsys.readouterr().err
