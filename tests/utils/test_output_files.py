"""Output files at all kinds of paths. Devices are nodes that the tests create in their own folder."""

import errno
import os
import stat
import threading

import pytest

from vmae_det.utils import output_files
from vmae_det.utils.errors import OutputError
from vmae_det.utils.output_files import (
    atomic_write,
    check_output_file,
    check_output_folder,
    make_output_folder,
    write_text,
)


def make_device(path, minor):
    """Create a memory character device: minor 3 is /dev/null, 7 is /dev/full."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        pytest.skip("may not make or open device nodes here")
    return path


def test_file_is_replaced_atomically_and_keeps_its_mode(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "one\r\n")
    path.chmod(0o600)
    write_text(path, "two\n")
    assert path.read_bytes() == b"two\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_failed_block_leaves_the_file_unchanged(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"a.txt": "before"}


@pytest.mark.parametrize("exists", [True, False])
def test_symbolic_link_is_followed(tmp_path, exists):
    target, link = tmp_path / "far" / "a.txt", tmp_path / "near" / "link.txt"
    target.parent.mkdir()
    link.parent.mkdir()
    if exists:
        target.write_text("before")
    link.symlink_to("../far/a.txt")
    write_text(link, "after")
    assert link.is_symlink()
    assert target.read_text() == "after"


def test_device_is_not_replaced(tmp_path):
    null = make_device(tmp_path / "null", 3)
    link = tmp_path / "link"
    link.symlink_to(null)
    for path in (null, link):
        check_output_file(path)
        write_text(path, "gone")
        assert null.is_char_device()
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"null", "link"}


def test_full_device_is_reported_and_not_replaced(tmp_path):
    full = make_device(tmp_path / "full", 7)
    with pytest.raises(OutputError, match=r"full: cannot be written: No space left on device"):
        write_text(full, "text")
    assert full.is_char_device()


def test_block_device_is_rejected(tmp_path):
    path = tmp_path / "disk"
    try:
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("may not make device nodes here")
    with pytest.raises(OutputError, match="block device"):
        write_text(path, "text")
    assert path.is_block_device()


def test_pipe_receives_the_text(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "x" * 200_000)  # more than the buffer of a pipe
    reader.join(10)
    assert read == ["x" * 200_000]
    assert pipe.is_fifo()


def test_pipe_without_reader_times_out(tmp_path, monkeypatch):
    monkeypatch.setattr(output_files, "_PIPE_TIMEOUT", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="no process reads from this pipe"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()


def test_standard_output_is_written_into_even_if_it_is_a_file(tmp_path):
    """A rename would leave the process with an unlinked file."""
    path = tmp_path / "out.txt"
    with path.open("w") as file:
        file.write("before\n")
        file.flush()
        for name in (f"/dev/fd/{file.fileno()}", f"/proc/self/fd/{file.fileno()}"):
            write_text(name, f"{name[:5]}\n")
        file.write("after\n")
    assert path.read_text() == "before\n/dev/\n/proc\nafter\n"
    with pytest.raises(OutputError, match="Bad file descriptor"):
        check_output_file("/dev/fd/999")


BAD_FILES = {
    "": "the path is empty",
    ".": "expected a file, got a folder",
    "/": "expected a file, got a folder",
    "folder": "expected a file, got a folder",
    "file/x.json": "file is not a folder",
    "file/deep/x.json": "file is not a folder",
    "n" * 300: "File name too long",
    "new/" + "n" * 300 + "/x": "File name too long",
    "lost_folder/x.json": "lost_folder is a link to a folder that does not exist",
    "loop": "Too many levels of symbolic links",
    "a\0b": "null byte",
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("keep")
    (tmp_path / "lost_folder").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", BAD_FILES)
def test_invalid_file_path_is_reported_in_advance(site, path):
    for write in (check_output_file, lambda path: write_text(path, "text")):
        with pytest.raises(OutputError, match=BAD_FILES[path]) as raised:
            write(path)
        assert isinstance(raised.value, OSError)
        assert raised.value.errno
    assert sorted(os.listdir(site)) == ["file", "folder", "loop", "lost_folder"]
    assert (site / "file").read_text() == "keep"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "empty"),
        ("file", "file is not a folder"),
        ("file/deep", "file is not a folder"),
        ("lost_folder", "a link to a folder"),
        ("n" * 300, "too long"),
        ("n/" * 1500, "more than 200 folders"),
        ("loop", "a link to a folder"),
    ],
)
def test_invalid_folder_path_is_reported(site, path, reason):
    for make in (check_output_folder, make_output_folder):
        with pytest.raises(OutputError, match=reason):
            make(path)
    assert sorted(os.listdir(site)) == ["file", "folder", "loop", "lost_folder"]


def test_read_only_disk_is_reported_in_advance(small_disk):
    import subprocess

    (small_disk / "a.json").write_text("{}")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for path in (small_disk / "a.json", small_disk / "new" / "b.json"):
        with pytest.raises(OutputError, match="Read-only file system"):
            check_output_file(path)
    with pytest.raises(OutputError, match="Read-only file system"):
        check_output_folder(small_disk / "new")


def test_full_disk_is_an_output_error(small_disk):
    with pytest.raises(OutputError, match=r"big\.txt: cannot be written: No space left") as raised:
        write_text(small_disk / "big.txt", "x" * 8_000_000)
    assert raised.value.errno == errno.ENOSPC
    assert not list(small_disk.iterdir())


def test_error_of_another_file_is_not_an_output_error(tmp_path):
    def write():
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_bytes((tmp_path / "source").read_bytes())

    with pytest.raises(FileNotFoundError, match="source"):
        write()


def test_longest_possible_name_can_be_written(tmp_path):
    path = tmp_path / ("é" * 125 + ".json")
    write_text(path, "{}")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
