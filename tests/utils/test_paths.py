"""Names of output files, made from names of videos that mean harm or know no better."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmae_det.utils.paths import safe_stem


@pytest.mark.parametrize(
    ("video", "stem"),
    [
        ("videos/a.b c-1.mp4", "a.b c-1"),
        ("[x]_(1),2@3+4=5.mkv", "[x]_(1),2@3+4=5"),
        ("спорт/бег 跑步.mp4", "бег 跑步"),
        ("दौड़ना.mp4", "दौड़ना"),
        ("folder/of_frames/", "of_frames"),
        ("https://user:secret@host/v/clip%20one.mp4?token=abc#x", "clip one"),
        ("rtsp://user:secret@host:554/stream1", "stream1"),
    ],
)
def test_harmless_names_stay(video, stem):
    assert safe_stem(video) == stem


@pytest.mark.parametrize(
    ("video", "begins"),
    [
        ("-rf.mp4", "rf-"),
        ("--output=x.mp4", "output=x-"),
        (".hidden.mp4", "hidden-"),
        ('it\'s "quoted".mp4', "it_s _quoted_-"),
        ("two\nlines\t\x00.mp4", "two_lines__-"),
        ("%s %d a%03d.mp4", "_s _d a_03d-"),
        ("a:b|c*d?<e>$(f)`g`;h.mp4", "a_b_c_d__e__(f)_g__h-"),
        ("..\\..\\windows\\x%.mp4", "x_-"),
        ("..", "video-"),
        ("", "video-"),
        ("con.mp4", "con-"),
        ("LPT1.a.mp4", "LPT1.a-"),
        ("https://host/%2e%2e%2f%2e%2e%2fetc%2fpass%0awd", "pass_wd-"),
        ("rtsp://user:secret@host/", "video-"),
        ("long" * 200 + ".mp4", "longlong"),
        ("a\udcffb.mp4", "a_b-"),
    ],
)
def test_others_are_changed_and_told_apart(video, begins):
    stem = safe_stem(video)
    assert stem.startswith(begins)
    assert stem != safe_stem("x" + video)
    assert "secret" not in stem
    assert stem == safe_stem(video)


def test_videos_whose_names_become_alike_keep_files_of_their_own():
    assert len({safe_stem(f"a{letter}b.mp4") for letter in "%:*?\"'"}) == 6


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_any_text_gives_one_file_in_its_folder(tmp_path_factory, text):
    stem = safe_stem(text)
    assert stem.isprintable()
    assert not stem.startswith(("-", ".", " "))
    assert not set(stem) & set("/\\%:*?\"'<>|$`;&\0\n")
    folder = tmp_path_factory.mktemp("out")
    (folder / f"{stem}_actions.mp4").touch()
    assert len(os.listdir(folder)) == 1
    assert safe_stem(stem + ".mp4") == stem  # as it is harmless now
