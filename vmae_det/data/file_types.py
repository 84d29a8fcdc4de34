"""By which suffixes files are known."""

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
)
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp"))
SHARD_SUFFIX = ".tar"
