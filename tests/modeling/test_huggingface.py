"""Comparison with the independent implementation of Hugging Face, with random weights."""

import pytest
import torch
from conftest import relative_error

from vmae_det.checkpoint import load_weights, save_weights
from vmae_det.checkpoint.convert import convert_weights
from vmae_det.checkpoint.rename_parameters import rename_to_published
from vmae_det.config import get_cfg
from vmae_det.modeling import build_model
from vmae_det.modeling.masking import draw_mask

transformers = pytest.importorskip("transformers", reason="an extra of the tests: pip install transformers")


SIZES = {
    "tiny": {"clip": (8, 64), "width": (48, 3, 3), "decoder": (24, 2, 3)},
    "ViT-Ti": {"clip": (16, 112), "width": (192, 12, 3), "decoder": (96, 4, 3)},
}
CLASSES = 7


def config_pair(size, task, **more):
    """Return the same model as a config of theirs and of ours."""
    (frames, pixels), (width, depth, heads), (decoder_width, decoder_depth, decoder_heads) = SIZES[
        size
    ].values()
    theirs = transformers.VideoMAEConfig(
        image_size=pixels,
        num_frames=frames,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        decoder_hidden_size=decoder_width,
        decoder_num_hidden_layers=decoder_depth,
        decoder_num_attention_heads=decoder_heads,
        decoder_intermediate_size=4 * decoder_width,
        layer_norm_eps=1e-6,
        **more,
    )
    ours = get_cfg()
    ours.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", task, "INPUT.CROP_SIZE", pixels, "INPUT.NUM_FRAMES", frames),
            *("MODEL.BACKBONE.EMBED_DIM", width, "MODEL.BACKBONE.DEPTH", depth),
            *("MODEL.BACKBONE.NUM_HEADS", heads, "MODEL.DECODER.EMBED_DIM", decoder_width),
            *("MODEL.DECODER.DEPTH", decoder_depth, "MODEL.DECODER.NUM_HEADS", decoder_heads),
            *("MODEL.CLASSIFIER.NUM_CLASSES", CLASSES),
        ]
    )
    return theirs, ours


def pretraining_pair(size):
    # With mean pooling, theirs has no norm after its encoder.
    their_config, cfg = config_pair(size, "MaskedAutoencoder", use_mean_pooling=False)
    return transformers.VideoMAEForPreTraining(their_config), build_model(cfg)


def classification_pair(size):
    their_config, cfg = config_pair(size, "VideoClassifier", num_labels=CLASSES)
    return transformers.VideoMAEForVideoClassification(their_config), build_model(cfg).eval()


def randomize(model):
    """Scale weights to the size of trained ones, so that every error shows."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        scale = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.data = scale * noise + (name.endswith("weight") and parameter.ndim == 1)
        if name.endswith(("qkv.bias", "key.bias")):  # theirs has no key bias
            parameter.data.unflatten(0, (3, -1))[1] = 0
    return model.eval()


def assert_predictions_agree(ours, theirs, size):
    frames, pixels = SIZES[size]["clip"]
    theirs.decoder.norm.eps = 1e-6  # theirs uses PyTorch's default here
    # Between 0 and 1 as pixels are: theirs inverts the ImageNet normalization for the target.
    clip = torch.rand(1, 3, frames, pixels, pixels, generator=torch.Generator().manual_seed(1)) * 255
    video = ours.normalization(clip)
    mask = draw_mask(torch.tensor([3]), ours.backbone.grid(video), "tube", 0.9)
    out = theirs(video.transpose(1, 2), bool_masked_pos=mask)
    prediction, target = ours.reconstruct(video, mask)
    assert relative_error(prediction, out.logits) < 1e-4
    loss = torch.nn.functional.mse_loss(prediction, target)
    assert loss.item() == pytest.approx(out.loss.item(), rel=1e-6)
    loss.backward()
    out.loss.backward()
    _, gradients, _ = rename_to_published(
        {name: value.grad for name, value in ours.named_parameters()}, "huggingface"
    )
    for name, parameter in theirs.named_parameters():
        gradient = gradients[name.replace(".query.bias", ".q_bias").replace(".value.bias", ".v_bias")]
        assert gradient.norm().item() == pytest.approx(parameter.grad.norm().item(), rel=1e-3), name


def assert_logits_agree(ours, theirs, size):
    frames, pixels = SIZES[size]["clip"]
    video = torch.randn(1, 3, frames, pixels, pixels, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert relative_error(ours.logits(video), theirs(video.transpose(1, 2)).logits) < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_their_weights_in_our_models(size):
    for pair, compare in (
        (pretraining_pair, assert_predictions_agree),
        (classification_pair, assert_logits_agree),
    ):
        theirs, ours = pair(size)
        report = load_weights(ours, randomize(theirs).state_dict())
        assert report.format == "Hugging Face VideoMAE"
        assert not report.missing
        assert not report.unused
        compare(ours, theirs, size)


@pytest.mark.parametrize("size", SIZES)
def test_our_weights_in_their_models(size, tmp_path):
    for pair, compare in (
        (pretraining_pair, assert_predictions_agree),
        (classification_pair, assert_logits_agree),
    ):
        theirs, ours = pair(size)
        path = save_weights(randomize(ours).state_dict(), "", tmp_path / "ours.pt")
        folder = tmp_path / pair.__name__
        report = convert_weights(path, folder / "model.safetensors", "huggingface")
        assert not report.dropped
        theirs.config.save_pretrained(folder)
        theirs, loading = type(theirs).from_pretrained(folder, output_loading_info=True)
        assert not any(loading.values()), loading
        compare(ours, theirs.eval(), size)
