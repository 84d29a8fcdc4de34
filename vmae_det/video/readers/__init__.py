"""Video readers with one interface: frames by index, and the frame nearest to a time."""

from vmae_det.video.readers.base import READER_REGISTRY, VideoLocation, VideoReader, open_video
from vmae_det.video.readers.decord_reader import DecordReader
from vmae_det.video.readers.image_folder import ImageFolderReader
from vmae_det.video.readers.pyav_reader import PyAVReader
from vmae_det.video.readers.tar_shard import ShardVideo, list_shard
from vmae_det.video.readers.torchcodec_reader import NvdecReader, TorchcodecReader

__all__ = [
    "READER_REGISTRY",
    "DecordReader",
    "ImageFolderReader",
    "NvdecReader",
    "PyAVReader",
    "ShardVideo",
    "TorchcodecReader",
    "VideoLocation",
    "VideoReader",
    "list_shard",
    "open_video",
]
