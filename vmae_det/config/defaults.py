"""Every config key with its default, range, meaning and unit. Values as in the VideoMAE paper unless said."""

from __future__ import annotations

from vmae_det.config.ranges import (
    Group,
    Key,
    choice,
    flag,
    integer,
    low_and_high,
    number,
    registered,
    several,
    text,
)

# What timm's rand_augment_transform reads; of its own accord it passes over much that it cannot read.
_RAND_AUGMENT = (
    r"rand(-(m\d{1,3}|mmax\d{1,3}|n[1-9]|p(0|1|0?\.\d{1,9}|1\.0)|mstd\d{1,3}(\.\d{1,9})?|inc[01]"
    r"|t(weights|3a|3aw)))*"
)
_RAND_AUGMENT_FORM = (
    "rand-m9-mstd0.5-inc1, with m, mmax (magnitude, whole), n (operations, 1 to 9), p (probability), "
    "mstd (deviation), inc (0 or 1), t (weights, 3a or 3aw)"
)

_C = Group()

# ---------------------------------------------------------------- model
_C.MODEL = Group()
# The network, and with it the task: MaskedAutoencoder (pre-training), VideoClassifier, ActionDetector.
_C.MODEL.META_ARCHITECTURE = Key(
    "MaskedAutoencoder", registered("vmae_det.modeling:META_ARCHITECTURE_REGISTRY")
)
# cpu, cuda, or auto: cuda where there is one.
_C.MODEL.DEVICE = Key("auto", choice("auto", "cpu", "cuda"))
# Weights of the whole model: a file of this program or a published one. Heads of another shape are refused.
_C.MODEL.WEIGHTS = Key("", text())
# Per channel (R, G, B), in units of 0..255. ImageNet's.
_C.MODEL.PIXEL_MEAN = Key((123.675, 116.28, 103.53), several(number("[0, 255]"), 3))
_C.MODEL.PIXEL_STD = Key((58.395, 57.12, 57.375), several(number("[1, 255]"), 3))
# What patch embedding, mask token and detection head start from: xavier (Xavier uniform, normal of deviation
# 0.02), or published, as in the authors' programs (docs/guides/recipes.md).
_C.MODEL.INIT = Key("xavier", choice("xavier", "published"))
# torch.compile the transformer blocks: for GPUs; no gain on the CPU (docs/results/training_speed.md).
_C.MODEL.COMPILE = Key(False, flag())
# Keep only the input of each block of the backbone for the backward pass, and work out the rest again there:
# the same losses from much less memory, for one forward pass of the blocks more
# (docs/results/training_speed.md).
_C.MODEL.ACTIVATION_CHECKPOINTING = Key(False, flag())

_C.MODEL.BACKBONE = Group()
# A name of the backbone registry.
_C.MODEL.BACKBONE.NAME = Key("VideoViT", registered("vmae_det.modeling:BACKBONE_REGISTRY"))
# Width of a token; divisible by NUM_HEADS.
_C.MODEL.BACKBONE.EMBED_DIM = Key(768, integer("[2, 16384]"))
# Number of transformer blocks, >= 1.
_C.MODEL.BACKBONE.DEPTH = Key(12, integer("[1, 256]"))
_C.MODEL.BACKBONE.NUM_HEADS = Key(12, integer("[1, 256]"))
# Hidden width of a block's MLP, as a multiple of EMBED_DIM.
_C.MODEL.BACKBONE.MLP_RATIO = Key(4.0, number("(0, 64]"))
# A token covers TUBELET_SIZE frames of PATCH_SIZE x PATCH_SIZE pixels.
_C.MODEL.BACKBONE.PATCH_SIZE = Key(16, integer("[1, 256]"))
_C.MODEL.BACKBONE.TUBELET_SIZE = Key(2, integer("[1, 64]"))
# Sine-cosine positions: flat, of a token's number among all, as published; axes, of its time, row and column,
# from which a small model learns much faster.
_C.MODEL.BACKBONE.POSITIONS = Key("flat", choice("flat", "axes"))
# Stochastic depth of the last block, rising linearly from 0 at the first; in [0, 1).
_C.MODEL.BACKBONE.DROP_PATH = Key(0.0, number("[0, 1)"))
# Weights for the backbone alone, from any model with the same backbone: heads and decoder are left aside.
_C.MODEL.BACKBONE.CHECKPOINT = Key("", text())

_C.MODEL.DECODER = Group()
# The decoder of pre-training.
_C.MODEL.DECODER.EMBED_DIM = Key(384, integer("[2, 16384]"))
_C.MODEL.DECODER.DEPTH = Key(4, integer("[1, 256]"))
_C.MODEL.DECODER.NUM_HEADS = Key(6, integer("[1, 256]"))
# Which of the masked tokens the decoder leaves out, as in VideoMAE V2: none, or running_cell, a pattern of
# 2 x 2 positions that moves on from time slice to time slice. MASK_RATIO: their fraction, in (0, 1).
_C.MODEL.DECODER.MASK = Key("none", choice("none", "running_cell"))
_C.MODEL.DECODER.MASK_RATIO = Key(0.5, number("(0, 1)"))

_C.MODEL.MASK = Group()
# tube: the same positions in all time slices; random: any tokens; frame: whole time slices.
_C.MODEL.MASK.TYPE = Key("tube", choice("tube", "random", "frame"))
# Fraction of tokens (positions, slices) that is masked, in (0, 1); rounded down to a whole number.
_C.MODEL.MASK.RATIO = Key(0.9, number("(0, 1)"))

_C.MODEL.RECONSTRUCTION = Group()
# Normalise the target of each cube by its own mean and deviation, per colour channel.
_C.MODEL.RECONSTRUCTION.NORMALIZE = Key(True, flag())
# Frames that are predicted, and every how many frames of the video one is taken; they lie around the middle
# of the clip. 0: as INPUT has it. NUM_FRAMES is divisible by the clip's time slices, or 1: the frame in the
# middle alone, from the tokens of its time slice (for tube masks).
_C.MODEL.RECONSTRUCTION.NUM_FRAMES = Key(0, integer("[0, 1024]"))
_C.MODEL.RECONSTRUCTION.SAMPLING_RATE = Key(0, integer("[0, 1000]"))
# mse, l1 or smooth_l1, averaged over the values of masked cubes.
_C.MODEL.RECONSTRUCTION.LOSS = Key("mse", choice("mse", "l1", "smooth_l1"))

_C.MODEL.CLASSIFIER = Group()
# Classes of the label map; 400 in Kinetics-400.
_C.MODEL.CLASSIFIER.NUM_CLASSES = Key(400, integer("[1, 100000]"))
# Dropout before the last linear layer, in [0, 1).
_C.MODEL.CLASSIFIER.DROPOUT = Key(0.0, number("[0, 1)"))
# In [0, 1).
_C.MODEL.CLASSIFIER.LABEL_SMOOTHING = Key(0.1, number("[0, 1)"))
# Train the head alone, on frozen features.
_C.MODEL.CLASSIFIER.LINEAR_PROBE = Key(False, flag())

_C.MODEL.ROI_HEAD = Group()
# A name of the RoI head registry.
_C.MODEL.ROI_HEAD.NAME = Key("MaxPoolRoIHead", registered("vmae_det.modeling:ROI_HEAD_REGISTRY"))
# Classes of the label map; 80 in AVA.
_C.MODEL.ROI_HEAD.NUM_CLASSES = Key(80, integer("[1, 100000]"))
# RoIAlign: cells per side, samples per cell and side (0: adaptive), half-pixel alignment.
_C.MODEL.ROI_HEAD.RESOLUTION = Key(7, integer("[1, 64]"))
_C.MODEL.ROI_HEAD.SAMPLING_RATIO = Key(0, integer("[0, 16]"))
_C.MODEL.ROI_HEAD.ALIGNED = Key(False, flag())
# Shift the borders of training boxes at random, by up to a fifth of their size outwards.
_C.MODEL.ROI_HEAD.BOX_JITTER = Key(True, flag())
# Factors on width and height of a detected person's box.
_C.MODEL.ROI_HEAD.TEST_BOX_SCALE = Key((1.1, 1.05), several(number("[0.1, 10]"), 2))
# Binary cross-entropy, mean over classes; over the boxes of a batch: sum or mean.
_C.MODEL.ROI_HEAD.LOSS = Key("sum", choice("sum", "mean"))
# Dropout before the last linear layer, in [0, 1).
_C.MODEL.ROI_HEAD.DROPOUT = Key(0.0, number("[0, 1)"))
# Multiply action scores by the score of the person box at test time.
_C.MODEL.ROI_HEAD.USE_PERSON_SCORE = Key(True, flag())

# ---------------------------------------------------------------- input
_C.INPUT = Group()
# Frames of a clip, and every how many frames of the video one is taken.
_C.INPUT.NUM_FRAMES = Key(16, integer("[1, 1024]"))
_C.INPUT.SAMPLING_RATE = Key(4, integer("[1, 1000]"))
# How classification places the frames of a clip in a video: dense, every SAMPLING_RATE frames from one start;
# segments, one from each of NUM_FRAMES equal parts (Something-Something V2), SAMPLING_RATE aside.
_C.INPUT.SAMPLING = Key("dense", choice("dense", "segments"))
# Which frames a clip has and how sizes are rounded: centred, a keyframe in the middle of its clip and to the
# nearest pixel; published, as in the authors' programs (docs/guides/recipes.md); auto: published for a
# detector with MODEL.WEIGHTS from VideoMAE-Action-Detection, else centred.
_C.INPUT.CONVENTION = Key("auto", choice("auto", "centred", "published"))
# Side of the square training clip in pixels; divisible by PATCH_SIZE. It sets the grid of the position table.
_C.INPUT.CROP_SIZE = Key(224, integer("[1, 4096]"))
# How a training crop is cut: multi_scale (corners and centre at CROP_SCALES of the short side, then resized),
# short_side (short side to TRAIN_SHORT_SIDE, then a random crop), resized (random area and aspect, then
# resized).
_C.INPUT.TRAIN_CROP = Key("multi_scale", choice("multi_scale", "short_side", "resized"))
# For multi_scale: crop sides as fractions of the short side.
_C.INPUT.CROP_SCALES = Key((1.0, 0.875, 0.75, 0.66), several(number("[0.1, 1]"), 1, 100))
# For resized: range of the crop's area as a fraction of the frame, and of its aspect ratio.
_C.INPUT.CROP_AREA = Key((0.08, 1.0), low_and_high(number("[0.001, 1]")))
_C.INPUT.CROP_ASPECT = Key((0.75, 1.3333), low_and_high(number("[0.1, 10]")))
# For short_side: pixels, >= CROP_SIZE.
_C.INPUT.TRAIN_SHORT_SIDE = Key(256, integer("[1, 4096]"))
# Short side of test clips, in pixels. Classification crops squares of CROP_SIZE, detection keeps the frame.
_C.INPUT.TEST_SHORT_SIDE = Key(256, integer("[1, 4096]"))
# Probability of a horizontal flip in training; 0 where left and right matter (Something-Something V2).
_C.INPUT.FLIP = Key(0.5, number("[0, 1]"))
# Strength of brightness, contrast and saturation jitter in training, in [0, 1).
_C.INPUT.COLOR_JITTER = Key(0.0, number("[0, 1)"))
# Largest shift in training of the hue, in degrees, and of saturation and value, which go from 0 to 1.
_C.INPUT.HUE_JITTER = Key(0.0, number("[0, 180]"))
_C.INPUT.SATURATION_VALUE_JITTER = Key(0.0, number("[0, 1]"))
# Classification training: timm's RandAugment by its name, such as rand-m9-mstd0.5-inc1; empty: none. All
# frames of a clip are changed alike.
_C.INPUT.RAND_AUGMENT = Key("", text(pattern=_RAND_AUGMENT, form=_RAND_AUGMENT_FORM))
# Apply RandAugment to the whole frame, before the crop; slower.
_C.INPUT.RAND_AUGMENT_WHOLE_FRAME = Key(False, flag())
# Classification training: probability that a rectangle is erased, the same in all frames, in [0, 1].
_C.INPUT.RANDOM_ERASING = Key(0.0, number("[0, 1]"))
# Classification training: alpha of mixup and cutmix, >= 0; 0: none. With both, each batch draws one of them.
_C.INPUT.MIXUP = Key(0.0, number("[0, 1000]"))
_C.INPUT.CUTMIX = Key(0.0, number("[0, 1000]"))

# ---------------------------------------------------------------- data
_C.DATASETS = Group()
# Names of the catalog, dataset files (YAML), or folders of videos (for pre-training).
_C.DATASETS.TRAIN = Key((), several(text(blank=False), 0, 1000))
_C.DATASETS.TEST = Key((), several(text(blank=False), 0, 1000))
# Where the catalog's datasets lie; empty: $VMAE_DET_DATASETS, else ./datasets.
_C.DATASETS.ROOT = Key("", text())

_C.DATALOADER = Group()
# Loader processes of each training process; 0 loads in the training process.
_C.DATALOADER.NUM_WORKERS = Key(4, integer("[0, 512]"))
# Detection training: decoded clips kept in memory by each loader process, in MB; 0: none.
_C.DATALOADER.CACHE_MB = Key(0, integer("[0, 10000000]"))
# A name of the reader registry; auto: PyAV (docs/guides/readers.md).
_C.DATALOADER.READER = Key("auto", registered("vmae_det.video.readers:READER_REGISTRY", besides=("auto",)))
# Decode frames that are larger than any crop needs at a smaller size: faster, above all from 1080p, and
# slightly other pixels than of whole frames made smaller.
_C.DATALOADER.DECODE_SMALLER = Key(True, flag())
# Part of a dataset's videos that may be unreadable, in [0, 1]. They are logged; in training others take their
# place, in testing they are left out. Above it the run stops, after a checkpoint.
_C.DATALOADER.MAX_BAD_FRACTION = Key(0.01, number("[0, 1]"))
# Seconds that the reading of one sample may take; a video that takes longer counts as unreadable.
_C.DATALOADER.TIMEOUT = Key(120.0, number("(0, 1000000]"))
# Pre-training: clips that an epoch takes from each video; more than 1 for few, long videos.
_C.DATALOADER.CLIPS_PER_VIDEO = Key(1, integer("[1, 100000]"))
# Training clips cut from each decoded video, each with crop and flip of its own.
_C.DATALOADER.REPEATED_AUG = Key(1, integer("[1, 1000]"))

# ---------------------------------------------------------------- solver
_C.SOLVER = Group()
# adamw or sgd.
_C.SOLVER.OPTIMIZER = Key("adamw", choice("adamw", "sgd"))
# Learning rates are per 256 videos of a batch: lr = BASE_LR * BATCH_SIZE / 256, MIN_LR and WARMUP_LR alike.
_C.SOLVER.BASE_LR = Key(1.5e-4, number("[0, 1000]"))
# At the end of the cosine.
_C.SOLVER.MIN_LR = Key(1e-5, number("[0, 1000]"))
# At the first step.
_C.SOLVER.WARMUP_LR = Key(0.0, number("[0, 1000]"))
# Videos of one optimizer step, over all processes and accumulated steps.
_C.SOLVER.BATCH_SIZE = Key(1024, integer("[1, 1000000]"))
# Passes over the training set; the warm-up may be a fraction.
_C.SOLVER.EPOCHS = Key(800, integer("[1, 100000]"))
_C.SOLVER.WARMUP_EPOCHS = Key(40.0, number("[0, 100000]"))
# Not applied to biases and norms.
_C.SOLVER.WEIGHT_DECAY = Key(0.05, number("[0, 100]"))
# AdamW's.
_C.SOLVER.BETAS = Key((0.9, 0.95), several(number("[0, 1)"), 2))
# SGD's.
_C.SOLVER.MOMENTUM = Key(0.9, number("[0, 1)"))
# Factor on the learning rate from each layer of the backbone to the one below, in (0, 1].
_C.SOLVER.LAYER_DECAY = Key(1.0, number("(0, 1]"))
# Factor on the learning rate of all that lies outside of the backbone, above 0.
_C.SOLVER.HEAD_LR_FACTOR = Key(1.0, number("(0, 10000]"))
# Decay of a running average of the weights, which is then evaluated and saved, in [0, 1); 0: none.
_C.SOLVER.EMA_DECAY = Key(0.0, number("[0, 1)"))
# Largest norm of the gradient; 0: no clipping.
_C.SOLVER.CLIP_GRAD = Key(0.0, number("[0, 1000000]"))
# Mixed precision: none, bf16 or fp16 (with loss scaling).
_C.SOLVER.AMP = Key("none", choice("none", "bf16", "fp16"))
# How several processes share a model: ddp, each holds all of it; fsdp, each holds a part of every tensor (for
# models of which one device cannot hold weights, gradients and optimizer state), with checkpoints in parts.
_C.SOLVER.PARALLEL = Key("ddp", choice("ddp", "fsdp"))
# Forward and backward passes per optimizer step.
_C.SOLVER.ACCUMULATE = Key(1, integer("[1, 100000]"))
# Epochs between checkpoints, and how many of them are kept.
_C.SOLVER.CHECKPOINT_PERIOD = Key(1, integer("[1, 100000]"))
_C.SOLVER.KEEP_CHECKPOINTS = Key(3, integer("[1, 100000]"))
# What a bad loss does: stop the run, with the checkpoints from before it; or skip the step, which leaves the
# weights as they are (a GPU then waits for each step's loss). Bad is a loss that is not finite or above
# MAX_LOSS; for skip, a gradient that is not finite, too, but not in fp16, whose scaling sees to that.
_C.SOLVER.ON_BAD_LOSS = Key("stop", choice("stop", "skip"))
_C.SOLVER.MAX_LOSS = Key(1e4, number("(0, inf]"))
# For skip: steps in a row that may be skipped; one more ends the run.
_C.SOLVER.MAX_SKIPPED = Key(10, integer("[1, 1000000]"))
# Steps between lines of the log.
_C.SOLVER.LOG_PERIOD = Key(10, integer("[1, 1000000]"))

# ---------------------------------------------------------------- test
_C.TEST = Group()
# Epochs between evaluations on DATASETS.TEST; 0: only after training.
_C.TEST.PERIOD = Key(0, integer("[0, 100000]"))
# Of the metrics of these evaluations, the one that model_best.pt is chosen by; empty: the task's own,
# frame_mAP, top1 or reconstruction_loss. With several datasets a set's name leads it, as in results.json.
_C.TEST.BEST_METRIC = Key("", text())
# Clips of one batch and process.
_C.TEST.BATCH_SIZE = Key(8, integer("[1, 10000]"))
# Classification: views of a video, clips in time x crops in space; scores are averaged.
_C.TEST.NUM_CLIPS = Key(5, integer("[1, 1000]"))
_C.TEST.NUM_CROPS = Key(3, integer("[1, 100]"))
# Detection: person boxes below this score are dropped.
_C.TEST.PERSON_BOX_SCORE = Key(0.8, number("[0, 1]"))
# Detection: protocol of frame-mAP: challenge, slowfast or mmaction2.
_C.TEST.PROTOCOL = Key("challenge", choice("challenge", "slowfast", "mmaction2"))

# ---------------------------------------------------------------- people in a video
_C.PERSON_DETECTOR = Group()
# What finds people where their boxes are not given: a network of torchvision (fasterrcnn_resnet50_fpn_v2,
# fasterrcnn_mobilenet_v3_large_320_fpn, retinanet_resnet50_fpn_v2, ...), detectron2, or onnx
# (docs/guides/person_detectors.md).
_C.PERSON_DETECTOR.NAME = Key(
    "fasterrcnn_resnet50_fpn_v2", registered("vmae_det.inference.person_detectors:PERSON_DETECTOR_REGISTRY")
)
# A file or address of weights; empty: those that torchvision or detectron2 publish, fetched once; random: of
# a network that has learned nothing. onnx: the ONNX file.
_C.PERSON_DETECTOR.WEIGHTS = Key("", text())
# detectron2: a network of its model zoo, trained on COCO, or a YAML file of one's own, with its WEIGHTS.
_C.PERSON_DETECTOR.CONFIG = Key("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml", text())
# onnx: how the output is laid out, yolov5 (v7 too), yolov8 (and later) or end_to_end (overlaps removed);
# auto: by its shape, its values and the file's metadata.
_C.PERSON_DETECTOR.ONNX_LAYOUT = Key("auto", choice("auto", "yolov5", "yolov8", "end_to_end"))
# Boxes below this score are left out, in [0, 1]. RetinaNet's and YOLO's scores are lower than Faster R-CNN's.
_C.PERSON_DETECTOR.SCORE = Key(0.8, number("[0, 1]"))
# People in one frame, at most: those of the highest scores.
_C.PERSON_DETECTOR.MAX_PEOPLE = Key(30, integer("[1, 1000]"))
# Of two boxes that overlap by more than this IoU, in [0, 1], the worse one is left out.
_C.PERSON_DETECTOR.NMS_IOU = Key(0.5, number("[0, 1]"))
# Short side, in pixels, to which frames are resized for the detector; 0: the network's own. onnx: the side of
# the square, where the file takes any size; rounded up to its stride.
_C.PERSON_DETECTOR.SHORT_SIDE = Key(0, integer("[0, 4096]"))
# Frames that the detector is given at once.
_C.PERSON_DETECTOR.BATCH_SIZE = Key(4, integer("[1, 1000]"))

# ---------------------------------------------------------------- run
# Logs, checkpoints and results go here.
_C.OUTPUT_DIR = Key("output", text(blank=False))
# Weights, order, augmentation and masks follow from it.
_C.SEED = Key(0, integer("[0, 4294967295]"))

_C.WANDB = Group()
# The project of Weights & Biases that the numbers go to, too; empty: none.
_C.WANDB.PROJECT = Key("", text())

# All keys by their dotted names, in the order of this file.
KEYS: dict[str, Key] = dict(_C.keys())
