"""An independent implementation, Hugging Face's, with random weights."""

import pytest
import torch
from conftest import relative_error

from vmae_det.checkpoint import load_weights
from vmae_det.config import get_cfg
from vmae_det.modeling import build_model
from vmae_det.modeling.masking import draw_mask

transformers = pytest.importorskip("transformers", reason="an extra of the tests: pip install transformers")


def config_pair(**more):
    theirs = transformers.VideoMAEConfig(
        image_size=64,
        num_frames=8,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=192,
        decoder_hidden_size=24,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=96,
        layer_norm_eps=1e-6,
        **more,
    )
    ours = get_cfg()
    ours.merge_from_list(
        [
            *("INPUT.CROP_SIZE", 64, "INPUT.NUM_FRAMES", 8),
            *("MODEL.BACKBONE.EMBED_DIM", 48, "MODEL.BACKBONE.DEPTH", 3, "MODEL.BACKBONE.NUM_HEADS", 3),
            *("MODEL.DECODER.EMBED_DIM", 24, "MODEL.DECODER.DEPTH", 2, "MODEL.DECODER.NUM_HEADS", 3),
            *("MODEL.CLASSIFIER.NUM_CLASSES", 7),
        ]
    )
    return theirs, ours


def randomise(model):
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = 0.1 * torch.randn(parameter.shape, generator=generator)
        parameter.data = noise + (parameter.ndim == 1) * parameter.data
    return model.eval()


def test_pretraining_agrees():
    their_config, cfg = config_pair(use_mean_pooling=False)  # with it, theirs has no norm after its encoder
    theirs = randomise(transformers.VideoMAEForPreTraining(their_config))
    theirs.decoder.norm.eps = 1e-6  # theirs leaves this one at PyTorch's default
    ours = build_model(cfg)
    report = load_weights(ours, theirs.state_dict())
    assert report.format == "Hugging Face VideoMAE"
    assert not report.missing
    assert not report.unused

    # Between 0 and 1 as pixels are: theirs undoes ImageNet's normalisation for the target.
    pixels = torch.rand(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    video = ours.normalization(pixels)
    mask = draw_mask(torch.tensor([3, 4]), (4, 4, 4), "tube", 0.75)
    out = theirs(video.transpose(1, 2), bool_masked_pos=mask)
    prediction, target = ours.reconstruct(video, mask)
    assert relative_error(prediction, out.logits) < 1e-4
    loss = torch.nn.functional.mse_loss(prediction, target)
    assert loss.item() == pytest.approx(out.loss.item(), rel=1e-6)


def test_classification_agrees():
    their_config, cfg = config_pair(num_labels=7)
    cfg.MODEL.META_ARCHITECTURE = "VideoClassifier"
    theirs = randomise(transformers.VideoMAEForVideoClassification(their_config))
    ours = build_model(cfg).eval()
    report = load_weights(ours, theirs.state_dict())
    assert not report.missing
    assert not report.unused
    video = torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(1))
    assert relative_error(ours.logits(video), theirs(video.transpose(1, 2)).logits) < 1e-4
