"""Training hook that draws reconstructions at the end of pre-training."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from vmae_det.config import CfgNode
from vmae_det.data.loader import build_dataset, load_first_test_batch
from vmae_det.engine.parallel import is_sharded
from vmae_det.engine.trainer import HookBase, to_device
from vmae_det.engine.weights import unsharded_copy
from vmae_det.modeling import MaskedAutoencoder, model_class
from vmae_det.utils import distributed
from vmae_det.utils.errors import UserError
from vmae_det.visualization.pictures import write_png
from vmae_det.visualization.reconstruction import reconstruction_grid

logger = logging.getLogger(__name__)

NUM_CLIPS = 3


class ReconstructionPicture(HookBase):
    """Writes reconstruction.png after pre-training: original, masked and reconstructed frames of a few clips.

    Shows the middle clips of the first readable videos of DATASETS.TEST, or of DATASETS.TRAIN if that is
    empty. The frames are those that the decoder predicts. It predicts all masked tokens, also those that the
    decoder mask skips in training.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    @torch.no_grad()
    def after_train(self) -> None:
        """Draw and write the picture."""
        cfg = self.cfg
        model = getattr(self.trainer.model, "module", self.trainer.model)
        if is_sharded(cfg):  # a forward pass would need all processes
            model = unsharded_copy(cfg, model.state_dict(), self.trainer.device)
        if not distributed.is_main_process():
            return
        name = (cfg.DATASETS.TEST or cfg.DATASETS.TRAIN)[0]
        dataset = build_dataset(cfg, MaskedAutoencoder.task, name, training=False)
        batch = load_first_test_batch(cfg, dataset, NUM_CLIPS)
        if batch is None:
            logger.warning("Skipping reconstruction.png: none of the first videos of %s can be read", name)
            return
        model.eval()
        decoder_mask, model.decoder_mask = model.decoder_mask, "none"
        output = model(to_device(batch, self.trainer.device))
        model.decoder_mask = decoder_mask
        clips = batch.get("target", batch["video"]).numpy()
        reconstructions = output["reconstruction"].cpu().numpy()
        masks = output["mask"][:, model.target_tokens].cpu().numpy()
        sizes = cfg.MODEL.BACKBONE.PATCH_SIZE, model.target_tubelet
        grids = [
            reconstruction_grid(clip, result, mask, *sizes)
            for clip, result, mask in zip(clips, reconstructions, masks)
        ]
        path = Path(cfg.OUTPUT_DIR) / "reconstruction.png"
        try:
            write_png(path, grids)
        except UserError as error:
            logger.warning("Skipping reconstruction.png: %s", error)
            return
        logger.info("Original, masked and reconstructed frames are in %s", path)


def picture_hooks(cfg: CfgNode) -> list[HookBase]:
    """Return the hooks that draw pictures for the task of a config."""
    return [ReconstructionPicture(cfg)] if model_class(cfg).task == MaskedAutoencoder.task else []
