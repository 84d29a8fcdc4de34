"""Which archives of torch.export are safe to load: nothing but arithmetic on tensors, and raw numbers.

`torch.export.load` unpickles parts of an archive, evaluates strings in it as Python, and finds functions by
name anywhere in torch. So an archive is read here as plain JSON, held against lists of what an exported model
needs, and written anew from what passed; only the copy is given to torch.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

from vmae_det.checkpoint.archives import open_archive, read_part
from vmae_det.utils.errors import WeightsError

_EXTRA = "extra/"
_GRAPH = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"  # a pickle, and of no use
_PAYLOADS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_RAW = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
_OPERATORS = {
    "_operator": "add sub mul floordiv mod neg truediv eq ne lt le gt ge",
    "torch": "sym_max sym_min sym_not sym_int sym_float",
    "torch.ops.aten": """
        _assert_scalar.default _assert_tensor_metadata.default _softmax.default _to_copy.default
        _unsafe_view.default add.Scalar add.Tensor addmm.default alias.default amax.default arange.default
        arange.start arange.start_step bmm.default cat.default clamp.Tensor clamp.default clone.default
        contiguous.default detach.default detach_.default div.Scalar div.Tensor dropout.default
        expand.default flatten.using_ints full.default gelu.default layer_norm.default
        lift_fresh_copy.default linear.default matmul.default maximum.default mean.dim minimum.default
        mm.default mul.Scalar mul.Tensor native_layer_norm.default permute.default repeat.default
        reshape.default scaled_dot_product_attention.default select.int sigmoid.default slice.Tensor
        softmax.int split.Tensor split_with_sizes.default squeeze.dim stack.default sub.Scalar sub.Tensor
        sym_constrain_range_for_size.default sym_size.int t.default to.device to.dtype to.dtype_layout
        transpose.int unbind.int unflatten.int unsqueeze.default upsample_bicubic2d.default
        upsample_bicubic2d.vec view.default
    """,
    "torch.ops.torchvision": "roi_align.default",
}
ALLOWED = {f"{module}.{name}" for module, names in _OPERATORS.items() for name in names.split()}
# Kinds of a schema's values; others hold graphs, functions or objects of their own.
_KINDS = """
    as_none as_tensor as_tensors as_int as_ints as_float as_floats as_bool as_bools as_string as_strings
    as_expr as_name as_sym_int as_sym_ints as_sym_bool as_sym_float as_scalar_type as_memory_format
    as_layout as_device as_optional_tensor as_optional_tensors
"""
_SPEC_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
_SYMBOLIC = "Symbol Integer Add Mul FloorDiv Mod PythonMod CleanDiv Max Min Eq Ne Ge Gt Le Lt"
_WORD = re.compile(r"[\w.:+-]*")
# A detector of two blocks has 102 nodes. Formulas of sizes have up to 200 characters and expand into 3 terms;
# SymPy hangs on much longer ones. Weights may share memory.
_MOST_NODES = 10_000
_LONGEST_FORMULA = 1000
_MOST_TERMS = 64
_LARGEST_SIZE = 2**63
_SHARING = 4
_ALWAYS_ALLOWED = 1 << 24  # numbers


def safe_copy(path: Path) -> io.BytesIO:
    """An archive with what is safe of the one at `path`, for `torch.export.load`.

    Raises:
        WeightsError: it is no archive of torch.export, or holds something that is not needed to score people.
    """
    copy = io.BytesIO()
    try:
        with open_archive(path) as source, zipfile.ZipFile(copy, "w") as target:
            names = {name.partition("/")[2]: name for name in source.namelist()}
            if _GRAPH not in names:
                raise WeightsError(f"{path}: damaged, or not an archive of torch.export: no {_GRAPH} in it")
            if len(names) < len(source.namelist()):  # names with other folders before them
                raise WeightsError(f"{path}: refused: a name comes twice in the archive")
            for inner, name in names.items():
                if not inner.startswith(_EXTRA):
                    target.writestr("archive/" + inner, _safe_part(inner, source, name, path))
    except (zipfile.BadZipFile, OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: damaged, or not an archive of torch.export: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise WeightsError(f"{path}: its graph is not in the form that torch.export gives it") from None
    copy.seek(0)
    return copy


def read_extra(path: Path, name: str) -> str | None:
    """An extra file of an archive, alone; None if it has none of that name. WeightsError as above."""
    try:
        with open_archive(path) as source:
            for full in source.namelist():
                if full.partition("/")[2] == _EXTRA + name:
                    return read_part(source, full).decode("utf-8")
    except (zipfile.BadZipFile, OSError, EOFError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: damaged, or not an archive of torch.export: {error}") from None
    return None


def _safe_part(inner: str, source: zipfile.ZipFile, name: str, path: Path) -> bytes:
    if inner == _SAMPLES:
        return b""
    if _RAW.fullmatch(inner):
        return read_part(source, name)
    try:
        if inner in _PAYLOADS:
            content = json.loads(read_part(source, name))
            _check_payloads(content, path.stat().st_size)
        elif inner == _GRAPH:
            content = json.loads(read_part(source, name))
            _strip(content)
            _check(content)
        else:
            raise ValueError("a part that no exported model needs")
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:
        raise WeightsError(f"{path}: refused: {inner}: {error}") from None
    return json.dumps(content).encode()


def _check_payloads(content: dict[str, Any], file_size: int) -> None:
    numbers = 0
    for payload in content["config"].values():
        numbers += math.prod(size["as_int"] for size in payload["tensor_meta"]["sizes"])
        if numbers > _SHARING * file_size + _ALWAYS_ALLOWED:
            raise ValueError("weights that are far larger than the file")
        if payload["use_pickle"] is not False:
            raise ValueError("a pickled tensor")
        if not re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"]):
            raise ValueError(f"expected a tensor, got {payload['path_name']!r:.60}")
    _check(content)


def _strip(program: dict[str, Any]) -> None:
    """Take out of a graph what is notes, or Python code that checks sizes."""
    program["guards_code"] = []
    module = program["graph_module"]
    module["metadata"] = {}
    module["treespec_namedtuple_fields"] = {}
    if len(module["graph"]["nodes"]) > _MOST_NODES:
        raise ValueError(f"a graph of more than {_MOST_NODES} operations")
    module["module_call_graph"] = [call for call in module["module_call_graph"] if call["fqn"] == ""]
    for node in module["graph"]["nodes"]:
        node["metadata"] = {}


def _check(value: Any) -> None:
    """ValueError at the first value of a tree of JSON that is not in the lists above."""
    if isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("as_") and key not in _KINDS.split():
                raise ValueError(f"a value of the kind {key!r:.60}")
            if key == "range_constraints":
                for expression in item:
                    _check_expression(expression)
                _check(list(item.values()))
            elif key == "target":
                if item not in ALLOWED:
                    raise ValueError(f"the operation {item!r:.80}")
            elif key == "expr_str":
                _check_expression(item)
            elif key in ("in_spec", "out_spec"):
                _check_spec(json.loads(item))
            else:
                _check_word(key)
                _check(item)
    elif isinstance(value, str):
        _check_word(value)


def _check_word(text: str) -> None:
    if not _WORD.fullmatch(text):
        raise ValueError(f"the text {text!r:.60}")


def _check_spec(spec: Any) -> None:
    """The structure of inputs and outputs: tuples, lists and dicts."""
    if isinstance(spec, list):
        for item in spec:
            _check_spec(item)
    elif isinstance(spec, dict):
        if spec["type"] not in _SPEC_TYPES:
            raise ValueError(f"an input of the type {spec['type']!r:.60}")
        _check_spec(spec["children_spec"])


def _check_expression(text: str) -> None:
    """A size as a formula of whole numbers and symbols such as s30."""
    try:
        if len(text) > _LONGEST_FORMULA:
            raise ValueError
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, TypeError):
        raise ValueError(f"the size {text!r:.60}") from None
    if not _is_formula(tree) or _terms(tree) > _MOST_TERMS:
        raise ValueError(f"the size {text!r:.60}")


def _terms(node: ast.AST) -> int:
    """How many terms a formula has when it is multiplied out."""
    parts = [_terms(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
    name = node.func.id if isinstance(node, ast.Call) else type(getattr(node, "op", None)).__name__
    return math.prod(parts) if name in ("Mul", "Mult") else max(sum(parts), 1)


def _is_formula(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return (type(node.value) in (int, bool) and node.value < _LARGEST_SIZE) or (
            isinstance(node.value, str) and re.fullmatch(r"[a-z]+\d+", node.value) is not None
        )
    if isinstance(node, ast.Name):
        return re.fullmatch(r"[a-z]\d+", node.id) is not None
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_formula(node.operand)
    if isinstance(node, ast.BinOp):
        plain = isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod))
        return plain and _is_formula(node.left) and _is_formula(node.right)
    if isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id in _SYMBOLIC.split()
        parts = [*node.args, *(keyword.value for keyword in node.keywords)]
        return named and all(_is_formula(part) for part in parts)
    return False
