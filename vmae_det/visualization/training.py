"""Pictures that a training run leaves behind."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from vmae_det.config import CfgNode
from vmae_det.data.loader import build_dataset, load_first_test_batch
from vmae_det.engine.trainer import HookBase, to_device
from vmae_det.modeling import MaskedAutoencoder, model_class
from vmae_det.utils import distributed
from vmae_det.utils.errors import UserError
from vmae_det.visualization.reconstruction import mask_cubes, reconstruction_grid, write_png

logger = logging.getLogger(__name__)

NUM_CLIPS = 3


class ReconstructionPicture(HookBase):
    """After pre-training: original, masked and reconstructed frames of a few clips, as reconstruction.png.

    The clips are the middle ones of the first videos of DATASETS.TEST that can be read, or of DATASETS.TRAIN
    where that is empty. Their frames are those to predict, masked where the decoder had to; masked cubes
    that its own mask left out are grey in the reconstruction too.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    @torch.no_grad()
    def after_train(self) -> None:
        """Draw the picture."""
        if not distributed.is_main_process():
            return
        cfg = self.cfg
        name = (cfg.DATASETS.TEST or cfg.DATASETS.TRAIN)[0]
        dataset = build_dataset(cfg, MaskedAutoencoder.task, name, training=False)
        batch = load_first_test_batch(cfg, dataset, NUM_CLIPS)
        if batch is None:
            logger.warning("no picture of reconstructions: none of the first videos of %s can be read", name)
            return
        model = getattr(self.trainer.model, "module", self.trainer.model)
        model.eval()
        predictions = model(to_device(batch, self.trainer.device))
        clips = batch.get("target", batch["video"]).numpy()
        painted = predictions["reconstruction"].cpu().numpy()
        masks = predictions["mask"][:, model.target_tokens].cpu().numpy()
        predicted = predictions["predicted"][:, model.target_tokens].cpu().numpy()
        sizes = cfg.MODEL.BACKBONE.PATCH_SIZE, model.target_tubelet
        grids = [
            reconstruction_grid(clip, mask_cubes(result, mask & ~known, *sizes), mask, *sizes)
            for clip, result, mask, known in zip(clips, painted, masks, predicted)
        ]
        path = Path(cfg.OUTPUT_DIR) / "reconstruction.png"
        try:
            write_png(path, grids)
        except UserError as error:
            logger.warning("no picture of reconstructions: %s", error)
            return
        logger.info("original, masked and reconstructed frames in %s", path)


def picture_hooks(cfg: CfgNode) -> list[HookBase]:
    """The pictures that belong to the task of a config."""
    return [ReconstructionPicture(cfg)] if model_class(cfg).task == MaskedAutoencoder.task else []
