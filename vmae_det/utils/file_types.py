"""File suffixes of videos, images and shards."""

VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".ogv"),
        *(".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob"),
        *(".m1v", ".m2v", ".h264", ".264", ".hevc", ".h265", ".265"),
    )
)
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp"))
SHARD_SUFFIX = ".tar"
