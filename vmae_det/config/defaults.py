"""Every config key with its default, range, meaning and unit. Defaults follow the VideoMAE paper."""

from __future__ import annotations

from vmae_det.config.ranges import (
    Group,
    Key,
    choice,
    flag,
    integer,
    integer_or_auto,
    low_and_high,
    number,
    path_text,
    registered,
    several,
    text,
)

# Names that timm's rand_augment_transform accepts. timm itself ignores much that it cannot parse.
_RAND_AUGMENT = (
    r"rand(-(m\d{1,3}|mmax\d{1,3}|n[1-9]|p(0|1|0?\.\d{1,9}|1\.0)|mstd\d{1,3}(\.\d{1,9})?|inc[01]"
    r"|t(weights|3a|3aw)))*"
)
_RAND_AUGMENT_FORM = (
    "rand-m9-mstd0.5-inc1, with m, mmax (magnitude, integer), n (operations, 1 to 9), p (probability), "
    "mstd (deviation), inc (0 or 1), t (weights, 3a or 3aw)"
)

_C = Group()

# ---------------------------------------------------------------- model
_C.MODEL = Group()
# Model, which determines the task: MaskedAutoencoder or MoCoV3 (pre-training), VideoClassifier or
# ActionDetector.
_C.MODEL.META_ARCHITECTURE = Key(
    "MaskedAutoencoder", registered("vmae_det.modeling:META_ARCHITECTURE_REGISTRY", method="from_config")
)
# auto: cuda if available, otherwise cpu. mps, the GPU of an Apple computer, is accepted but untested.
_C.MODEL.DEVICE = Key("auto", choice("auto", "cpu", "cuda", "mps"))
# Weights of the full model: file, URL or name. A head of another shape is an error.
_C.MODEL.WEIGHTS = Key("", path_text())
# Pixel statistics of each channel (R, G, B), in units of 0..255. The defaults are ImageNet's.
_C.MODEL.PIXEL_MEAN = Key((123.675, 116.28, 103.53), several(number("[0, 255]"), 3))
_C.MODEL.PIXEL_STD = Key((58.395, 57.12, 57.375), several(number("[1, 255]"), 3))
# Initialization of patch embedding, mask token and detection head. xavier: Xavier uniform, and normal with
# standard deviation 0.02. published: as in the authors' programs (docs/guides/recipes.md).
_C.MODEL.INIT = Key("xavier", choice("xavier", "published"))
# Compile the model with torch.compile. No gain on a CPU (docs/results/training_speed.md).
_C.MODEL.COMPILE = Key(False, flag())
# For COMPILE. block: each transformer block. stack: encoder, decoder and loss, each as one graph, which takes
# longer to compile. With several processes, stack delays the exchange of gradients until the backward pass of
# the encoder is complete. SOLVER.PARALLEL fsdp needs block.
_C.MODEL.COMPILE_SCOPE = Key("block", choice("block", "stack"))
# Replay encoder and decoder as CUDA graphs, which saves the time of starting kernels if the model or the
# batch is small. Needs COMPILE_SCOPE stack and SOLVER.ACCUMULATE 1. No effect on a CPU.
_C.MODEL.CUDA_GRAPHS = Key(False, flag())
# Store only the input of each backbone block for the backward pass, and recompute the rest: the same losses,
# much less memory, and one more forward pass of the blocks (docs/results/training_speed.md).
_C.MODEL.ACTIVATION_CHECKPOINTING = Key(False, flag())

_C.MODEL.BACKBONE = Group()
# Backbone. VideoViT: VideoMAE's, with a table of positions. VJepa2ViT, VJepa21ViT: those of V-JEPA 2 and 2.1,
# with rotary positions; POSITIONS is then only the table of the pre-training decoder. Hiera: hierarchical,
# with learned positions and without pre-training; it needs the extra hiera.
_C.MODEL.BACKBONE.NAME = Key(
    "VideoViT", registered("vmae_det.modeling:BACKBONE_REGISTRY", method="from_config")
)
# Dimension of a token. Must be divisible by NUM_HEADS.
_C.MODEL.BACKBONE.EMBED_DIM = Key(768, integer("[2, 16384]"))
# Number of transformer blocks, and of attention heads in each block.
_C.MODEL.BACKBONE.DEPTH = Key(12, integer("[1, 256]"))
_C.MODEL.BACKBONE.NUM_HEADS = Key(12, integer("[1, 256]"))
# For Hiera: blocks of each of its four stages, such as (2, 3, 16, 3). DEPTH is their sum; EMBED_DIM and
# NUM_HEADS are those of the last stage.
_C.MODEL.BACKBONE.STAGES = Key((), several(integer("[1, 256]"), 0, 4))
# Hidden dimension of a block's MLP, as a multiple of EMBED_DIM.
_C.MODEL.BACKBONE.MLP_RATIO = Key(4.0, number("(0, 64]"))
# A token covers TUBELET_SIZE frames of PATCH_SIZE x PATCH_SIZE pixels.
_C.MODEL.BACKBONE.PATCH_SIZE = Key(16, integer("[1, 256]"))
_C.MODEL.BACKBONE.TUBELET_SIZE = Key(2, integer("[1, 64]"))
# Sine-cosine position embedding. flat: embeds the index of a token, as published. axes: embeds its time, row
# and column; a small model learns much faster with it. Not for Hiera.
_C.MODEL.BACKBONE.POSITIONS = Key("flat", choice("flat", "axes"))
# For VideoViT: add a class token, which takes part in attention and is dropped from the output. For weights
# that were trained with one, such as image ViTs and MAE-ST.
_C.MODEL.BACKBONE.CLASS_TOKEN = Key(False, flag())
# Drop path rate of the last block. It increases linearly from 0 at the first block.
_C.MODEL.BACKBONE.DROP_PATH = Key(0.0, number("[0, 1)"))
# Token dropout (docs/guides/token_dropout.md): each of TOKEN_DROP_BLOCKS keeps this fraction of the tokens,
# among them all of the keyframe. 1: off. It adds no parameters, so that it can be set at test time alone. Not
# for Hiera, and not for pre-training.
_C.MODEL.BACKBONE.TOKEN_KEEP_RATE = Key(1.0, number("(0, 1]"))
# Blocks that drop tokens, counted from 1. Empty: 4, 7 and 10 of 12, and in proportion for other depths.
_C.MODEL.BACKBONE.TOKEN_DROP_BLOCKS = Key((), several(integer("[1, 256]"), 0, 256))
# Weights of the backbone: file, URL or name of any model with this backbone. Heads and decoder are ignored.
_C.MODEL.BACKBONE.CHECKPOINT = Key("", path_text())

_C.MODEL.DECODER = Group()
# Dimension, blocks and attention heads of the pre-training decoder.
_C.MODEL.DECODER.EMBED_DIM = Key(384, integer("[2, 16384]"))
_C.MODEL.DECODER.DEPTH = Key(4, integer("[1, 256]"))
_C.MODEL.DECODER.NUM_HEADS = Key(6, integer("[1, 256]"))
# Masked tokens that the decoder skips, as in VideoMAE V2: none, or running_cell, a pattern of 2 x 2 positions
# that moves from time slice to time slice. MASK_RATIO is their fraction.
_C.MODEL.DECODER.MASK = Key("none", choice("none", "running_cell"))
_C.MODEL.DECODER.MASK_RATIO = Key(0.5, number("(0, 1)"))

_C.MODEL.MASK = Group()
# tube: the same positions in all time slices; random: any tokens; frame: entire time slices.
_C.MODEL.MASK.TYPE = Key("tube", choice("tube", "random", "frame"))
# Fraction of tokens (tube: positions, frame: slices) that is masked, rounded down to an integer.
_C.MODEL.MASK.RATIO = Key(0.9, number("(0, 1)"))

_C.MODEL.RECONSTRUCTION = Group()
# Normalize the target of each cube by its own mean and standard deviation, for each color channel.
_C.MODEL.RECONSTRUCTION.NORMALIZE = Key(True, flag())
# Target frames: their number and stride, around the center of the clip. 0: as in INPUT. NUM_FRAMES must be
# divisible by the number of time slices of the clip, or 1. With 1, only the center frame is predicted, by the
# tokens of its time slice (tube masks only).
_C.MODEL.RECONSTRUCTION.NUM_FRAMES = Key(0, integer("[0, 1024]"))
_C.MODEL.RECONSTRUCTION.SAMPLING_RATE = Key(0, integer("[0, 1000]"))
# Loss, averaged over the values of masked cubes.
_C.MODEL.RECONSTRUCTION.LOSS = Key("mse", choice("mse", "l1", "smooth_l1"))

_C.MODEL.MOCO = Group()
# MoCo v3: width of the hidden layers of projector and predictor, and of queries and keys.
_C.MODEL.MOCO.HIDDEN_DIM = Key(4096, integer("[1, 65536]"))
_C.MODEL.MOCO.OUT_DIM = Key(256, integer("[1, 16384]"))
# Temperature of the softmax over the keys of all videos of a batch.
_C.MODEL.MOCO.TEMPERATURE = Key(0.2, number("[0.001, 100]"))
# Momentum of the momentum encoder in the first step. It increases to 1 by half a cosine.
_C.MODEL.MOCO.MOMENTUM = Key(0.99, number("[0, 1]"))
# Keep the patch embedding as it is initialized, which makes training stable.
_C.MODEL.MOCO.FREEZE_PATCH_EMBEDDING = Key(True, flag())

_C.MODEL.CLASSIFIER = Group()
# Classes of the label map; 400 in Kinetics-400. auto: those of MODEL.WEIGHTS, otherwise of the first training
# set with a label map. A list of videos without a label map has its largest label + 1.
_C.MODEL.CLASSIFIER.NUM_CLASSES = Key(400, integer_or_auto("[1, 100000]"))
# Dropout before the last linear layer.
_C.MODEL.CLASSIFIER.DROPOUT = Key(0.0, number("[0, 1)"))
# Label smoothing of the cross-entropy.
_C.MODEL.CLASSIFIER.LABEL_SMOOTHING = Key(0.1, number("[0, 1)"))
# Train only the head, on frozen features.
_C.MODEL.CLASSIFIER.LINEAR_PROBE = Key(False, flag())

_C.MODEL.ROI_HEAD = Group()
# RoI head. MaxPoolRoIHead pools each person's region. AttentionRoIHead then attends from the persons to the
# tokens of the clip and to one another.
_C.MODEL.ROI_HEAD.NAME = Key(
    "MaxPoolRoIHead", registered("vmae_det.modeling:ROI_HEAD_REGISTRY", method="from_config")
)
# Classes of the label map; 80 in AVA. auto: those of MODEL.WEIGHTS, otherwise of the first training set.
_C.MODEL.ROI_HEAD.NUM_CLASSES = Key(80, integer_or_auto("[1, 100000]"))
# RoIAlign: output cells per side, sampling points per cell and side (0: adaptive), half-pixel alignment.
_C.MODEL.ROI_HEAD.RESOLUTION = Key(7, integer("[1, 64]"))
_C.MODEL.ROI_HEAD.SAMPLING_RATIO = Key(0, integer("[0, 16]"))
_C.MODEL.ROI_HEAD.ALIGNED = Key(False, flag())
# Pooling of the tokens over time, before RoIAlign.
_C.MODEL.ROI_HEAD.TEMPORAL_POOL = Key("mean", choice("mean", "max"))
# Append the pooled features of the whole frame to those of each person.
_C.MODEL.ROI_HEAD.CONTEXT = Key(False, flag())
# Linear layers of the classifier, with ReLU between them, and the width of the hidden ones. 0: the width
# of the pooled features.
_C.MODEL.ROI_HEAD.NUM_LAYERS = Key(1, integer("[1, 4]"))
_C.MODEL.ROI_HEAD.HIDDEN_DIM = Key(0, integer("[0, 16384]"))
# For AttentionRoIHead: its blocks, and the attention heads of each block.
_C.MODEL.ROI_HEAD.ATTENTION_LAYERS = Key(1, integer("[1, 2]"))
_C.MODEL.ROI_HEAD.ATTENTION_HEADS = Key(8, integer("[1, 256]"))
# Shift the sides of training boxes randomly, outwards by up to a fifth of the size of the box.
_C.MODEL.ROI_HEAD.BOX_JITTER = Key(True, flag())
# Factors for width and height of detected person boxes at test time.
_C.MODEL.ROI_HEAD.TEST_BOX_SCALE = Key((1.1, 1.05), several(number("[0.1, 10]"), 2))
# Reduction of the binary cross-entropy over the boxes of a batch. Over classes it is the mean.
_C.MODEL.ROI_HEAD.LOSS = Key("sum", choice("sum", "mean"))
# Focal loss: the cross-entropy is multiplied by FOCAL_ALPHA (1 - p)^FOCAL_GAMMA, where p is the probability
# that the model gives to the label. As in mmaction2, FOCAL_ALPHA is one factor for all labels. 0 and 1: off.
_C.MODEL.ROI_HEAD.FOCAL_GAMMA = Key(0.0, number("[0, 10]"))
_C.MODEL.ROI_HEAD.FOCAL_ALPHA = Key(1.0, number("(0, 100]"))
# Dropout before the last linear layer.
_C.MODEL.ROI_HEAD.DROPOUT = Key(0.0, number("[0, 1)"))
# Multiply action scores by the score of the person box at test time.
_C.MODEL.ROI_HEAD.USE_PERSON_SCORE = Key(True, flag())

_C.MODEL.PERSON_HEAD = Group()
# Person head, which finds the people of a keyframe, so that a detector needs no person boxes
# (docs/guides/one_stage.md): FcosPersonHead. Empty: none.
_C.MODEL.PERSON_HEAD.NAME = Key(
    "", registered("vmae_det.modeling:PERSON_HEAD_REGISTRY", extra_choices=("",), method="from_config")
)
# Scales of the maps, in cells per patch and side, from the finest to the coarsest: successive ones of 4, 2, 1
# and 0.5. The finest ones cost most, and small frames hardly need them.
_C.MODEL.PERSON_HEAD.SCALES = Key((4.0, 2.0, 1.0, 0.5), several(number("[0.5, 4]"), 1, 4))
# Numbers of the blocks of the backbone whose tokens the head takes, one for each map. Empty: evenly spread,
# 3, 6, 9 and 12 of 12 blocks.
_C.MODEL.PERSON_HEAD.BLOCKS = Key((), several(integer("[1, 256]"), 0, 4))
# Channels of the maps, and convolutions of each of the two towers on them.
_C.MODEL.PERSON_HEAD.CHANNELS = Key(256, integer("[1, 4096]"))
_C.MODEL.PERSON_HEAD.NUM_CONVS = Key(4, integer("[1, 16]"))
# Largest distance, in cells of a map, from a cell to the farthest side of a person whom it finds. The maps
# divide the people by it: with 16 and patches of 16 pixels, up to 64, 128, 256 and more pixels (published).
_C.MODEL.PERSON_HEAD.MAX_DISTANCE = Key(16.0, number("[1, 1000]"))
# Factor of the losses of the head: of the class, the box and the centerness.
_C.MODEL.PERSON_HEAD.LOSS_WEIGHT = Key(1.0, number("(0, 1000]"))
# Person boxes below this score are dropped.
_C.MODEL.PERSON_HEAD.SCORE_THRESHOLD = Key(0.35, number("[0, 1]"))
# Non-maximum suppression: of two boxes with an IoU above this, the one with the lower score is dropped.
_C.MODEL.PERSON_HEAD.NMS = Key(0.3, number("[0, 1]"))
# Largest number of people in a keyframe. Those with the highest scores are kept.
_C.MODEL.PERSON_HEAD.MAX_PERSONS = Key(30, integer("[1, 1000]"))
# Train only the person head, on the frozen detector of MODEL.WEIGHTS.
_C.MODEL.PERSON_HEAD.TRAIN_ALONE = Key(False, flag())

# ---------------------------------------------------------------- input
_C.INPUT = Group()
# Frames of a clip, and their stride in the video.
_C.INPUT.NUM_FRAMES = Key(16, integer("[1, 1024]"))
_C.INPUT.SAMPLING_RATE = Key(4, integer("[1, 1000]"))
# Frame sampling of classification. dense: every SAMPLING_RATE-th frame. segments: one frame from each of
# NUM_FRAMES equal parts of the video (Something-Something V2); SAMPLING_RATE is ignored.
_C.INPUT.SAMPLING = Key("dense", choice("dense", "segments"))
# Frame selection and rounding of sizes. centred: the keyframe is in the middle of its clip, sizes are rounded
# to the nearest pixel. published: as in the authors' programs (docs/guides/recipes.md). auto: published for a
# detector with MODEL.WEIGHTS from VideoMAE-Action-Detection, otherwise centred.
_C.INPUT.CONVENTION = Key("auto", choice("auto", "centred", "published"))
# Side of the square training clip, in pixels. Must be divisible by PATCH_SIZE. Sets the position table.
_C.INPUT.CROP_SIZE = Key(224, integer("[1, 4096]"))
# Training crop. multi_scale: corners or center, with CROP_SCALES of the short side, then resized. short_side:
# short side resized to TRAIN_SHORT_SIDE, then a random crop. resized: random area and aspect ratio, then
# resized.
_C.INPUT.TRAIN_CROP = Key("multi_scale", choice("multi_scale", "short_side", "resized"))
# For multi_scale: crop sides as fractions of the short side.
_C.INPUT.CROP_SCALES = Key((1.0, 0.875, 0.75, 0.66), several(number("[0.1, 1]"), 1, 100))
# For resized: range of the area as a fraction of the frame, and of the aspect ratio.
_C.INPUT.CROP_AREA = Key((0.08, 1.0), low_and_high(number("[0.001, 1]")))
_C.INPUT.CROP_ASPECT = Key((0.75, 1.3333), low_and_high(number("[0.1, 10]")))
# For short_side: the resized short side in pixels, at least CROP_SIZE.
_C.INPUT.TRAIN_SHORT_SIDE = Key(256, integer("[1, 4096]"))
# Short side of test clips, in pixels. Classification crops squares of CROP_SIZE. Detection uses the frame.
_C.INPUT.TEST_SHORT_SIDE = Key(256, integer("[1, 4096]"))
# Probability of a horizontal flip in training. Use 0 if left and right matter (Something-Something V2).
_C.INPUT.FLIP = Key(0.5, number("[0, 1]"))
# Strength of brightness, contrast and saturation jitter in training.
_C.INPUT.COLOR_JITTER = Key(0.0, number("[0, 1)"))
# Largest shift in training: of the hue in degrees, and of saturation and value, which range from 0 to 1.
_C.INPUT.HUE_JITTER = Key(0.0, number("[0, 180]"))
_C.INPUT.SATURATION_VALUE_JITTER = Key(0.0, number("[0, 1]"))
# Classification training: RandAugment with timm's syntax, such as rand-m9-mstd0.5-inc1. Empty: none. All
# frames of a clip get the same operations.
_C.INPUT.RAND_AUGMENT = Key("", text(pattern=_RAND_AUGMENT, form=_RAND_AUGMENT_FORM))
# Apply RandAugment to the whole frame before the crop. Slower.
_C.INPUT.RAND_AUGMENT_WHOLE_FRAME = Key(False, flag())
# Classification training: probability that a rectangle is erased, the same in all frames.
_C.INPUT.RANDOM_ERASING = Key(0.0, number("[0, 1]"))
# Classification training: alpha of mixup and cutmix. 0: off. If both are on, each group draws one of them.
_C.INPUT.MIXUP = Key(0.0, number("[0, 1000]"))
_C.INPUT.CUTMIX = Key(0.0, number("[0, 1000]"))

# ---------------------------------------------------------------- data
_C.DATASETS = Group()
# Names of the catalog, dataset files (YAML), or folders or shards of videos (for pre-training).
_C.DATASETS.TRAIN = Key((), several(path_text(blank=False), 0, 1000))
_C.DATASETS.TEST = Key((), several(path_text(blank=False), 0, 1000))
# Weight of each dataset of TRAIN: its samples in an epoch are proportional to it. Empty: to its size.
_C.DATASETS.TRAIN_WEIGHTS = Key((), several(number("(0, 1000000]"), 0, 1000))
# Fraction of the videos of each dataset of TRAIN to train on; of each class in classification. The choice is
# fixed: it does not depend on SEED, and a larger fraction contains the videos of a smaller one.
_C.DATASETS.TRAIN_FRACTION = Key(1.0, number("(0, 1]"))
# Folder of the catalog's datasets. Empty: $VMAE_DET_DATASETS, otherwise ./datasets.
_C.DATASETS.ROOT = Key("", path_text())
# Detection training: add persons of person_boxes that match no annotated box (IoU below 0.3), with all
# labels 0. annotated_keyframes: in keyframes that the annotations name. all_keyframes: in each keyframe of an
# annotated video that is not excluded (docs/guides/detection.md).
_C.DATASETS.NEGATIVE_PERSONS = Key("none", choice("none", "annotated_keyframes", "all_keyframes"))
# Lowest score of such a person box.
_C.DATASETS.NEGATIVE_PERSON_SCORE = Key(0.8, number("[0, 1]"))

_C.DATALOADER = Group()
# Loader workers of each training process. 0: load in the training process.
_C.DATALOADER.NUM_WORKERS = Key(4, integer("[0, 512]"))
# Training: cache of decoded frames in each loader worker, in MB: the clips of keyframes for detection, entire
# videos otherwise. 0: no cache.
_C.DATALOADER.CACHE_MB = Key(0, integer("[0, 10000000]"))
# Video reader (docs/guides/readers.md). auto: PyAV. nvdec decodes on the GPU.
_C.DATALOADER.READER = Key(
    "auto", registered("vmae_det.video.readers:READER_REGISTRY", extra_choices=("auto",))
)
# Decode frames that are larger than any crop needs at a reduced size. Faster, especially for 1080p. The
# pixels differ slightly from those of full frames that are resized afterwards.
_C.DATALOADER.DECODE_SMALLER = Key(True, flag())
# Fraction of a dataset's videos that may be unreadable. They are logged, replaced by others in training, and
# skipped in testing. Above this fraction, the run saves a checkpoint and stops.
_C.DATALOADER.MAX_BAD_FRACTION = Key(0.01, number("[0, 1]"))
# Timeout for reading one sample, in seconds. A video that takes longer counts as unreadable. Loader workers
# enforce it; with NUM_WORKERS 0 there is no timeout.
_C.DATALOADER.TIMEOUT = Key(120.0, number("(0, 1000000]"))
# Pre-training: clips from each video in an epoch. Use more than 1 for few, long videos.
_C.DATALOADER.CLIPS_PER_VIDEO = Key(1, integer("[1, 100000]"))
# Repeated augmentation: training clips cut from each decoded video, each with its own crop and flip.
_C.DATALOADER.REPEATED_AUG = Key(1, integer("[1, 1000]"))

# ---------------------------------------------------------------- solver
_C.SOLVER = Group()
# Optimizer.
_C.SOLVER.OPTIMIZER = Key("adamw", choice("adamw", "sgd"))
# Peak learning rate per 256 videos: lr = BASE_LR * BATCH_SIZE / 256. MIN_LR and WARMUP_LR are scaled too.
_C.SOLVER.BASE_LR = Key(1.5e-4, number("[0, 1000]"))
# Learning rate at the end of the cosine schedule, per 256 videos.
_C.SOLVER.MIN_LR = Key(1e-5, number("[0, 1000]"))
# Learning rate at the first step, per 256 videos.
_C.SOLVER.WARMUP_LR = Key(0.0, number("[0, 1000]"))
# Videos of one optimizer step, over all processes and accumulated passes.
_C.SOLVER.BATCH_SIZE = Key(1024, integer("[1, 1000000]"))
# Epochs of training, and of warm-up, which may be a fraction. An epoch is a pass over the training set.
_C.SOLVER.EPOCHS = Key(800, integer("[1, 100000]"))
_C.SOLVER.WARMUP_EPOCHS = Key(40.0, number("[0, 100000]"))
# Weight decay. Not applied to biases, norms, single tokens and learned position tables.
_C.SOLVER.WEIGHT_DECAY = Key(0.05, number("[0, 100]"))
# Betas of AdamW.
_C.SOLVER.BETAS = Key((0.9, 0.95), several(number("[0, 1)"), 2))
# Momentum of SGD.
_C.SOLVER.MOMENTUM = Key(0.9, number("[0, 1)"))
# Layer-wise decay: factor of the learning rate from each layer of the backbone to the one below it.
_C.SOLVER.LAYER_DECAY = Key(1.0, number("(0, 1]"))
# Factor of the learning rate of all parameters outside of the backbone, except the person head.
_C.SOLVER.HEAD_LR_FACTOR = Key(1.0, number("(0, 10000]"))
# Weights of the classes in the loss, from their numbers n of training labels: proportional to 1 / sqrt(n) or
# to 1 / n, for classes that are rare. Classification: of a clip, by its class; the mean over clips is 1.
# Detection: of a class in the mean over classes; the mean over classes is 1. A class without labels has 1.
_C.SOLVER.CLASS_BALANCE = Key("none", choice("none", "inverse_sqrt", "inverse"))
# Decay of the exponential moving average (EMA) of the weights, which is evaluated and saved. 0: no EMA.
_C.SOLVER.EMA_DECAY = Key(0.0, number("[0, 1)"))
# Largest norm of the gradient. 0: no clipping.
_C.SOLVER.CLIP_GRAD = Key(0.0, number("[0, 1000000]"))
# Mixed precision. fp16 uses loss scaling.
_C.SOLVER.AMP = Key("none", choice("none", "bf16", "fp16"))
# Parallelism. ddp: each process has the full model. fsdp: tensors and checkpoints are sharded (FSDP2), for
# models whose weights, gradients and optimizer state do not fit on one device.
_C.SOLVER.PARALLEL = Key("ddp", choice("ddp", "fsdp"))
# Forward and backward passes per optimizer step.
_C.SOLVER.ACCUMULATE = Key(1, integer("[1, 100000]"))
# Epochs between checkpoints, and number of checkpoints to keep.
_C.SOLVER.CHECKPOINT_PERIOD = Key(1, integer("[1, 100000]"))
_C.SOLVER.KEEP_CHECKPOINTS = Key(3, integer("[1, 100000]"))
# Action on a loss that is not finite or above MAX_LOSS. stop: end the run; earlier checkpoints are kept.
# skip: skip the optimizer step; a GPU then waits for the loss of each step. skip also checks that the
# gradient is finite, except in fp16, where the loss scaling handles it.
_C.SOLVER.ON_BAD_LOSS = Key("stop", choice("stop", "skip"))
_C.SOLVER.MAX_LOSS = Key(1e4, number("(0, inf]"))
# For skip: steps in a row that may be skipped. One more ends the run.
_C.SOLVER.MAX_SKIPPED = Key(10, integer("[1, 1000000]"))
# Steps between lines of the log.
_C.SOLVER.LOG_PERIOD = Key(10, integer("[1, 1000000]"))

# ---------------------------------------------------------------- test
_C.TEST = Group()
# Epochs between evaluations on DATASETS.TEST. 0: only after training.
_C.TEST.PERIOD = Key(0, integer("[0, 100000]"))
# Metric that selects model_best.pt. Empty: the metric of the task (frame_mAP, top1, reconstruction_loss or
# knn_top1).
# With several datasets, the metric is prefixed by a dataset's name, as in results.json.
_C.TEST.BEST_METRIC = Key("", text())
# Early stop: evaluations without improvement of the best metric after which training stops. 0: never. With a
# value above 0, model_final.pt contains the weights of the best evaluation. Needs PERIOD.
_C.TEST.PATIENCE = Key(0, integer("[0, 100000]"))
# Clips of a batch in each process.
_C.TEST.BATCH_SIZE = Key(8, integer("[1, 10000]"))
# Classification: views of a video, clips in time x crops in space. Their scores are averaged.
_C.TEST.NUM_CLIPS = Key(5, integer("[1, 1000]"))
_C.TEST.NUM_CROPS = Key(3, integer("[1, 100]"))
# MoCo v3: DATASETS.TEST measures the kNN accuracy of the features. Number of neighbors, and the labeled
# dataset that they are from, such as the training set. Empty: the other clips of the test set.
_C.TEST.KNN = Key(20, integer("[1, 100000]"))
_C.TEST.KNN_BANK = Key("", path_text())
# Detection: test-time augmentation. A keyframe is scored at each of these short sides, in pixels, and the
# scores are averaged. Empty: INPUT.TEST_SHORT_SIDE. FLIP also scores each one flipped horizontally.
_C.TEST.SHORT_SIDES = Key((), several(integer("[1, 4096]"), 0, 100))
_C.TEST.FLIP = Key(False, flag())
# Detection: person boxes to test with. dataset: the person_boxes of the dataset. model: those that the model
# finds in the keyframes of the annotations. auto: model if it has a person head, otherwise dataset.
_C.TEST.PERSON_BOXES = Key("auto", choice("auto", "dataset", "model"))
# Detection: person boxes of a dataset below this score are dropped.
_C.TEST.PERSON_BOX_SCORE = Key(0.8, number("[0, 1]"))
# Detection: protocol of frame-mAP (docs/guides/evaluate.md).
_C.TEST.PROTOCOL = Key("challenge", choice("challenge", "slowfast", "mmaction2"))

# ---------------------------------------------------------------- people in a video
_C.PERSON_DETECTOR = Group()
# Person detector, used if no boxes are given: a network of torchvision (fasterrcnn_resnet50_fpn_v2,
# fasterrcnn_mobilenet_v3_large_320_fpn, retinanet_resnet50_fpn_v2, ...), detectron2, or onnx
# (docs/guides/person_detectors.md). auto: the person head of the model if it has one and WEIGHTS is empty,
# otherwise fasterrcnn_resnet50_fpn_v2.
_C.PERSON_DETECTOR.NAME = Key(
    "auto",
    registered("vmae_det.inference.person_detectors:PERSON_DETECTOR_REGISTRY", extra_choices=("auto",)),
)
# File or URL of weights. Empty: those published by torchvision or detectron2, downloaded once. random: random
# weights. onnx: the ONNX file.
_C.PERSON_DETECTOR.WEIGHTS = Key("", path_text())
# detectron2: a COCO model of its model zoo, or a custom YAML file with its WEIGHTS.
_C.PERSON_DETECTOR.CONFIG = Key("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml", path_text())
# onnx: layout of the output, yolov5 (also v7), yolov8 (and later) or end_to_end (non-maximum suppression
# included). auto: detect it from its shape, its values and the metadata of the file.
_C.PERSON_DETECTOR.ONNX_LAYOUT = Key("auto", choice("auto", "yolov5", "yolov8", "end_to_end"))
# Boxes below this score are dropped. RetinaNet's and YOLO's scores are lower than Faster R-CNN's. SCORE,
# MAX_PEOPLE and NMS_IOU of the command line also replace the values of a person head (MODEL.PERSON_HEAD).
_C.PERSON_DETECTOR.SCORE = Key(0.8, number("[0, 1]"))
# Largest number of people in a frame. Those with the highest scores are kept.
_C.PERSON_DETECTOR.MAX_PEOPLE = Key(30, integer("[1, 1000]"))
# Non-maximum suppression: of two boxes with an IoU above this, the one with the lower score is dropped.
_C.PERSON_DETECTOR.NMS_IOU = Key(0.5, number("[0, 1]"))
# Short side of the detector's input, in pixels. 0: the default of the network. onnx: the side of the square,
# if the file accepts any size, rounded up to its stride.
_C.PERSON_DETECTOR.SHORT_SIDE = Key(0, integer("[0, 4096]"))
# Frames of a batch of the detector.
_C.PERSON_DETECTOR.BATCH_SIZE = Key(4, integer("[1, 1000]"))

# ---------------------------------------------------------------- run
# Folder of logs, checkpoints and results.
_C.OUTPUT_DIR = Key("output", path_text(blank=False))
# Seed of initial weights, order of samples, augmentation and masks.
_C.SEED = Key(0, integer("[0, 4294967295]"))

_C.WANDB = Group()
# Project of Weights & Biases to log to. Empty: none.
_C.WANDB.PROJECT = Key("", text())

# All keys by their dotted names, in the order of this file.
KEYS: dict[str, Key] = dict(_C.keys())
