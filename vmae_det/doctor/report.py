"""The report of `vmae-det doctor`: facts and checks, as text and as JSON."""

from __future__ import annotations

import getpass
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import vmae_det
from vmae_det.utils.errors import one_line

OK, WARNING, FAILED, SKIPPED, FACT = "ok", "warning", "failed", "skipped", "fact"
_FORMAT_VERSION = 1  # of the JSON file
_COLORS = {OK: "32", WARNING: "33", FAILED: "31", SKIPPED: "2"}
_WIDTH = 118
_MAX_TEXT = 400  # characters of a text in the report


@dataclass(frozen=True)
class Finding:
    """A fact, or the result of a check.

    Attributes:
        section: heading under which it is printed.
        name: what was looked at.
        status: FACT if there is nothing to judge, else OK, WARNING, FAILED or SKIPPED.
        text: the value of a fact, or the result of a check.
        remedy: what to do; empty for FACT and OK.
        seconds: duration of a smoke test; None for facts.
    """

    section: str
    name: str
    status: str
    text: str
    remedy: str = ""
    seconds: float | None = None


@dataclass
class Report:
    """All findings, in the order in which they are printed."""

    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, *findings: Finding) -> None:
        """Append findings, without paths and names of this user."""
        self.findings += [anonymous(finding) for finding in findings]

    def count(self, status: str) -> int:
        """Return the number of findings with a status."""
        return sum(finding.status == status for finding in self.findings)

    @property
    def status(self) -> str:
        """The worst status: OK, WARNING or FAILED."""
        return next((status for status in (FAILED, WARNING) if self.count(status)), OK)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON data; docs/guides/doctor.md documents the keys."""
        facts = [finding for finding in self.findings if finding.seconds is None]
        checks = [finding for finding in self.findings if finding.seconds is not None]
        return {
            "format": _FORMAT_VERSION,
            "vmae_det": vmae_det.__version__,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "facts": [{key: value for key, value in asdict(f).items() if key != "seconds"} for f in facts],
            "checks": [asdict(f) | {"seconds": round(f.seconds, 2)} for f in checks],
        }

    def render(self, color: bool = False) -> str:
        """Return the report as text: facts first, then the smoke tests, then a summary."""
        lines = [f"vmae-det doctor, version {vmae_det.__version__}"]
        width = max((len(f.name) for f in self.findings if f.seconds is None), default=0)
        section = None
        for finding in self.findings:
            if finding.section != section:
                section = finding.section
                lines += ["", section]
            lines += _lines(finding, width, color)
        counts = {status: self.count(status) for status in (OK, WARNING, FAILED, SKIPPED)}
        parts = [_paint(f"{number} {name}", name, color) for name, number in counts.items() if number]
        lines += ["", f"{', '.join(parts)}; {self.seconds:.0f} s"]
        return "\n".join(lines)


def _lines(finding: Finding, width: int, color: bool) -> Iterable[str]:
    if finding.seconds is None:
        label = f"  {finding.name:<{width}}  "
        judged = finding.status not in (FACT, OK)
        start = _paint(finding.status, finding.status, color) + ": " if judged else ""
        offset = len(finding.status) + 2 if judged else 0
    else:
        label = f"  {_paint(f'{finding.status:<7}', finding.status, color)} {finding.seconds:5.1f} s  "
        start, offset = f"{finding.name}: ", len(finding.name) + 2
        width = 15
    indent = width + 4
    wrapped = _wrap(finding.text, _WIDTH - indent, offset)
    yield label + start + wrapped[0]
    yield from (" " * indent + line for line in wrapped[1:])
    if finding.remedy:
        yield from (" " * indent + line for line in _wrap("-> " + finding.remedy, _WIDTH - indent, 0))


def _wrap(text: str, width: int, offset: int) -> list[str]:
    """Wrap a text whose first line is shorter by `offset`. Commands are never broken inside a word."""
    filled = textwrap.wrap("x" * offset + text, width, break_long_words=False, break_on_hyphens=False)
    filled = filled or [""]
    return [filled[0][offset:], *filled[1:]]


def _paint(text: str, status: str, color: bool) -> str:
    return f"\033[{_COLORS[status]}m{text}\033[0m" if color and status in _COLORS else text


# ---------------------------------------------------------------- privacy


def anonymous(finding: Finding) -> Finding:
    """Return a finding on one line, without folders of this user and without the user name."""
    return replace(finding, text=_anonymize(finding.text), remedy=_anonymize(finding.remedy))


def _anonymize(text: str) -> str:
    text = one_line(text)
    folders = {
        str(Path(vmae_det.__file__).resolve().parents[1]): "<vmae_det>",
        sys.prefix: "<python>",
        sys.base_prefix: "<python>",
        tempfile.gettempdir(): "<tmp>",
        os.path.expanduser("~"): "~",
    }
    with suppress(OSError):
        folders[os.getcwd()] = "."
    folders |= {os.path.realpath(folder): name for folder, name in folders.items()}
    for folder in sorted(folders, key=len, reverse=True):  # /home/me/project before /home/me
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", folders[folder], text)
    text = re.sub(r"/(home|Users)/[^/\s]+", "~", text)
    with suppress(OSError, KeyError, ImportError):  # a user without a name
        user = getpass.getuser()
        if user != "root":
            text = re.sub(rf"\b{re.escape(user)}\b", "<user>", text)
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
