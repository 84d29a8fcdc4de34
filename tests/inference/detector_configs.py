"""Helpers: configs of person detectors, and an image."""

import numpy as np

from vmae_det.config import check_config, get_cfg


def config(name, *opts):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "PERSON_DETECTOR.NAME", name])
    cfg.merge_from_list([f"PERSON_DETECTOR.{opt}" if i % 2 == 0 else opt for i, opt in enumerate(opts)])
    check_config(cfg)
    return cfg


def random_image(height=96, width=128):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
