"""Fuzz test of the tube CSV reader: any file is either read correctly, or rejected with file and line."""

import gzip
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmae_det.formats.tube_csv import read_tubes
from vmae_det.utils.errors import DataError

quick = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Replacements of numbers and names.
NASTY = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1.5",
        "5.0",
        "5e0",
        "+5",
        ".5",
        "5.",
        "0x10",
        "1_000",
        "1e400",
        "-1e400",
        "1e-400",
    ),
    *("nan", "NaN", "inf", "-Infinity", "null", "None", "true", "99999999999", "2147483648", "9" * 400),
    *(
        '"0.5"',
        '"',
        "'",
        "a b",
        "é",
        "٣",
        "１",
        "\ufeff",
        "\u2028",
        "\x00",
        "\r",
        "\t0.5",
        "0.5\x0b",
        "\x85",
        "0,5",
    ),
    *("-0", "00902", "1e9", "1e10", "1.0001", "-0.0001", "0.5;", "#"),
)
LINES = ["a,1,run,0.5,3,0,0,10.5,10", "a,1,run,0.5,4,0,0,10,10", "b,-2,sit down,1e-3,0,5,5,5,9"]


@st.composite
def mutated(draw, lines):
    """Generate the bytes of a file of valid lines with a few mutations."""
    rows = [line.split(",") for line in draw(st.lists(st.sampled_from(lines), min_size=1, max_size=5))]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from(rows))
        i = draw(st.integers(0, max(len(row) - 1, 0)))
        operation = draw(
            st.sampled_from(["drop", "repeat", "swap", "replace", "replace", "blank", "clear", "text"])
        )
        if operation == "drop":
            del row[i:][:1], row[i : i + 1]
        elif operation == "repeat":
            row.insert(i, row[i] if row else "")
        elif operation == "swap" and row:
            j = draw(st.integers(0, len(row) - 1))
            row[i], row[j] = row[j], row[i]
        elif operation == "replace" and row:
            row[i] = draw(st.sampled_from(NASTY))
        elif operation == "text" and row:
            row[i] = draw(st.text(max_size=5))
        elif operation == "clear":
            row[i:] = [""] * len(row[i:])
        elif operation == "blank":
            rows.insert(rows.index(row), [""])
    ends = draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n"]))
    text = ends.join(",".join(row) for row in rows) + draw(st.sampled_from(["", ends]))
    content = draw(st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf", b"\n"])) + text.encode("utf-8", "replace")
    return draw(packed_or_corrupt(content))


def packed_or_corrupt(content):
    """Generate the content unchanged (mostly), gzipped, truncated, or with an inserted byte."""
    cut = st.integers(0, max(len(content), 1))
    torn = st.builds(
        lambda at, byte: content[:at] + bytes([byte]) + content[at + 1 :], cut, st.integers(0, 255)
    )
    packed = gzip.compress(content, mtime=0)
    return st.one_of(
        st.just(content),
        st.just(content),
        cut.map(lambda at: content[:at]),
        torn,
        st.just(packed),
        st.just(packed + gzip.compress(content, mtime=0)),
        st.integers(1, len(packed)).map(lambda at: packed[:-at]),
        st.builds(
            lambda at, byte: packed[:at] + bytes([byte]) + packed[at + 1 :],
            st.integers(0, len(packed) - 1),
            st.integers(0, 255),
        ),
    )


def outcome(read, path, *, has_lines):
    """Return what a reader returns, or None if it correctly rejects the file."""
    try:
        return read(path)
    except DataError as error:
        message = str(error)
        assert message.startswith(str(path))
        assert len(message) < len(str(path)) + 400
        whole = ("expected at least one row", "cannot be read", "no such file")
        assert (
            not has_lines
            or re.match(r":\d+: ", message[len(str(path)) :])
            or any(w in message for w in whole)
        )
        return None


def plain_rows(content):
    """Return the fields of each line that is not blank, parsed without the readers."""
    text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8-sig")
    rows = [[field.strip() for field in line.split(",")] for line in text.split("\n")]
    return [row for row in rows if any(row)]


@quick
@given(content=mutated(LINES))
def test_any_file_is_read_or_rejected_with_its_line(tmp_path, content):
    path = tmp_path / "tubes.csv"
    path.write_bytes(content)
    tubes = outcome(lambda file: read_tubes(file, "detections"), path, has_lines=True)
    if tubes is not None:
        expected = plain_rows(content)
        assert tubes.video[tubes.tube].tolist() == [row[0] for row in expected]
        assert tubes.label[tubes.tube].tolist() == [row[2] for row in expected]
        assert tubes.score[tubes.tube].tolist() == [float(row[3]) for row in expected]
        assert tubes.frame.tolist() == [int(row[4]) for row in expected]
        assert tubes.boxes.tolist() == [[float(value) for value in row[5:]] for row in expected]
