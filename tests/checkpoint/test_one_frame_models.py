"""Weights of a model of single frames (image MAE) are inflated when a video model starts from them."""

import pytest
import torch

from vmae_det import model_zoo
from vmae_det.checkpoint import save_weights
from vmae_det.engine.weights import build_model_and_classes
from vmae_det.modeling.build import build_model
from vmae_det.utils.errors import ConfigError, WeightsError

SMALL = [
    "MODEL.BACKBONE.EMBED_DIM",
    24,
    "MODEL.BACKBONE.DEPTH",
    1,
    "INPUT.CROP_SIZE",
    16,
    "MODEL.DEVICE",
    "cpu",
]


def config(name, *keys):
    cfg = model_zoo.get_config(name)
    cfg.merge_from_list([*SMALL, *keys])
    return cfg


def saved(tmp_path, *keys, name="MiniAVA/pretrain_image.yaml"):
    cfg = config(name, *keys)
    torch.manual_seed(0)
    model = build_model(cfg)
    save_weights(model.state_dict(), cfg.dump(), tmp_path / "image.pt", None)
    return model, str(tmp_path / "image.pt")


def test_a_still_clip_has_the_embedding_of_its_frame(tmp_path):
    image_model, path = saved(tmp_path)
    video_model, _ = build_model_and_classes(
        config("MiniAVA/finetune.yaml", "MODEL.BACKBONE.CHECKPOINT", path)
    )
    frame = torch.randn(2, 3, 1, 16, 16)
    image, video = image_model.backbone, video_model.backbone
    clip = frame.expand(-1, -1, 8, -1, -1).contiguous()
    tokens = video.patch_embed(video.cubes(clip)).unflatten(1, (4, 16))
    expected = image.patch_embed(image.cubes(frame))
    torch.testing.assert_close(tokens, expected[:, None].expand_as(tokens))
    # Rows of the position tables differ in the columns of time only.
    positions = video.token_positions((4, 4, 4)).unflatten(0, (4, 16))
    torch.testing.assert_close(positions[0], image.token_positions((1, 4, 4)))


def test_a_video_model_with_tubelets_of_one_frame_is_refused(tmp_path):
    _, path = saved(tmp_path, "INPUT.NUM_FRAMES", 8)
    with pytest.raises(WeightsError, match="TUBELET_SIZE is 1 in the file, 2 in the config"):
        build_model_and_classes(config("MiniAVA/finetune.yaml", "MODEL.BACKBONE.CHECKPOINT", path))


def test_an_image_model_is_not_tested_as_a_video_model(tmp_path):
    one_frame = ["INPUT.NUM_FRAMES", 1, "MODEL.BACKBONE.TUBELET_SIZE", 1]
    _, path = saved(tmp_path, *one_frame, name="MiniAVA/finetune.yaml")
    with pytest.raises(ConfigError, match="TUBELET_SIZE"):
        build_model_and_classes(config("MiniAVA/finetune.yaml", "MODEL.WEIGHTS", path), complete=True)
