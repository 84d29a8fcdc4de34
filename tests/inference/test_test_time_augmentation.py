"""TEST.SHORT_SIDES and TEST.FLIP: mean scores over several views, in `test` and on video."""

import itertools

import numpy as np
import pytest
import torch

from vmae_det.checkpoint import save_weights
from vmae_det.config import check_config
from vmae_det.config.checks import unused_keys
from vmae_det.data.datasets import ActionKeyframes
from vmae_det.data.loader import build_dataset, build_test_loader, collate_by_size
from vmae_det.data.test_time_augmentation import describe_views, flip_batch, views_of, warn_about_flip
from vmae_det.engine.evaluation import TestSets, run_inference
from vmae_det.engine.inspection import count_flops, count_test_flops, count_tokens
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference import ActionPredictor
from vmae_det.inference.person_sources import WholeFramePerson
from vmae_det.inference.stream import StreamOptions
from vmae_det.modeling import build_model
from vmae_det.utils.errors import ConfigError

SIDES = (48, 64, 80)


@pytest.fixture
def cfg(tiny_cfg):
    return tiny_cfg("detect", "TEST.BATCH_SIZE", 5)


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.nn.init.normal_(model.roi_head.classifier.weight, std=0.2)
    return model


def changed(cfg, *keys):
    cfg = cfg.clone()
    cfg.merge_from_list(list(keys))
    return cfg


class Recorder:
    """Stand in for an evaluator: the scores by keyframe and box."""

    def reset(self):
        pass

    def process(self, batch, predictions):
        for *key, boxes, scores in zip(
            batch["video_name"], batch["timestamp"], batch["boxes_relative"], predictions["scores"]
        ):
            self.scores[tuple(key)] = boxes, scores

    def evaluate(self):
        self.scores = dict(sorted(self.scores.items()))
        return {}

    def __init__(self):
        self.scores = {}


def scores_of(cfg, model, workers=0):
    """Return the scores (R, classes) of the persons of some keyframes, as `vmae-det test` computes them."""
    cfg = changed(cfg, "DATALOADER.NUM_WORKERS", workers)
    dataset = build_dataset(cfg, "detection", cfg.DATASETS.TEST[0], training=False)
    loader = itertools.islice(iter(build_test_loader(cfg, dataset)), 1)
    recorder = Recorder()
    run_inference(model, loader, recorder, torch.device("cpu"), flip=cfg.TEST.FLIP)
    return torch.cat([scores for _, scores in recorder.scores.values()])


# ---------------------------------------------------------------- test


def test_one_short_side_equals_no_augmentation(cfg, model):
    plain = scores_of(cfg, model)
    assert torch.equal(scores_of(changed(cfg, "TEST.SHORT_SIDES", (64,)), model), plain)
    other = scores_of(changed(cfg, "TEST.SHORT_SIDES", (80,)), model)
    assert torch.equal(scores_of(changed(cfg, "INPUT.TEST_SHORT_SIDE", 80), model), other)
    assert (other - plain).abs().max() > 1e-3


def test_several_short_sides_are_the_mean_of_separate_runs(cfg, model):
    cfg.DATALOADER.DECODE_SMALLER = False  # otherwise the largest side determines the decoded size
    separate = [scores_of(changed(cfg, "INPUT.TEST_SHORT_SIDE", side), model) for side in SIDES]
    together = scores_of(changed(cfg, "TEST.SHORT_SIDES", SIDES), model, workers=1)
    torch.testing.assert_close(together, torch.stack(separate).mean(dim=0), rtol=0, atol=1e-6)


def test_a_flipped_video_has_the_same_scores(cfg, model, monkeypatch):
    cfg = changed(cfg, "INPUT.TEST_SHORT_SIDE", 144, "TEST.FLIP", True)  # the size of the videos
    plain = changed(cfg, "TEST.FLIP", False)
    averaged, single = scores_of(cfg, model), scores_of(plain, model)
    load = ActionKeyframes._load_clip

    def load_flipped(self, index):
        clip, scores = load(self, index)
        x1, y1, x2, y2 = clip.boxes.unbind(1)
        clip.frames, clip.boxes = clip.frames.flip(-1), torch.stack([192 - x2, y1, 192 - x1, y2], dim=1)
        return clip, scores

    monkeypatch.setattr(ActionKeyframes, "_load_clip", load_flipped)
    flipped = scores_of(plain, model)
    assert (single - flipped).abs().max() > 1e-3
    torch.testing.assert_close(averaged, (single + flipped) / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(scores_of(cfg, model), averaged, rtol=0, atol=1e-6)


def test_a_flip_keeps_the_padding_on_the_right():
    video = torch.arange(6, dtype=torch.uint8).expand(2, 3, 4, 5, 6).clone()
    boxes = [torch.tensor([[1.0, 0.0, 3.0, 2.0]]), torch.zeros(0, 4)]
    batch = {"video": video, "boxes": boxes, "size": [torch.tensor([4.0, 5.0]), torch.tensor([6.0, 5.0])]}
    flipped = flip_batch(batch)
    assert flipped["video"][0, 0, 0, 0].tolist() == [3, 2, 1, 0, 4, 5]
    assert flipped["video"][1, 0, 0, 0].tolist() == [5, 4, 3, 2, 1, 0]
    assert flipped["boxes"][0].tolist() == [[1.0, 0.0, 3.0, 2.0]]
    assert flipped["boxes"][1].shape == (0, 4)
    assert video[0, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    del batch["size"]
    assert flip_batch(batch)["boxes"][0].tolist() == [[3.0, 0.0, 5.0, 2.0]]


def test_clips_of_a_batch_have_the_same_size_in_each_view():
    def sample(index, *widths):
        first, *others = [
            {"video": torch.zeros(3, 2, 16, w), "boxes": torch.zeros(1, 4), "size": [w, 16]} for w in widths
        ]
        return [first | {"index": index, "views": others}]

    batches = collate_by_size([sample(0, 16, 32), sample(1, 16, 48), sample(2, 16, 32)])
    assert [batch["index"].tolist() for batch in batches] == [[0, 2], [1]]
    views = list(views_of(batches[0], flip=True))
    assert [view["video"].shape[-1] for view in views] == [16, 16, 32, 32]
    assert [view["size"] for view in views[::2]] == [[[16, 16]] * 2, [[32, 16]] * 2]
    assert all(view["index"] is batches[0]["index"] and "views" not in view for view in views)


@pytest.mark.parametrize(("convention", "width"), [("centred", 87), ("published", 86)])
def test_size_without_padding_is_that_of_the_resized_frame(cfg, convention, width):
    cfg = changed(cfg, "INPUT.CONVENTION", convention, "TEST.SHORT_SIDES", (144, 65))  # 65 x 86.67
    dataset = build_dataset(cfg, "detection", cfg.DATASETS.TEST[0], training=False)
    (sample,) = dataset[0, 0]
    (view,) = sample["views"]
    assert (sample["size"].tolist(), view["size"].tolist()) == ([192, 144], [width, 65])
    assert sample["video"].shape[2:] == (144, 192)
    assert view["video"].shape[2:] == (80, 96)
    mean = torch.tensor(cfg.MODEL.PIXEL_MEAN).round()
    is_padding = (view["video"] == mean[:, None, None, None]).all(dim=0).all(dim=0).all(dim=0)
    assert is_padding.nonzero().flatten().tolist() == list(range(width, 96))
    expected = view["boxes"] / torch.tensor([width, 65, width, 65])
    np.testing.assert_allclose(expected, sample["boxes_relative"], atol=1e-5)
    assert dataset.needed_short_side() == 144


# ---------------------------------------------------------------- streams


@pytest.fixture
def predict(cfg, model, mini_ava, tmp_path):
    """predict(KEY, VALUE, ..., explain=None): the results of a video with the whole frame as a person."""
    video = sorted((mini_ava / "videos").glob("*.mp4"))[0]
    names = LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")
    label_map = {"ids": list(names.ids), "names": list(names.names), "kinds": list(names.kinds)}
    weights = save_weights(model.state_dict(), cfg.dump(), tmp_path / "model.pt", label_map)

    def run(*keys, explain=None):
        predictor = ActionPredictor(changed(cfg, "MODEL.WEIGHTS", str(weights), *keys))
        options = StreamOptions(explain=explain, end=2.5)
        return list(predictor.stream(video, WholeFramePerson(), options=options))

    return run


def test_scores_on_video_are_the_mean_of_separate_runs(predict):
    def scores(*keys):
        return np.concatenate([result.scores for result in predict(*keys)])

    separate = [scores("INPUT.TEST_SHORT_SIDE", side) for side in SIDES]
    assert len(separate[0]) == 3
    assert np.abs(separate[0] - separate[1]).max() > 1e-3
    np.testing.assert_allclose(scores("TEST.SHORT_SIDES", SIDES), np.mean(separate, axis=0), atol=1e-6)
    assert np.array_equal(scores("TEST.SHORT_SIDES", (64,)), separate[1])
    flipped = 2 * scores("TEST.FLIP", True) - separate[1]
    assert np.abs(flipped - separate[1]).max() > 1e-3
    both = scores("TEST.SHORT_SIDES", (64, 48), "TEST.FLIP", True)
    other = 2 * scores("INPUT.TEST_SHORT_SIDE", 48, "TEST.FLIP", True) - separate[0]
    expected = np.mean([separate[0], separate[1], flipped, other], axis=0)
    np.testing.assert_allclose(both, expected, atol=1e-6)


def test_heat_maps_are_those_of_the_first_view(predict):
    keys = ("INPUT.NUM_FRAMES", 4, "TEST.SHORT_SIDES", (64, 80), "TEST.FLIP", True)
    maps = [result.heat_maps for result in predict(*keys, explain=0.0)]
    assert maps[0].shape == (1, 16, 21)  # 64 x 85 pixels


# ---------------------------------------------------------------- config


def test_flips_of_sided_classes_are_reported(cfg, caplog):
    warn_about_flip(cfg, LabelMap((1, 2), ("write", "hold upright"), ("", "")))
    assert not caplog.records
    warn_about_flip(cfg, LabelMap((1, 2), ("stand", "Turn Left"), ("", "")))
    assert "a flip turns 'Turn Left' into another class" in caplog.text
    warn_about_flip(changed(cfg, "INPUT.FLIP", 0.0), None)
    assert "the model was trained without flipped clips" in caplog.text


def test_config(cfg, tiny_cfg):
    several = changed(cfg, "TEST.SHORT_SIDES", SIDES, "TEST.FLIP", True)
    check_config(several)
    assert describe_views(several) == "6 views: short sides 48, 64, 80, each also flipped"
    assert describe_views(changed(cfg, "TEST.FLIP", True)) == "2 views: short side 64, also flipped"
    assert TestSets(several, torch.device("cpu"), None).flip
    with pytest.raises(ConfigError, match=r"TEST.SHORT_SIDES: \(64, 64\) has a value twice"):
        check_config(changed(cfg, "TEST.SHORT_SIDES", (64, 64)))
    other = tiny_cfg("finetune", "TEST.SHORT_SIDES", (64,), "TEST.FLIP", True)
    assert [line.split(":")[0] for line in unused_keys(other)] == ["TEST.SHORT_SIDES", "TEST.FLIP"]


def test_inspect_counts_all_views(cfg):
    tokens = count_tokens(cfg)
    assert count_test_flops(cfg, tokens) is None
    several = changed(cfg, "TEST.SHORT_SIDES", (48, 60), "TEST.FLIP", True)
    expected = sum(count_flops(cfg, tokens, size) for size in ((48, 96), (64, 112)))  # 48 x 85, 60 x 107
    assert count_test_flops(several, tokens) == 2 * expected
