# ruff: noqa: E501 - tables with one payload per line
"""Files that try to run code or to exhaust memory: no code runs, and reading them ends quickly."""

import io
import pickle
import resource
import struct
import sys
import time
import zipfile
from contextlib import suppress

import pytest
import torch

from vmae_det.checkpoint import load_weights, read_checkpoint
from vmae_det.checkpoint.convert import convert_weights
from vmae_det.utils.errors import WeightsError

MARK = "hacked"
WRITE = f"open({MARK!r}, 'w').close()"


def value(content):
    """Opcodes that push plain data."""
    return pickle.dumps(content, 2)[2:-1]


def call(module, name, *arguments):
    """Opcodes that call a function by its name."""
    return f"c{module}\n{name}\n".encode() + value(arguments) + b"R"


def call_result(function, *arguments):
    return function + value(arguments) + b"R"


PAYLOADS = {
    # Run a command
    "os.system": call("os", "system", f"touch {MARK}"),
    "posix.system": call("posix", "system", f"touch {MARK}"),
    "os.popen": call("os", "popen", f"touch {MARK}"),
    "os.execv": call("os", "execv", "/bin/touch", ["touch", MARK]),
    "os.spawnlp": call("os", "spawnlp", 0, "touch", "touch", MARK),
    "subprocess.Popen": call("subprocess", "Popen", ["touch", MARK]),
    "subprocess.check_output": call("subprocess", "check_output", ["touch", MARK]),
    "subprocess.getoutput": call("subprocess", "getoutput", f"touch {MARK}"),
    "pty.spawn": call("pty", "spawn", ["touch", MARK]),
    "asyncio": call("asyncio", "create_subprocess_shell", f"touch {MARK}"),
    # Run Python code
    "eval": call("builtins", "eval", WRITE),
    "eval of Python 2": call("__builtin__", "eval", WRITE),
    "exec": call("builtins", "exec", WRITE),
    "compile and exec": b"cbuiltins\nexec\n" + call("builtins", "compile", WRITE, "x", "exec") + b"\x85R",
    "timeit": call("timeit", "timeit", WRITE),
    "cProfile": call("cProfile", "run", WRITE),
    "pdb": call("pdb", "run", WRITE),
    "bdb": call("bdb", "Bdb.run", None, WRITE),
    "code": call("code", "InteractiveInterpreter.runcode", None, WRITE),
    "runpy": call("runpy", "_run_code", WRITE, {}),
    "numpy's runstring": call("numpy.testing._private.utils", "runstring", WRITE, {}),
    "torch's fx": call("torch.fx.graph_module", "_forward_from_src", f"def forward(): pass\n{WRITE}", {}),
    "torch's testing": call("torch._dynamo.guards", "eval", WRITE),
    "an import": call("builtins", "__import__", "evil_module"),
    "importlib": call("importlib", "import_module", "evil_module"),
    "a module by a class of it": b"cevil_module\nThing\n)R",
    "a module by a class, protocol 4": b"\x80\x04\x8c\x0bevil_module\x8c\x05Thing\x93)R",
    "a dotted name": b"\x80\x04\x8c\x08vmae_det\x8c\x1autils.output_files.os.open\x93" + value((MARK, 65)) + b"R",
    "a dotted name in torch": b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93\x8c\x0ctouch hacked\x85R",
    "a pickle in a pickle": call("pickle", "loads", b"cos\nsystem\n(X\x0c\x00\x00\x00touch hackedtR."),
    "torch.load": call("torch", "load", "other.pt"),
    "bytes of a storage": call("torch.storage", "_load_from_bytes", b"cos\nsystem\n(X\x0c\x00\x00\x00touch hackedtR."),
    "torch.jit.load": call("torch.jit", "load", "other.pt"),
    "torch.hub": call("torch.hub", "load", ".", "evil_module"),
    "a library": call("ctypes", "CDLL", "./evil.so"),
    "a library of operators": call("torch._ops", "_Ops.load_library", None, "./evil.so"),
    "numpy.load": call("numpy", "load", "other.npy", None, True),
    "joblib": call("joblib", "load", "other.pkl"),
    # Reach a function indirectly
    "getattr": call_result(b"cbuiltins\ngetattr\n(cos\nenviron\nX\x06\x00\x00\x00systemtR", f"touch {MARK}"),
    "functools.partial": call_result(b"cfunctools\npartial\n(cos\nsystem\nX\x0c\x00\x00\x00touch hackedtR"),
    "operator.methodcaller": call_result(call("operator", "methodcaller", "system", f"touch {MARK}"), "os"),
    "map": b"cbuiltins\nlist\n(cbuiltins\nmap\n(cos\nsystem\n](X\x0c\x00\x00\x00touch hackedetRtR",
    "the opcode INST": b"(X\x0c\x00\x00\x00touch hackedios\nsystem\n",
    "the opcode OBJ": b"(cos\nsystem\nX\x0c\x00\x00\x00touch hackedo",
    "the opcode NEWOBJ": b"csubprocess\nPopen\n(](X\x05\x00\x00\x00touchX\x06\x00\x00\x00hackedet\x81",
    "the opcode NEWOBJ_EX": b"csubprocess\nPopen\n)}X\x04\x00\x00\x00args](X\x05\x00\x00\x00touchX\x06\x00\x00\x00hackedes\x92",
    "the opcode EXT": b"\x82\x01",
    "the opcode BUILD": b"cargparse\nNamespace\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsbX\x0c\x00\x00\x00touch hackedb",
    "BUILD of a dict": b"}}X\x0b\x00\x00\x00__setitem__cos\nsystem\nsb",
    "BUILD of a function of torch": b"ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__Nsb",
    "copyreg": b"ccopyreg\n_reconstructor\n(csubprocess\nPopen\ncbuiltins\nobject\nNtR",
    "a subclass of tensors": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\ncos\nsystem\n(X\x0c\x00\x00\x00touch hackedtNtR",
    "a default of a dict": b"ccollections\ndefaultdict\n(cos\nsystem\ntR",
    "a hook of a parameter": b"ctorch._utils\n_rebuild_parameter\n(K\x01\x88}K\x00cos\nsystem\nstR",
    "a type of a storage": b"(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ",
    "a module as a storage": b"(X\x06\x00\x00\x00modulecos\nsystem\nX\x04\x00\x00\x00fileX\x06\x00\x00\x00sourcetQ",
    "a type of numpy": call_result(b"cnumpy\ndtype\n(cos\nsystem\n\x89\x88tR", f"touch {MARK}"),
    # Do other harm
    "os.remove": call("os", "remove", "victim"),
    "shutil.rmtree": call("shutil", "rmtree", "."),
    "os.rename": call("os", "rename", "victim", MARK),
    "open to write": call("builtins", "open", MARK, "w"),
    "pathlib": b"cpathlib\nPath.touch\n(cpathlib\nPath\n(X\x06\x00\x00\x00hackedtRtR",
    "logging to a file": call("logging", "FileHandler", MARK),
    "sys.exit": call("sys", "exit", 3),
    "os._exit": call("os", "_exit", 3),
    "os.abort": call("os", "abort"),
    "signal": call("signal", "raise_signal", 9),
    "atexit": b"catexit\nregister\n(cos\nsystem\nX\x0c\x00\x00\x00touch hackedtR",
    "threading": b"cthreading\nTimer\n(K\x00cos\nsystem\ntR",
    "a socket": call("socket", "create_connection", ("127.0.0.1", 9)),
    "a web page": call("urllib.request", "urlopen", "http://127.0.0.1:9/"),
    "a browser": call("webbrowser", "open", "http://127.0.0.1:9/"),
    "pip": call("pip", "main", ["install", "evil"]),
}  # fmt: skip


def archive(pickled, folder="archive", compress=zipfile.ZIP_STORED, **parts):
    """A ZIP archive of torch.save with the given pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as file:
        file.writestr(f"{folder}/data.pkl", pickled)
        file.writestr(f"{folder}/version", "3\n")
        for name, content in parts.items():
            file.writestr(f"{folder}/data/{name.removeprefix('part')}", content)
    return buffer.getvalue()


def legacy(pickled):
    """The same in the legacy format of PyTorch before 1.6."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(item, 2) for item in head) + pickled + pickle.dumps([], 2)


def checkpoint(payload):
    """The pickle of a dict with the payload under `args` and `model`."""
    return b"\x80\x02}(X\x04\x00\x00\x00args" + payload + b"X\x05\x00\x00\x00model" + payload + b"u."


class AuditEvents:
    """Records Python's audit events while a block runs."""

    HARMLESS = (
        "object.",
        "sys._getframe",
        "tempfile.",
        "gc.",
        "os.stat",
        "builtins.id",
        "code.__new__",
        "marshal.",
    )

    def __init__(self):
        self.active = False
        self.recorded = []
        sys.addaudithook(self._record)

    def _record(self, event, arguments):
        if self.active and not event.startswith(self.HARMLESS):
            if event == "open" and arguments[1] in ("r", "rb", None) and not arguments[2] & 0x3:
                return
            self.recorded.append((event, arguments))

    def __enter__(self):
        self.active, self.recorded = True, []
        return self

    def __exit__(self, *_):
        self.active = False


@pytest.fixture(scope="module")
def audit_events():
    """One hook for all tests, since audit hooks cannot be removed."""
    return AuditEvents()


def test_no_payload_of_over_fifty_runs_code(audit_events, tmp_path, monkeypatch):
    assert len(PAYLOADS) >= 50
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_module.py").write_text(f"{WRITE}\nclass Thing: pass\n")
    (tmp_path / "victim").write_text("here")
    (tmp_path / "good.pt").write_bytes(archive(checkpoint(value(1))))
    read_checkpoint("good.pt")  # imports the modules that reading needs
    before = set(sys.modules)
    read = 0
    for name, payload in PAYLOADS.items():
        for number, content in enumerate(
            (archive(checkpoint(payload)), legacy(checkpoint(payload)), payload + b".")
        ):
            path = tmp_path / f"file{number}.pt"
            path.write_bytes(content)
            with audit_events, suppress(WeightsError):
                read += isinstance(read_checkpoint(path), dict)
            assert not audit_events.recorded, name
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("evil_module.py", "file0.pt", "file1.pt", "file2.pt", "good.pt", "victim"),
    ]
    assert set(sys.modules) == before
    assert read > len(PAYLOADS)  # most are read without their payload


def test_the_payloads_run_with_an_unsafe_unpickler(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_module.py").write_text(f"{WRITE}\nclass Thing: pass\n")
    for name in ("os.system", "eval", "getattr", "the opcode INST", "the opcode OBJ", "an import"):
        if name == "getattr":  # needs the module instead of its variables
            continue
        pickle.loads(checkpoint(PAYLOADS[name]))
        assert (tmp_path / MARK).exists(), name
        (tmp_path / MARK).unlink()


def storage(key="0", numbers=4, kind="Float"):
    parts = (
        value("storage") + f"ctorch\n{kind}Storage\n".encode() + value(key) + value("cpu") + value(numbers)
    )
    return b"(" + parts + b"tQ"


def tensor(size, stride, offset=0, memory=None):
    arguments = (memory or storage()) + value(offset) + value(size) + value(stride) + b"\x89}"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def model(*tensors):
    """The pickle of a checkpoint with the given tensors."""
    items = b"".join(value(f"w{number}.weight") + item for number, item in enumerate(tensors))
    return b"\x80\x02}X\x05\x00\x00\x00model}(" + items + b"us."


FLOATS = struct.pack("<4f", 1, 2, 3, 4)
NESTED_KEY = b"K\x01" + b"2\x86" * 60
BOMBS = {
    "a compressed pickle": archive(bytes(1 << 26), compress=zipfile.ZIP_DEFLATED),
    "compressed numbers": archive(model(tensor((1 << 24,), (1,), 0, storage("0", 1 << 24))), compress=zipfile.ZIP_DEFLATED, part0=bytes(1 << 26)),
    "a tensor of one number, expanded": archive(model(tensor((1 << 40,), (0,))), part0=FLOATS),
    "expanded in many dimensions": archive(model(tensor((1 << 10,) * 4, (0,) * 4)), part0=FLOATS),
    "many views of one storage": archive(model(*[tensor((1 << 18,), (1,), 0, storage("0", 1 << 18))] * 4000), part0=bytes(1 << 20)),
    "beyond its storage": archive(model(tensor((5,), (1,))), part0=FLOATS),
    "an offset beyond its storage": archive(model(tensor((1,), (1,), 4)), part0=FLOATS),
    "a stride beyond its storage": archive(model(tensor((2,), (1 << 40,))), part0=FLOATS),
    "a negative offset": archive(model(tensor((1,), (1,), -1)), part0=FLOATS),
    "a negative stride": archive(model(tensor((2,), (-1,), 3)), part0=FLOATS),
    "a negative size": archive(model(tensor((-1,), (1,))), part0=FLOATS),
    "a size of text": archive(model(tensor(("4",), (1,))), part0=FLOATS),
    "a size of 300 digits": archive(model(tensor((10**300,), (0,))), part0=FLOATS),
    "100000 dimensions": archive(model(tensor((1,) * 100000, (1,) * 100000)), part0=FLOATS),
    "a storage that claims more": archive(model(tensor((4,), (1,), 0, storage("0", 1 << 50))), part0=FLOATS),
    "a missing storage": archive(model(tensor((4,), (1,), 0, storage("7")))),
    "a storage of old files that claims more": legacy(model(tensor((4,), (1,), 0, storage("0", 1 << 45)))),
    "many storages of old files": legacy(model(*[tensor((4,), (1,), 0, storage(str(n), 900)) for n in range(900)])),
    "an old file that ends": legacy(model(tensor((4,), (1,)))),
    "bytes of a terabyte": archive(b"\x80\x05}\x8e" + struct.pack("<Q", 1 << 40) + b"."),
    "bytes of a terabyte in an old file": legacy(b"\x80\x05}\x8e" + struct.pack("<Q", 1 << 40) + b"."),
    "a bytearray of a terabyte": archive(b"\x80\x05}\x96" + struct.pack("<Q", 1 << 40) + b"."),
    "text of a terabyte": legacy(b"\x80\x05}\x8d" + struct.pack("<Q", 1 << 40) + b"."),
    "a frame of a terabyte": legacy(b"\x80\x05\x95" + struct.pack("<Q", 1 << 40) + b"}."),
    "a number of a million digits": archive(b"\x80\x02}(X\x01\x00\x00\x00aL" + b"9" * 10**6 + b"L\nu."),
    "lists within lists": archive(b"\x80\x02}X\x05\x00\x00\x00model" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"s."),
    "dicts within dicts": archive(b"\x80\x02" + (b"}X\x05\x00\x00\x00model") * 10**5 + b"}" + b"s" * 10**5 + b"."),
    "a key that is slow to hash": archive(b"\x80\x02}(" + NESTED_KEY + b"K\x01u."),
    "an element that is slow to hash": archive(b"\x80\x04}(X\x01\x00\x00\x00a\x8f(" + NESTED_KEY + b"\x90u."),
    "keys of one hash": archive(b"\x80\x02}(" + b"".join(value(n * (2**61 - 1)) + b"N" for n in range(20000)) + b"u."),
    "a dict that contains itself": archive(b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s."),
    "a list that contains itself": archive(b"\x80\x02}X\x05\x00\x00\x00model]q\x00h\x00as."),
    "a list of all numbers": archive(b"\x80\x02}X\x01\x00\x00\x00a" + b"cbuiltins\nlist\n(" + call("builtins", "range", 10**12) + b"tRs."),
    "a list of a tensor": archive(b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nlist\n(" + tensor((4,), (0,)) + b"tRs.", part0=FLOATS),
    "bytes of a size": archive(b"\x80\x02}X\x01\x00\x00\x00a" + call("builtins", "bytearray", 1 << 45) + b"s."),
    "a power": archive(b"\x80\x02}X\x01\x00\x00\x00a" + call("operator", "pow", 10, 10**9) + b"s."),
    "text that is repeated": archive(b"\x80\x02}X\x01\x00\x00\x00a" + call("operator", "mul", "a", 10**12) + b"s."),
    "an array of numpy": archive(b"\x80\x02}X\x05\x00\x00\x00model}X\x03\x00\x00\x00a.bcnumpy.core.multiarray\n_reconstruct\n)R(K\x01" + value((1 << 40,)) + b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8tR(K\x03X\x01\x00\x00\x00<tb\x89" + value("x") + b"tbss."),
    "30000 classes": archive(b"\x80\x02}(" + b"".join(b"X\x05\x00\x00\x00k%04dcm%d\nC\n" % (n % 9999, n) for n in range(30000)) + b"u."),
}  # fmt: skip


def overlapping():
    """An archive whose records all overlap."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", bytes(1 << 16))
        for number in range(5000):
            other = zipfile.ZipInfo(f"a/data/{number}")
            other.header_offset, other.file_size, other.compress_size, other.CRC = 0, 1 << 16, 1 << 16, 0
            file.filelist.append(other)
    return buffer.getvalue()


BOMBS["overlapping records"] = overlapping()


@pytest.fixture
def memory_limit():
    """Limit the process to 1 GB more memory than it has."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of the process from /proc")
def test_bombs_are_refused_quickly(memory_limit, tmp_path):
    path = tmp_path / "bomb.pt"
    for name, content in BOMBS.items():
        path.write_bytes(content)
        start = time.process_time()  # not wall time, since the machine may be busy
        for read in (load_weights, convert_weights):
            arguments = (
                (torch.nn.Module(), path) if read is load_weights else (path, tmp_path / "out.pt", "vmae_det")
            )
            with pytest.raises(WeightsError) as raised:
                read(*arguments)
            assert str(path) in str(raised.value), name
            assert "Memory" not in str(raised.value), name
            assert len(str(raised.value)) < 1500, name
        assert time.process_time() - start < 10, name
    assert not (tmp_path / "out.pt").exists()
