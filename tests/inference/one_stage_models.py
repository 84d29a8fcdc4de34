"""Helpers: tiny detectors with a person head."""

import torch
from torch import nn

from vmae_det.checkpoint import save_weights
from vmae_det.config import get_cfg
from vmae_det.modeling import build_model

HEAD = ("MODEL.PERSON_HEAD.NAME", "FcosPersonHead", "MODEL.PERSON_HEAD.CHANNELS", 8)
HEAD += ("MODEL.PERSON_HEAD.NUM_CONVS", 1)
LABELS = {"ids": [1, 2, 4], "names": ["walk", "sit", "talk"], "kinds": ["", "", ""]}


def randomize(model):
    """Set weights with which boxes and scores depend on the video."""
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if "norm" not in name and "patch_embed" not in name:
            nn.init.normal_(value, std=0.5)
    nn.init.constant_(model.person_head.regression.bbox_reg.bias, 2.0)
    return model


def detector_config(folder, *opts):
    """Return the config of a random detector of 4 frames, and save its weights."""
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "ActionDetector", "INPUT.CROP_SIZE", 64, "INPUT.NUM_FRAMES", 4),
            *("MODEL.BACKBONE.EMBED_DIM", 24, "MODEL.BACKBONE.DEPTH", 1, "MODEL.BACKBONE.NUM_HEADS", 2),
            *("MODEL.ROI_HEAD.NUM_CLASSES", 3, "INPUT.TEST_SHORT_SIDE", 64, "MODEL.DEVICE", "cpu", *HEAD),
            *opts,
        ]
    )
    cfg.MODEL.WEIGHTS = str(folder / "model.pt")
    save_weights(randomize(build_model(cfg)).state_dict(), cfg.dump(), cfg.MODEL.WEIGHTS, LABELS)
    return cfg
