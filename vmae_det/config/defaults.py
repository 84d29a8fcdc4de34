"""Every config key with its default, meaning, unit and range. Values as in the VideoMAE paper unless said."""

from __future__ import annotations

from vmae_det.config.node import CfgNode as CN


def get_cfg() -> CN:
    """A fresh copy of all defaults."""
    return _C.clone()


_C = CN()

# ---------------------------------------------------------------- model
_C.MODEL = CN()
# The network, and with it the task: MaskedAutoencoder (pre-training), VideoClassifier, ActionDetector.
_C.MODEL.META_ARCHITECTURE = "MaskedAutoencoder"
# cpu, cuda, or auto: cuda where there is one.
_C.MODEL.DEVICE = "auto"
# Weights of the whole model: a file of this program or a published one. Heads of another shape are refused.
_C.MODEL.WEIGHTS = ""
# Per channel (R, G, B), in units of 0..255. ImageNet's.
_C.MODEL.PIXEL_MEAN = (123.675, 116.28, 103.53)
_C.MODEL.PIXEL_STD = (58.395, 57.12, 57.375)
# torch.compile the transformer blocks: for GPUs; no gain on the CPU (docs/speed.md).
_C.MODEL.COMPILE = False
# Keep only the input of each block of the backbone for the backward pass, and work out the rest again there:
# the same losses from much less memory, for one forward pass of the blocks more (docs/speed.md).
_C.MODEL.ACTIVATION_CHECKPOINTING = False

_C.MODEL.BACKBONE = CN()
# A name of the backbone registry.
_C.MODEL.BACKBONE.NAME = "VideoViT"
# Width of a token; divisible by NUM_HEADS.
_C.MODEL.BACKBONE.EMBED_DIM = 768
# Number of transformer blocks, >= 1.
_C.MODEL.BACKBONE.DEPTH = 12
_C.MODEL.BACKBONE.NUM_HEADS = 12
# Hidden width of a block's MLP, as a multiple of EMBED_DIM.
_C.MODEL.BACKBONE.MLP_RATIO = 4.0
# A token covers TUBELET_SIZE frames of PATCH_SIZE x PATCH_SIZE pixels.
_C.MODEL.BACKBONE.PATCH_SIZE = 16
_C.MODEL.BACKBONE.TUBELET_SIZE = 2
# Sine-cosine positions: flat, of a token's number among all, as published; axes, of its time, row and column,
# from which a small model learns much faster.
_C.MODEL.BACKBONE.POSITIONS = "flat"
# Stochastic depth of the last block, rising linearly from 0 at the first; in [0, 1).
_C.MODEL.BACKBONE.DROP_PATH = 0.0
# Weights for the backbone alone, from any model with the same backbone: heads and decoder are left aside.
_C.MODEL.BACKBONE.CHECKPOINT = ""

_C.MODEL.DECODER = CN()
# The decoder of pre-training.
_C.MODEL.DECODER.EMBED_DIM = 384
_C.MODEL.DECODER.DEPTH = 4
_C.MODEL.DECODER.NUM_HEADS = 6
# Which of the masked tokens the decoder leaves out, as in VideoMAE V2: none, or running_cell, a pattern of
# 2 x 2 positions that moves on from time slice to time slice. MASK_RATIO: their fraction, in (0, 1).
_C.MODEL.DECODER.MASK = "none"
_C.MODEL.DECODER.MASK_RATIO = 0.5

_C.MODEL.MASK = CN()
# tube: the same positions in all time slices; random: any tokens; frame: whole time slices.
_C.MODEL.MASK.TYPE = "tube"
# Fraction of tokens (positions, slices) that is masked, in (0, 1); rounded down to a whole number.
_C.MODEL.MASK.RATIO = 0.9

_C.MODEL.RECONSTRUCTION = CN()
# Normalise the target of each cube by its own mean and deviation, per colour channel.
_C.MODEL.RECONSTRUCTION.NORMALIZE = True
# Frames that are predicted, and every how many frames of the video one is taken; they lie around the middle
# of the clip. 0: as INPUT has it. NUM_FRAMES is divisible by the clip's time slices, or 1: the frame in the
# middle alone, from the tokens of its time slice (for tube masks).
_C.MODEL.RECONSTRUCTION.NUM_FRAMES = 0
_C.MODEL.RECONSTRUCTION.SAMPLING_RATE = 0
# mse, l1 or smooth_l1, averaged over the values of masked cubes.
_C.MODEL.RECONSTRUCTION.LOSS = "mse"

_C.MODEL.CLASSIFIER = CN()
_C.MODEL.CLASSIFIER.NUM_CLASSES = 400
# Dropout before the last linear layer, in [0, 1).
_C.MODEL.CLASSIFIER.DROPOUT = 0.0
# In [0, 1).
_C.MODEL.CLASSIFIER.LABEL_SMOOTHING = 0.1
# Train the head alone, on frozen features.
_C.MODEL.CLASSIFIER.LINEAR_PROBE = False

_C.MODEL.ROI_HEAD = CN()
# A name of the RoI head registry.
_C.MODEL.ROI_HEAD.NAME = "MaxPoolRoIHead"
# Classes of the label map; 80 in AVA.
_C.MODEL.ROI_HEAD.NUM_CLASSES = 80
# RoIAlign: cells per side, samples per cell and side (0: adaptive), half-pixel alignment.
_C.MODEL.ROI_HEAD.RESOLUTION = 7
_C.MODEL.ROI_HEAD.SAMPLING_RATIO = 0
_C.MODEL.ROI_HEAD.ALIGNED = False
# Shift the borders of training boxes at random, by up to a fifth of their size outwards.
_C.MODEL.ROI_HEAD.BOX_JITTER = True
# Factors on width and height of a detected person's box.
_C.MODEL.ROI_HEAD.TEST_BOX_SCALE = (1.1, 1.05)
# Binary cross-entropy, mean over classes; over the boxes of a batch: sum or mean.
_C.MODEL.ROI_HEAD.LOSS = "sum"
# Dropout before the last linear layer, in [0, 1).
_C.MODEL.ROI_HEAD.DROPOUT = 0.0
# Multiply action scores by the score of the person box at test time.
_C.MODEL.ROI_HEAD.USE_PERSON_SCORE = True

# ---------------------------------------------------------------- input
_C.INPUT = CN()
# Frames of a clip, and every how many frames of the video one is taken.
_C.INPUT.NUM_FRAMES = 16
_C.INPUT.SAMPLING_RATE = 4
# How classification places the frames of a clip in a video: dense, every SAMPLING_RATE frames from one start;
# segments, one from each of NUM_FRAMES equal parts (Something-Something V2), SAMPLING_RATE aside.
_C.INPUT.SAMPLING = "dense"
# Side of the square training clip in pixels; divisible by PATCH_SIZE. It sets the grid of the position table.
_C.INPUT.CROP_SIZE = 224
# How a training crop is cut: multi_scale (corners and centre at CROP_SCALES of the short side, then resized),
# short_side (short side to TRAIN_SHORT_SIDE, then a random crop), resized (random area and aspect, then
# resized).
_C.INPUT.TRAIN_CROP = "multi_scale"
# For multi_scale: crop sides as fractions of the short side.
_C.INPUT.CROP_SCALES = (1.0, 0.875, 0.75, 0.66)
# For resized: range of the crop's area as a fraction of the frame, and of its aspect ratio.
_C.INPUT.CROP_AREA = (0.08, 1.0)
_C.INPUT.CROP_ASPECT = (0.75, 1.3333)
# For short_side: pixels, >= CROP_SIZE.
_C.INPUT.TRAIN_SHORT_SIDE = 256
# Short side of test clips, in pixels. Classification crops squares of CROP_SIZE, detection keeps the frame.
_C.INPUT.TEST_SHORT_SIDE = 256
# Probability of a horizontal flip in training; 0 where left and right matter (Something-Something V2).
_C.INPUT.FLIP = 0.5
# Strength of brightness, contrast and saturation jitter in training, in [0, 1).
_C.INPUT.COLOR_JITTER = 0.0
# Classification training: timm's RandAugment by its name, such as rand-m9-mstd0.5-inc1; empty: none. All
# frames of a clip are changed alike.
_C.INPUT.RAND_AUGMENT = ""
# Classification training: probability that a rectangle is erased, the same in all frames, in [0, 1].
_C.INPUT.RANDOM_ERASING = 0.0
# Classification training: alpha of mixup and cutmix, >= 0; 0: none. With both, each batch draws one of them.
_C.INPUT.MIXUP = 0.0
_C.INPUT.CUTMIX = 0.0

# ---------------------------------------------------------------- data
_C.DATASETS = CN()
# Names of the catalog, dataset files (YAML), or folders of videos (for pre-training).
_C.DATASETS.TRAIN = ()
_C.DATASETS.TEST = ()
# Where the catalog's datasets lie; empty: $VMAE_DET_DATASETS, else ./datasets.
_C.DATASETS.ROOT = ""

_C.DATALOADER = CN()
# Loader processes of each training process; 0 loads in the training process.
_C.DATALOADER.NUM_WORKERS = 4
# Detection training: decoded clips kept in memory by each loader process, in MB; 0: none.
_C.DATALOADER.CACHE_MB = 0
# A name of the reader registry; auto: PyAV (docs/readers.md).
_C.DATALOADER.READER = "auto"
# Decode frames that are larger than any crop needs at a smaller size: faster, above all from 1080p, and
# slightly other pixels than of whole frames made smaller.
_C.DATALOADER.DECODE_SMALLER = True
# Part of a dataset's videos that may be unreadable, in [0, 1]. They are logged; in training others take their
# place, in testing they are left out. Above it the run stops, after a checkpoint.
_C.DATALOADER.MAX_BAD_FRACTION = 0.01
# Seconds that the reading of one sample may take; a video that takes longer counts as unreadable.
_C.DATALOADER.TIMEOUT = 120.0
# Pre-training: clips that an epoch takes from each video; more than 1 for few, long videos.
_C.DATALOADER.CLIPS_PER_VIDEO = 1
# Training clips cut from each decoded video, each with crop and flip of its own.
_C.DATALOADER.REPEATED_AUG = 1

# ---------------------------------------------------------------- solver
_C.SOLVER = CN()
# adamw or sgd.
_C.SOLVER.OPTIMIZER = "adamw"
# Learning rates are per 256 videos of a batch: lr = BASE_LR * BATCH_SIZE / 256, MIN_LR and WARMUP_LR alike.
_C.SOLVER.BASE_LR = 1.5e-4
# At the end of the cosine.
_C.SOLVER.MIN_LR = 1e-5
# At the first step.
_C.SOLVER.WARMUP_LR = 0.0
# Videos of one optimizer step, over all processes and accumulated steps.
_C.SOLVER.BATCH_SIZE = 1024
# Passes over the training set; the warm-up may be a fraction.
_C.SOLVER.EPOCHS = 800
_C.SOLVER.WARMUP_EPOCHS = 40.0
# Not applied to biases and norms.
_C.SOLVER.WEIGHT_DECAY = 0.05
# AdamW's.
_C.SOLVER.BETAS = (0.9, 0.95)
# SGD's.
_C.SOLVER.MOMENTUM = 0.9
# Factor on the learning rate from each layer of the backbone to the one below, in (0, 1].
_C.SOLVER.LAYER_DECAY = 1.0
# Factor on the learning rate of all that lies outside of the backbone, above 0.
_C.SOLVER.HEAD_LR_FACTOR = 1.0
# Decay of a running average of the weights, which is then evaluated and saved, in [0, 1); 0: none.
_C.SOLVER.EMA_DECAY = 0.0
# Largest norm of the gradient; 0: no clipping.
_C.SOLVER.CLIP_GRAD = 0.0
# Mixed precision: none, bf16 or fp16 (with loss scaling).
_C.SOLVER.AMP = "none"
# How several processes share a model: ddp, each holds all of it; fsdp, each holds a part of every tensor (for
# models of which one device cannot hold weights, gradients and optimizer state), with checkpoints in parts.
_C.SOLVER.PARALLEL = "ddp"
# Forward and backward passes per optimizer step.
_C.SOLVER.ACCUMULATE = 1
# Epochs between checkpoints, and how many of them are kept.
_C.SOLVER.CHECKPOINT_PERIOD = 1
_C.SOLVER.KEEP_CHECKPOINTS = 3
# What a bad loss does: stop the run, with the checkpoints from before it; or skip the step, which leaves the
# weights as they are (a GPU then waits for each step's loss). Bad is a loss that is not finite or above
# MAX_LOSS; for skip, a gradient that is not finite, too, but not in fp16, whose scaling sees to that.
_C.SOLVER.ON_BAD_LOSS = "stop"
_C.SOLVER.MAX_LOSS = 1e4
# For skip: steps in a row that may be skipped; one more ends the run.
_C.SOLVER.MAX_SKIPPED = 10
# Steps between lines of the log.
_C.SOLVER.LOG_PERIOD = 10

# ---------------------------------------------------------------- test
_C.TEST = CN()
# Epochs between evaluations on DATASETS.TEST; 0: only after training.
_C.TEST.PERIOD = 0
# Of the metrics of these evaluations, the one that model_best.pt is chosen by; empty: the task's own,
# frame_mAP, top1 or reconstruction_loss. With several datasets a set's name leads it, as in results.json.
_C.TEST.BEST_METRIC = ""
# Clips of one batch and process.
_C.TEST.BATCH_SIZE = 8
# Classification: views of a video, clips in time x crops in space; scores are averaged.
_C.TEST.NUM_CLIPS = 5
_C.TEST.NUM_CROPS = 3
# Detection: person boxes below this score are dropped.
_C.TEST.PERSON_BOX_SCORE = 0.8
# Detection: protocol of frame-mAP, challenge or slowfast.
_C.TEST.PROTOCOL = "challenge"

# ---------------------------------------------------------------- people in a video
_C.PERSON_DETECTOR = CN()
# What finds people where their boxes are not given: a network of torchvision (fasterrcnn_resnet50_fpn_v2,
# fasterrcnn_mobilenet_v3_large_320_fpn, retinanet_resnet50_fpn_v2, ...), detectron2, or onnx
# (docs/person_detectors.md).
_C.PERSON_DETECTOR.NAME = "fasterrcnn_resnet50_fpn_v2"
# A file or address of weights; empty: those that torchvision or detectron2 publish, fetched once; random: of
# a network that has learned nothing. onnx: the ONNX file.
_C.PERSON_DETECTOR.WEIGHTS = ""
# detectron2: which network of its model zoo, trained on COCO.
_C.PERSON_DETECTOR.CONFIG = "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml"
# onnx: how the output is laid out, yolov5 (v7 too), yolov8 (and later) or end_to_end (overlaps removed);
# auto: by its shape.
_C.PERSON_DETECTOR.ONNX_LAYOUT = "auto"
# Boxes below this score are left out, in [0, 1]. RetinaNet's and YOLO's scores are lower than Faster R-CNN's.
_C.PERSON_DETECTOR.SCORE = 0.8
# People in one frame, at most: those of the highest scores.
_C.PERSON_DETECTOR.MAX_PEOPLE = 30
# Of two boxes that overlap by more than this IoU, in [0, 1], the worse one is left out.
_C.PERSON_DETECTOR.NMS_IOU = 0.5
# Short side, in pixels, to which frames are resized for the detector; 0: the network's own. onnx: the side of
# the square, where the file takes any size.
_C.PERSON_DETECTOR.SHORT_SIDE = 0
# Frames that the detector is given at once.
_C.PERSON_DETECTOR.BATCH_SIZE = 4

# ---------------------------------------------------------------- run
# Logs, checkpoints and results go here.
_C.OUTPUT_DIR = "output"
# Weights, order, augmentation and masks follow from it.
_C.SEED = 0

_C.WANDB = CN()
# The project of Weights & Biases that the numbers go to, too; empty: none.
_C.WANDB.PROJECT = ""
