"""An untrusted .pt2 file cannot run code: parts that could are refused or dropped."""

import io
import json
import pickle
import zipfile

import pytest
import torch
from torch import nn

from vmae_det.inference.export.exported_model import TorchExportModel, load_program, parse_metadata
from vmae_det.utils.errors import WeightsError

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


class Small(nn.Module):
    """A model with a few of the operations of a detector."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(x).flatten(0, 1).softmax(dim=1) * x.shape[0]


@pytest.fixture(scope="module")
def archive():
    """The parts of an exported archive by name, and the model."""
    torch.manual_seed(0)
    model = Small().eval().requires_grad_(False)
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(model, (torch.zeros(3, 4, 2),), dynamic_shapes={"x": {0: rows}})
    file = io.BytesIO()
    torch.export.save(program, file)
    with zipfile.ZipFile(file) as parts:
        return {name.partition("/")[2]: parts.read(name) for name in parts.namelist()}, model


class Evil:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def written(archive, tmp_path):
    """written(CHANGES) writes the archive with changed parts: a function that edits JSON, or new bytes."""

    def write(changes):
        parts = dict(archive[0])
        for name, change in changes.items():
            if callable(change):
                content = json.loads(parts[name])
                change(content)
                parts[name] = json.dumps(content).encode()
            else:
                parts[name] = change
        path = tmp_path / "model.pt2"
        with zipfile.ZipFile(path, "w") as file:
            for name, content in parts.items():
                file.writestr(f"model/{name}", content)
        return path

    return write


def nodes(program):
    return program["graph_module"]["graph"]["nodes"]


def symbols(value):
    """Return all sizes that are formulas."""
    if isinstance(value, list):
        return [symbol for item in value for symbol in symbols(item)]
    if isinstance(value, dict):
        formulas = [value] if "expr_str" in value else []
        return formulas + [symbol for item in value.values() for symbol in symbols(item)]
    return []


def test_valid_archive_runs(written, archive):
    program = load_program(written({}))
    for rows in (1, 2, 5):
        x = torch.randn(rows, 4, 2)
        torch.testing.assert_close(program(x), archive[1](x))


def code(path):
    return f"__import__('pathlib').Path({str(path)!r}).touch()"


def test_unneeded_pickles_and_code_are_dropped(written, archive, tmp_path):
    marker = tmp_path / "executed"
    path = written(
        {
            "data/sample_inputs/model.pt": pickle.dumps(Evil(marker)),
            GRAPH: lambda program: program["guards_code"].append(code(marker)),
        }
    )
    x = torch.randn(2, 4, 2)
    torch.testing.assert_close(load_program(path)(x), archive[1](x))
    assert not marker.exists()


def evil_target(program):
    nodes(program)[0]["target"] = "torch.os.system"


def evil_aten(program):
    nodes(program)[0]["target"] = "torch.ops.aten.from_file.default"


def evil_kind(program):
    nodes(program)[0]["inputs"][0]["arg"] = {"as_custom_obj": {"name": "x", "class_fqn": "y"}}


def evil_spec(program):
    spec = [1, {"type": "collections.defaultdict", "context": '{"default_factory_module": "antigravity"}'}]
    program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(spec)


def many_nodes(program):
    nodes(program).extend(nodes(program)[-1:] * 20_000)


def tensor_meta(config):
    return next(iter(config["config"].values()))["tensor_meta"]


def far_larger(config):
    tensor_meta(config)["sizes"][0] = {"as_int": 1 << 40}
    tensor_meta(config)["strides"][0] = {"as_int": 0}


def evil_payload(config):
    next(iter(config["config"].values()))["use_pickle"] = True


def other_path(config):
    next(iter(config["config"].values()))["path_name"] = "../../../etc/passwd"


@pytest.mark.parametrize(
    ("part", "change", "expected"),
    [
        (GRAPH, evil_target, "the operation 'torch.os.system'"),
        (GRAPH, evil_aten, r"the operation 'torch.ops.aten.from_file.default'"),
        (GRAPH, evil_kind, "a value of the kind 'as_custom_obj'"),
        (GRAPH, evil_spec, "an input of the type 'collections.defaultdict'"),
        (GRAPH, many_nodes, "a graph of more than 10000 operations"),
        (WEIGHTS, far_larger, "weights that are far larger than the file"),
        (WEIGHTS, evil_payload, "a pickled tensor"),
        (WEIGHTS, other_path, "expected a tensor, got '../../../etc/passwd'"),
        ("data/constants/custom_obj_0", b"", "not a part of an exported model"),
        ("data/weights/model.pt", b"", "not a part of an exported model"),
        ("data/aotinductor/model/a.so", b"", "not a part of an exported model"),
        ("models/second.json", b"{}", "not a part of an exported model"),
    ],
)
def test_parts_that_could_run_code_are_refused(written, part, change, expected):
    with pytest.raises(WeightsError, match=rf"model\.pt2: refused: {part}: {expected}"):
        load_program(written({part: change}))


SQUARES = "Pow(" + "*".join(["(s0+s1+s2)"] * 3) + ",Integer(2))"
NESTED_SQUARES = "Pow(" * 50 + "Integer(9)" + ",Integer(2))" * 50
SUMS = "*".join(f"(s{n}+s{n + 1})" for n in range(60))


@pytest.mark.parametrize("where", ["size", "range"])
@pytest.mark.parametrize(
    "formula",
    [
        *("{}", "Symbol('{}')", "s0.__class__", "9**9**9", "[{}]", "lambda: 0", "("),
        *("Pow(Integer(9),Integer(9))", "Pow(s0,s1)", SQUARES, NESTED_SQUARES, f"Max(Integer(1),x={SUMS})"),
        # SymPy hangs on these.
        *("9" * 4000, "*".join(["9" * 4000] * 500), SUMS, "-" * 10**6 + "1", "(" * 10**5, "s0+" * 400 + "1"),
    ],
    ids=range(18),
)
def test_formulas_other_than_arithmetic_are_refused(written, tmp_path, where, formula):
    marker = tmp_path / "executed"
    text = formula.format(code(marker).replace("'", '"') if "'" in formula else code(marker))

    def change(program):
        if where == "range":
            program["range_constraints"][text] = {"min_val": 0, "max_val": 1}
        else:
            symbols(program)[0]["expr_str"] = text

    with pytest.raises(WeightsError, match=r"refused: models/model.json: the size"):
        load_program(written({GRAPH: change}))
    assert not marker.exists()


def test_duplicate_names_are_refused(written):
    path = written({})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"other/{GRAPH}", b"{}")
    with pytest.raises(WeightsError, match="two parts of the archive have the same name"):
        load_program(path)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"graph_module": 3}', b"{", b"\xff"])
def test_malformed_graph(written, content):
    with pytest.raises(
        WeightsError,
        match=r"model\.pt2: (its graph does not have the structure|damaged)",
    ):
        load_program(written({GRAPH: content}))


def test_error_of_torch_while_loading_is_one_line(written, capfd):
    def other_size(config):
        tensor_meta(config)["sizes"][0] = {"as_int": 5}

    with pytest.raises(WeightsError, match=r"torch cannot load it: setStorage: sizes \[5, 2\]"):
        load_program(written({WEIGHTS: other_size}))
    assert not capfd.readouterr().err  # where torch would log the traceback


def test_error_of_torch_while_running_is_one_line(written):
    model = TorchExportModel(written({}), torch.device("cpu"))  # takes another number of inputs
    batch = {"video": torch.zeros(3, 4, 2), "boxes": [torch.zeros(1, 4)], "person_scores": [torch.ones(1)]}
    with pytest.raises(WeightsError, match=r"model\.pt2: torch cannot run it: "):
        model(batch | {"size": [torch.ones(2)]})


def test_deeply_nested_metadata():
    with pytest.raises(WeightsError, match="its metadata is damaged"):
        parse_metadata("[" * 10**6, "model.pt2")


def test_truncated_file(written):
    path = written({})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match=r"model\.pt2: damaged"):
        load_program(path)
