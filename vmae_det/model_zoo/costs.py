"""Cost of the networks of the published weights, by config: parameters and GFLOPs of `vmae-det inspect`."""

from __future__ import annotations

# Parameters in millions, and GFLOPs of one clip: multiply-adds of the whole model. In pre-training, the
# encoder processes only visible tokens. tests/model_zoo/test_costs.py checks them.
COSTS: dict[str, tuple[float, float]] = {
    "Kinetics/vit_base_16x4_pretrain.yaml": (94.2, 33.4),
    "Kinetics/vit_large_16x4_pretrain_as_published.yaml": (343.0, 139.9),
    "Kinetics/vit_small_16x4_finetune.yaml": (22.0, 57.0),
    "Kinetics/vit_base_16x4_finetune.yaml": (86.5, 180.5),
    "Kinetics/vit_large_16x4_finetune.yaml": (304.3, 597.2),
    "Kinetics/vit_huge_16x4_finetune.yaml": (632.2, 1191.6),
    "SSv2/vit_base_16x2_pretrain.yaml": (94.2, 33.4),
    "SSv2/vit_small_16x2_finetune.yaml": (22.0, 57.0),
    "SSv2/vit_base_16x2_finetune.yaml": (86.4, 180.5),
    "AVA/vit_small_16x4_as_published.yaml": (21.9, 57.0),
    "AVA/vit_small_16x4_from_kinetics_as_published.yaml": (21.9, 57.0),
    "AVA/vit_base_16x4_as_published.yaml": (86.3, 180.5),
    "AVA/vit_base_16x4_from_kinetics_as_published.yaml": (86.3, 180.5),
    "AVA/vit_base_16x4_mmaction2.yaml": (86.3, 180.5),
    "AVA/vit_large_16x4_mmaction2.yaml": (304.0, 597.2),
    "Kinetics/umt_base_8_k710.yaml": (86.2, 179.6),
    "Kinetics/umt_large_8_k710.yaml": (303.8, 596.0),
    "Kinetics/umt_base_8_finetune.yaml": (86.0, 179.6),
    "Kinetics/umt_large_8_finetune.yaml": (303.5, 596.0),
    "AVA/umt_base_8x37.yaml": (85.7, 179.6),
    "AVA/umt_large_8x37.yaml": (303.2, 596.0),
    "Kinetics/videomaev2_small_16x4_k710.yaml": (22.2, 57.0),
    "Kinetics/videomaev2_base_16x4_k710.yaml": (86.8, 180.5),
    "Kinetics/videomaev2_giant_16x4_pretrain.yaml": (1025.6, 234.6),
    "Kinetics/videomaev2_giant_16x4_k710.yaml": (1012.7, 2543.9),
    "Kinetics/mae_st_large_16x4_finetune.yaml": (304.3, 597.7),
    "Kinetics/mae_st_huge_16x4_finetune.yaml": (632.2, 1192.5),
    "Kinetics/image_mae_base_16x4_finetune.yaml": (86.5, 180.6),
    "Kinetics/image_mae_large_16x4_finetune.yaml": (304.3, 597.7),
    "Kinetics/image_vit_base_16x4_finetune.yaml": (86.5, 180.6),
    "Kinetics/hiera_base_16x4_finetune.yaml": (51.1, 101.9),
    "Kinetics/hiera_base_plus_16x4_finetune.yaml": (69.4, 132.5),
    "Kinetics/hiera_large_16x4_finetune.yaml": (213.1, 412.7),
    "Kinetics/hiera_huge_16x4_finetune.yaml": (671.6, 1158.8),
}
