"""What the package needs of an operating system."""

import importlib
import os
import pkgutil
import signal
import sys

import pytest

UNIX_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")
UNIX_SIGNALS = [name for name in dir(signal) if name.startswith("SIG") and not name.startswith("SIG_")]
UNIX_SIGNALS = sorted({*UNIX_SIGNALS} - {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"})
UNIX_FUNCTIONS = (
    "fork",
    "getloadavg",
    "getuid",
    "killpg",
    "setsid",
    "sched_getaffinity",
    "statvfs",
    "sysconf",
)


@pytest.mark.skipif(os.name != "posix", reason="removes what only POSIX has")
def test_every_module_can_be_imported_without_what_windows_lacks(monkeypatch):
    import vmae_det

    names = [module.name for module in pkgutil.walk_packages(vmae_det.__path__, "vmae_det.")]
    for name in names:
        importlib.import_module(name)  # also other packages, which check the system
    for name in UNIX_MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    for name in UNIX_SIGNALS:
        monkeypatch.delattr(signal, name, raising=False)
    for name in UNIX_FUNCTIONS:
        monkeypatch.delattr(os, name, raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "vmae_det"]:
        monkeypatch.delitem(sys.modules, name)
    for name in names:
        importlib.import_module(name)
