"""Detectors from the authors' files are tested with the conventions of the authors' code."""

import pytest
import torch

from vmae_det.checkpoint.rename_parameters import rename_to_published
from vmae_det.engine.weights import build_model_with_weights
from vmae_det.formats.label_map import LabelMap
from vmae_det.inference import ActionPredictor
from vmae_det.inference.person_sources import WholeFramePerson
from vmae_det.modeling import build_model

FLAT = ("MODEL.BACKBONE.POSITIONS", "flat")


@pytest.fixture
def published(tiny_cfg, tmp_path):
    """published(TASK, KEY, VALUE, ...): a config whose weights are in the authors' format."""

    def make(task, *keys):
        cfg = tiny_cfg(task, *keys, *FLAT, "MODEL.WEIGHTS", str(tmp_path / f"{task}.pth"))
        _, state_dict, _ = rename_to_published(build_model(cfg).state_dict(), "videomae")
        torch.save({"module": state_dict}, cfg.MODEL.WEIGHTS)
        return cfg

    return make


@pytest.mark.parametrize(
    ("task", "asked", "taken"),
    [
        ("detect", "auto", "published"),
        ("detect", "centred", "centred"),
        ("finetune", "auto", "auto"),
        ("finetune", "published", "published"),
    ],
)
def test_only_published_detectors_use_the_published_convention(published, task, asked, taken):
    cfg = published(task, "INPUT.CONVENTION", asked)
    cfg.freeze()
    build_model_with_weights(cfg, complete=True)
    assert taken == cfg.INPUT.CONVENTION
    assert cfg.is_frozen()


def test_other_detectors_use_the_centred_convention(tiny_cfg, tmp_path):
    cfg = tiny_cfg("detect", "MODEL.WEIGHTS", str(tmp_path / "own.pt"))
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    build_model_with_weights(cfg, complete=True)
    assert cfg.INPUT.CONVENTION == "auto"


def test_detection_in_a_video_samples_frames_by_the_convention(published, mini_ava):
    cfg = published("detect", "INPUT.SAMPLING_RATE", 4)
    label_map = LabelMap.from_file(mini_ava / "annotations" / "mini_ava_actions.pbtxt")
    wanted = []
    for convention in ("auto", "centred"):
        cfg.INPUT.CONVENTION = convention
        predictor = ActionPredictor(cfg, label_map)
        with predictor.stream(
            next((mini_ava / "videos").glob("*.mp4")), WholeFramePerson(), every=1.0
        ) as stream:
            wanted.append((stream.plan.centers[1], stream.plan.needed.nonzero()[0]))
    (center, published_frames), (_, default_frames) = wanted
    assert {center - 7, center - 3, center + 1, center + 5} <= {*published_frames.tolist()}  # 4 frames
    assert {center - 8, center - 4, center, center + 4} <= {*default_frames.tolist()}
    assert center not in published_frames
