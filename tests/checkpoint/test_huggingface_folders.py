"""Folders of Transformers, read and written without a config by the user."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import SHARED, relative_error
from safetensors.torch import save_file

from vmae_det.checkpoint import load_weights, read_checkpoint
from vmae_det.checkpoint.convert import convert_weights, write_huggingface_folder
from vmae_det.cli.config_arguments import load_config
from vmae_det.cli.main import main
from vmae_det.config import get_cfg
from vmae_det.data.catalog import get_dataset
from vmae_det.data.transforms import make_clip, to_video, view_crop
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.predictor import label_map_of, read_config
from vmae_det.modeling import build_model
from vmae_det.utils.errors import WeightsError
from vmae_det.video.readers import open_video

transformers = pytest.importorskip("transformers", reason="an extra of the tests: pip install transformers")

NAMES = ("wave", "run", "sit down")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)


def their_config(**more):
    return transformers.VideoMAEConfig(
        image_size=64,
        num_frames=4,
        patch_size=16,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=100,  # not a multiple of the width
        decoder_hidden_size=24,
        decoder_num_hidden_layers=3,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=96,
        **more,
    )


def save_theirs(folder, kind, **more):
    """Write a folder with `save_pretrained`, with weights far from zero, and return the model."""
    torch.manual_seed(0)
    if kind == "classification":
        more = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}} | more
        model = transformers.VideoMAEForVideoClassification(their_config(**more))
    else:
        model = transformers.VideoMAEForPreTraining(their_config(**({"use_mean_pooling": False} | more)))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    transformers.VideoMAEImageProcessor(
        image_mean=MEAN, image_std=STD, size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}
    ).save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder and its model for each task."""
    root = tmp_path_factory.mktemp("theirs")
    return {kind: (root / kind, save_theirs(root / kind, kind)) for kind in ("classification", "pretraining")}


def frames(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (4, 64, 64, 3), generator=generator, dtype=torch.uint8).numpy()


def their_pixels(folder):
    processor = transformers.VideoMAEImageProcessor.from_pretrained(folder)
    return processor(list(frames()), return_tensors="pt", do_resize=False).pixel_values


def our_video(model):
    return model.normalization(torch.from_numpy(frames()).permute(3, 0, 1, 2)[None])


def ours_of(source):
    cfg = read_config(str(source))
    model = build_model(cfg)
    report = load_weights(model, str(source))
    assert not report.missing
    assert not report.unused
    return model.eval(), cfg


def assert_same_logits(ours, theirs, folder):
    with torch.inference_mode():
        expected = theirs(their_pixels(folder)).logits
        assert relative_error(ours.logits(our_video(ours)), expected) < 1e-4


def mask():
    drawn = torch.zeros(1, 2 * 16, dtype=torch.bool)
    drawn[:, torch.randperm(32, generator=torch.Generator().manual_seed(2))[:24]] = True
    return drawn


def assert_same_predictions(ours, theirs, folder):
    with torch.inference_mode():
        expected = theirs(their_pixels(folder), bool_masked_pos=mask())
        prediction, target = ours.reconstruct(our_video(ours), mask())
    assert relative_error(prediction, expected.logits) < 1e-4
    assert torch.nn.functional.mse_loss(prediction, target).item() == pytest.approx(
        expected.loss.item(), rel=1e-4
    )


COMPARE = {"classification": assert_same_logits, "pretraining": assert_same_predictions}


@pytest.mark.parametrize("kind", COMPARE)
def test_a_transformers_folder_needs_no_config(folders, kind):
    folder, theirs = folders[kind]
    ours, cfg = ours_of(folder)
    assert pytest.approx([255 * value for value in MEAN]) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx([255 * value for value in STD]) == cfg.MODEL.PIXEL_STD
    assert (cfg.INPUT.CROP_SIZE, cfg.INPUT.TEST_SHORT_SIDE, cfg.INPUT.NUM_FRAMES) == (64, 72, 4)
    COMPARE[kind](ours, theirs, folder)
    # The settings are also found next to the weights file.
    COMPARE[kind](ours_of(folder / "model.safetensors")[0], theirs, folder)
    if kind == "classification":
        assert label_map_of(str(folder)).names == NAMES
        assert label_map_of(str(folder)).ids == (1, 2, 3)


def test_config_keys_of_the_user_override_those_of_the_folder(folders, tmp_path):
    folder = str(folders["classification"][0])
    cfg = load_config("", ["MODEL.WEIGHTS", folder])
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.DEPTH) == ("VideoClassifier", 2)
    own = tmp_path / "own.yaml"
    own.write_text("MODEL: {PIXEL_MEAN: [1.0, 2.0, 3.0]}\nINPUT: {FLIP: 0.25}\n")
    cfg = load_config(str(own), ["MODEL.WEIGHTS", folder, "INPUT.TEST_SHORT_SIDE", "80"])
    assert cfg.MODEL.PIXEL_MEAN == (1.0, 2.0, 3.0)
    assert pytest.approx([255 * value for value in STD]) == cfg.MODEL.PIXEL_STD
    assert (cfg.INPUT.TEST_SHORT_SIDE, cfg.INPUT.FLIP, cfg.MODEL.BACKBONE.EMBED_DIM) == (80, 0.25, 48)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_shards(folders, tmp_path, file):
    folder, theirs = folders["classification"]
    full = theirs.state_dict()
    shutil.copy(folder / "config.json", tmp_path)
    shutil.copy(folder / "preprocessor_config.json", tmp_path)
    if file.endswith(".safetensors"):
        theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    else:
        stem, weight_map = "pytorch_model", {}
        for number, names in enumerate((list(full)[:10], list(full)[10:]), 1):
            name = f"{stem}-{number:05d}-of-00002.bin"
            torch.save({key: full[key] for key in names}, tmp_path / name)
            weight_map |= dict.fromkeys(names, name)
        (tmp_path / f"{file}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    shards = sorted(tmp_path.glob("*-of-*"))
    assert len(shards) > 1
    assert_same_logits(ours_of(tmp_path)[0], theirs, folder)
    index = tmp_path / f"{file}.index.json"
    assert len(read_checkpoint(index)["model"]) == len(full)
    with pytest.raises(WeightsError, match=rf"one of {len(shards)} files .* pass the folder .*{index.name}"):
        read_checkpoint(shards[0])
    with pytest.raises(WeightsError, match=r"-of-"):
        convert_weights(shards[0], tmp_path / "x.pt", "vmae_det")
    content = json.loads(index.read_text())
    for change, expected in (
        ({"absent.weight": shards[0].name}, "lack 1 parameters, such as absent.weight"),
        ({"absent.weight": "absent-00001-of-00009.bin"}, "are missing, such as absent-00001"),
        ({"absent.weight": "../" + shards[0].name}, "expected files of the same folder"),
    ):
        index.write_text(json.dumps({"weight_map": content["weight_map"] | change}))
        with pytest.raises(WeightsError, match=expected):
            read_checkpoint(tmp_path)
    index.unlink()
    with pytest.raises(WeightsError, match="it contains shards, but no index that lists all of them"):
        read_checkpoint(tmp_path)


def test_a_parameter_is_read_from_the_shard_in_the_index(tmp_path):
    save_file({"a.weight": torch.ones(1), "b.weight": torch.zeros(1)}, tmp_path / "1.safetensors")
    save_file({"a.weight": torch.zeros(1), "b.weight": torch.ones(1)}, tmp_path / "2.safetensors")
    index = {"weight_map": {"a.weight": "1.safetensors", "b.weight": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_checkpoint(tmp_path)["model"] == {"a.weight": torch.ones(1), "b.weight": torch.ones(1)}


@pytest.mark.parametrize("kind", COMPARE)
def test_transformers_loads_our_folder(folders, tmp_path, capsys, kind):
    """From a folder of Transformers to our file, and back to a folder with both commands."""
    folder, _ = folders[kind]
    ours, again = str(tmp_path / "ours.pt"), tmp_path / "again"
    assert main(["convert", str(folder), ours, "--to", "vmae_det"]) == 0
    assert main(["convert", ours, str(again), "--to", "huggingface"]) == 0
    assert f"{again}: " in capsys.readouterr().out
    name = {"classification": "VideoClassification", "pretraining": "PreTraining"}[kind]
    theirs, loading = getattr(transformers, f"VideoMAEFor{name}").from_pretrained(
        again, output_loading_info=True
    )
    assert not any(loading.values()), loading
    COMPARE[kind](ours_of(ours)[0], theirs.eval(), again)
    processor = transformers.VideoMAEImageProcessor.from_pretrained(again)
    assert processor.image_mean == pytest.approx(MEAN)
    assert processor.image_std == pytest.approx(STD)
    assert dict(processor.size)["shortest_edge"] == 72
    if kind == "classification":
        assert theirs.config.id2label == dict(enumerate(NAMES))
        assert theirs.config.label2id == {name: number for number, name in enumerate(NAMES)}
    exported = tmp_path / "exported"
    assert main(["export", "--weights", ours, "--format", "huggingface", "--output", str(exported)]) == 0
    for file in ("config.json", "preprocessor_config.json", "model.safetensors"):
        assert (exported / file).read_bytes() == (again / file).read_bytes()


def test_a_real_clip(folders):
    """Through both pipelines, with frames that both resize to an integer size."""
    path = SHARED / "video" / "test.mp4"
    if not path.exists():
        pytest.skip("needs the real videos in ../shared/video, next to the repository")
    folder, theirs = folders["classification"]
    ours, cfg = ours_of(folder)
    frames = open_video(path).frames(np.arange(0, 16, 4))
    frames = np.ascontiguousarray(frames[:, :256, :320])  # becomes 72 x 90
    video = to_video(view_crop(make_clip(frames), cfg))[None]
    pixels = transformers.VideoMAEImageProcessor.from_pretrained(folder)(list(frames), return_tensors="pt")
    with torch.inference_mode():
        expected = theirs(pixels.pixel_values).logits
        assert relative_error(ours.logits(ours.normalization(video)), expected) < 1e-4


def test_the_command_test_needs_no_config(folders, mini_ava, tmp_path, monkeypatch):
    """A folder of Transformers and a dataset with the same classes are enough."""
    actions = LabelMap.from_file(get_dataset(str(mini_ava / "clips_val.yaml"), "").label_map).names
    folder = tmp_path / "theirs"
    save_theirs(folder, "classification", id2label=dict(enumerate(actions)), label2id={})
    monkeypatch.chdir(tmp_path)
    opts = [
        "DATASETS.TEST",
        f"('{mini_ava / 'clips_val.yaml'}',)",
        "TEST.NUM_CLIPS",
        "1",
        "TEST.NUM_CROPS",
        "1",
    ]
    opts += ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
    assert main(["convert", "theirs", "ours.pt", "--to", "vmae_det"]) == 0
    results = []
    for weights in ("theirs", "ours.pt"):
        assert main(["test", "MODEL.WEIGHTS", weights, *opts, "OUTPUT_DIR", f"{weights}_out"]) == 0
        results.append((tmp_path / f"{weights}_out" / "results.json").read_text())
    assert results[0] == results[1]
    assert "top1" in results[0]


def test_a_label_map_for_classes_without_names(folders, tmp_path):
    """LABEL_0, LABEL_1, ... are not names; those of --label-map become id2label."""
    folder = shutil.copytree(folders["classification"][0], tmp_path / "folder")
    content = json.loads((folder / "config.json").read_text())
    content["id2label"] = {str(n): f"LABEL_{n}" for n in range(3)}
    (folder / "config.json").write_text(json.dumps(content))
    actions = tmp_path / "actions.pbtxt"
    actions.write_text("".join(f'item {{ name: "a{n}" id: {n} }}\n' for n in (1, 2, 4)))
    convert = ["convert", str(folder), str(tmp_path / "out"), "--to", "huggingface"]
    for opts, names in (
        ([], ["LABEL_0", "LABEL_1", "LABEL_2"]),
        (["--label-map", str(actions)], ["a1", "a2", "a4"]),
    ):
        assert main([*convert, *opts]) == 0
        written = json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]
        assert list(written.values()) == names


def test_attention_without_biases(tmp_path):
    for kind, compare in COMPARE.items():
        folder = tmp_path / kind
        theirs = save_theirs(folder, kind, qkv_bias=False)
        assert not any("bias" in name and "query" in name for name in theirs.state_dict())
        compare(ours_of(folder)[0], theirs, folder)


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("config.json", {"hidden_act": "relu"}, r"config.json: 'hidden_act': expected gelu, got relu"),
        (
            "config.json",
            {"layer_norm_eps": 1e-3},
            "'layer_norm_eps': expected 0 to 1e-05, got 0.001; vmae_det uses 1e-06",
        ),
        ("config.json", {"num_channels": 1}, r"'num_channels': expected 3 \(RGB\), got 1"),
        ("config.json", {"image_size": [64, 32]}, r"'image_size': expected a square, got \[64, 32\]"),
        ("config.json", {"use_mean_pooling": False}, "'use_mean_pooling': expected true, got false"),
        (
            "config.json",
            {"problem_type": "multi_label_classification"},
            "expected single_label_classification, got multi_label_classification",
        ),
        ("config.json", {"id2label": {"0": "a", "7": "b"}}, r"'id2label': .*got 2 entries"),
        ("config.json", {"num_hidden_layers": "2"}, "'num_hidden_layers': expected an integer, got '2'"),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5]}, "'image_mean': expected three numbers"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "'image_std' must be above 0"),
        (
            "preprocessor_config.json",
            {"size": {"shortest_edge": 32}},
            "frames of 32 pixels are smaller than the 'image_size' 64",
        ),
    ],
)
def test_unsupported_settings_are_refused(folders, tmp_path, file, change, expected):
    folder = shutil.copytree(folders["classification"][0], tmp_path / "folder")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | change))
    with pytest.raises(WeightsError, match=expected):
        read_checkpoint(folder)


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000, '{"a": 1' + "0" * 5000 + "}"])
def test_a_damaged_config(folders, tmp_path, text):
    folder = shutil.copytree(folders["classification"][0], tmp_path / "folder")
    (folder / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"config\.json: "):
        read_checkpoint(folder)


def test_an_encoder_without_norm_is_not_an_autoencoder(tmp_path):
    """VideoMAEForPreTraining with mean pooling has no norm; its backbone still initializes a classifier."""
    save_theirs(tmp_path, "pretraining", use_mean_pooling=True)
    cfg = read_config(str(tmp_path))
    with pytest.raises(WeightsError, match=r"backbone\.norm\.weight is not in the file"):
        load_weights(build_model(cfg), tmp_path)
    for to in ("vmae_det", "videomae"):
        with pytest.raises(WeightsError, match="no norm after its encoder"):
            convert_weights(tmp_path, tmp_path / "x.pt", to)
    cfg.MODEL.META_ARCHITECTURE = "VideoClassifier"
    load_weights(build_model(cfg), tmp_path, backbone_only=True)


def test_other_settings_of_the_processor(folders, tmp_path, caplog):
    folder = shutil.copytree(folders["classification"][0], tmp_path / "folder")
    path = folder / "preprocessor_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"do_normalize": False}))
    cfg = read_config(str(folder))
    assert (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == ((0.0,) * 3, (255.0,) * 3)
    path.write_text(json.dumps(content | {"size": {"height": 64, "width": 64}}))
    assert read_config(str(folder)).INPUT.TEST_SHORT_SIDE == 64
    assert "stretches frames to a square" in caplog.text
    path.write_text(json.dumps(content | {"resample": 3, "crop_size": {"height": 48, "width": 48}}))
    read_config(str(folder))
    assert "'resample' is 3; using bilinear interpolation" in caplog.text
    assert "'crop_size' is {'height': 48, 'width': 48}, but 'image_size' of config.json is 64" in caplog.text
    path.unlink()
    assert read_config(str(folder)).MODEL.PIXEL_MEAN == (123.675, 116.28, 103.53)
    assert "no preprocessor_config.json in the folder" in caplog.text


def test_a_folder_of_another_kind(tmp_path, folders):
    (tmp_path / "model_final.pt").write_bytes(b"")
    with pytest.raises(
        WeightsError, match=r"the folder contains no model.safetensors.*it contains model_final.pt"
    ):
        read_checkpoint(tmp_path)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ActionDetector"
    with pytest.raises(WeightsError, match="Transformers has no ActionDetector"):
        write_huggingface_folder({}, cfg, None, tmp_path / "out")
