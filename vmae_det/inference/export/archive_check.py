"""Makes torch.export archives (.pt2) safe to load: only allowed tensor operations and raw tensor data remain.

`torch.export.load` unpickles parts of an archive, evaluates strings in it as Python, and looks up functions
by name anywhere in torch. An archive is therefore parsed as plain JSON, checked against allowlists of what an
exported model needs, and rebuilt from the parts that pass. torch only loads the rebuilt copy.
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

from vmae_det.checkpoint.torch_files import open_archive, read_record
from vmae_det.utils.errors import WeightsError

_EXTRA_FILES = "extra/"
_GRAPH = "models/model.json"
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"  # a pickle that is not needed
_TENSOR_TABLES = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_RAW_DATA = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
)
_OPERATORS = {
    "_operator": "add sub mul floordiv mod neg truediv eq ne lt le gt ge",
    "torch": "sym_max sym_min sym_not sym_int sym_float",
    "torch.ops.aten": """
        __and__.Tensor _assert_scalar.default _assert_tensor_metadata.default _softmax.default
        _to_copy.default _unsafe_view.default add.Scalar add.Tensor addcmul.default addmm.default
        alias.default all.dim amax.default arange.default arange.start arange.start_step avg_pool2d.default
        baddbmm.default bitwise_and.Tensor bitwise_not.default bmm.default cat.default ceil.default
        chunk.default clamp.Tensor clamp.default clone.default contiguous.default conv2d.default
        conv3d.default cos.default
        detach.default detach_.default div.Scalar div.Tensor dropout.default eq.Tensor expand.default
        flatten.using_ints flip.default floor_divide.default full.default gather.default ge.Scalar ge.Tensor
        gelu.default group_norm.default gt.Scalar index.Tensor index_select.default layer_norm.default
        lift_fresh_copy.default linear.default lt.Scalar masked_fill.Scalar masked_fill_.Scalar matmul.default
        max.default max.dim maximum.default mean.dim meshgrid.indexing minimum.default mm.default movedim.int
        mul.Scalar mul.Tensor native_layer_norm.default neg.default new_full.default new_zeros.default
        nonzero.default pad.default permute.default pow.Scalar relu.default repeat.default
        repeat_interleave.self_int reshape.default scaled_dot_product_attention.default scatter.src
        scatter.value select.int sigmoid.default sin.default slice.Tensor softmax.int sort.default
        split.Tensor split_with_sizes.default sqrt.default squeeze.dim stack.default sub.Scalar sub.Tensor
        sum.dim_IntList sym_constrain_range_for_size.default sym_size.int t.default to.device to.dtype
        to.dtype_layout topk.default transpose.int tril.default unbind.int unflatten.int unsqueeze.default
        upsample_bicubic2d.default upsample_bicubic2d.vec upsample_bilinear2d.vec upsample_nearest2d.vec
        view.default where.ScalarOther where.self zeros_like.default
    """,
    "torch.ops.torchvision": "nms.default roi_align.default",
}
_ASSERTION = "torch.ops.aten._assert_scalar.default"
ALLOWED_OPERATORS = {f"{module}.{name}" for module, names in _OPERATORS.items() for name in names.split()}
# Allowed kinds of values in the schema; the other kinds are graphs, functions or custom objects.
_VALUE_KINDS = """
    as_none as_tensor as_tensors as_int as_ints as_float as_floats as_bool as_bools as_string as_strings
    as_expr as_name as_sym_int as_sym_ints as_sym_bool as_sym_float as_scalar_type as_memory_format
    as_layout as_device as_optional_tensor as_optional_tensors
"""
_SPEC_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
_SYMPY_FUNCTIONS = """
    Symbol Integer Add Mul FloorDiv Mod PythonMod CleanDiv Max Min Pow
    Eq Ne Ge Gt Le Lt GreaterThan LessThan
"""
_WORD = re.compile(r"[\w.:+-]*")
# Limits. A detector of two blocks has 102 nodes, with a person head 398. Its formulas of sizes have up to 402
# characters and expand into 16 terms, also with token dropout. SymPy hangs on much longer formulas.
_MAX_NODES = 10_000
_MAX_FORMULA_LENGTH = 1000
_MAX_TERMS = 64
_MAX_SIZE = 2**63
# Tensors may share memory: together they may have this many elements per byte of the file, plus a constant.
_MAX_ELEMENTS_PER_BYTE = 4
_ALWAYS_ALLOWED_ELEMENTS = 1 << 24


def safe_copy(path: Path) -> io.BytesIO:
    """Return a copy of an archive, rebuilt from its safe parts, for `torch.export.load`.

    Extra files are dropped.

    Raises:
        WeightsError: the file is not a torch.export archive, or has a part that an exported model does not
            need.
    """
    copy = io.BytesIO()
    try:
        with open_archive(path) as source, zipfile.ZipFile(copy, "w") as target:
            names = {name.partition("/")[2]: name for name in source.namelist()}
            if _GRAPH not in names:
                raise WeightsError(f"{path}: damaged, or not a torch.export archive: it has no {_GRAPH}")
            if len(names) < len(source.namelist()):  # equal names in different top folders
                raise WeightsError(f"{path}: refused: two parts of the archive have the same name")
            for inner, name in names.items():
                if not inner.startswith(_EXTRA_FILES):
                    target.writestr("archive/" + inner, _safe_part(inner, source, name, path))
    except (zipfile.BadZipFile, OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: damaged, or not a torch.export archive: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise WeightsError(f"{path}: its graph does not have the structure of a torch.export graph") from None
    copy.seek(0)
    return copy


def read_extra_file(path: Path, name: str) -> str | None:
    """Return the text of an extra file of an archive, or None if it has none with this name.

    Raises:
        WeightsError: the archive is damaged.
    """
    try:
        with open_archive(path) as source:
            for full in source.namelist():
                if full.partition("/")[2] == _EXTRA_FILES + name:
                    return read_record(source, full).decode("utf-8")
    except (zipfile.BadZipFile, OSError, EOFError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: damaged, or not a torch.export archive: {error}") from None
    return None


def _safe_part(inner: str, source: zipfile.ZipFile, name: str, path: Path) -> bytes:
    if inner == _SAMPLE_INPUTS:
        return b""
    if _RAW_DATA.fullmatch(inner):
        return read_record(source, name)
    try:
        if inner in _TENSOR_TABLES:
            content = json.loads(read_record(source, name))
            _check_tensors(content, path.stat().st_size)
        elif inner == _GRAPH:
            content = json.loads(read_record(source, name))
            _strip_metadata(content)
            _check_values(content)
        else:
            raise ValueError("not a part of an exported model")
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:
        raise WeightsError(f"{path}: refused: {inner}: {error}") from None
    return json.dumps(content).encode()


def _check_tensors(content: dict[str, Any], file_size: int) -> None:
    elements = 0
    for tensor in content["config"].values():
        elements += math.prod(size["as_int"] for size in tensor["tensor_meta"]["sizes"])
        if elements > _MAX_ELEMENTS_PER_BYTE * file_size + _ALWAYS_ALLOWED_ELEMENTS:
            raise ValueError("weights that are far larger than the file")
        if tensor["use_pickle"] is not False:
            raise ValueError("a pickled tensor")
        if not re.fullmatch(r"(weight|tensor)_\d+", tensor["path_name"]):
            raise ValueError(f"expected a tensor, got {tensor['path_name']!r:.60}")
    _check_values(content)


def _strip_metadata(program: dict[str, Any]) -> None:
    """Remove metadata from a graph, and Python code that checks sizes."""
    program["guards_code"] = []
    module = program["graph_module"]
    module["metadata"] = {}
    module["treespec_namedtuple_fields"] = {}
    if len(module["graph"]["nodes"]) > _MAX_NODES:
        raise ValueError(f"a graph of more than {_MAX_NODES} operations")
    module["module_call_graph"] = [call for call in module["module_call_graph"] if call["fqn"] == ""]
    for node in module["graph"]["nodes"]:
        node["metadata"] = {}
        if node["target"] == _ASSERTION:
            for value in node["inputs"]:
                if "as_string" in value["arg"]:
                    value["arg"]["as_string"] = ""  # the message, a sentence


def _check_values(value: Any) -> None:
    """Raise a ValueError at the first value of a JSON tree that the allowlists above do not contain."""
    if isinstance(value, list):
        for item in value:
            _check_values(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("as_") and key not in _VALUE_KINDS.split():
                raise ValueError(f"a value of the kind {key!r:.60}")
            if key == "range_constraints":
                for formula in item:
                    _check_formula(formula)
                _check_values(list(item.values()))
            elif key == "target":
                if item not in ALLOWED_OPERATORS:
                    raise ValueError(f"the operation {item!r:.80}")
            elif key == "expr_str":
                _check_formula(item)
            elif key in ("in_spec", "out_spec"):
                _check_spec(json.loads(item))
            else:
                _check_word(key)
                _check_values(item)
    elif isinstance(value, str):
        _check_word(value)


def _check_word(text: str) -> None:
    if not _WORD.fullmatch(text):
        raise ValueError(f"the text {text!r:.60}")


def _check_spec(spec: Any) -> None:
    """Check the structure of inputs and outputs: only tuples, lists and dicts are allowed."""
    if isinstance(spec, list):
        for item in spec:
            _check_spec(item)
    elif isinstance(spec, dict):
        if spec["type"] not in _SPEC_TYPES:
            raise ValueError(f"an input of the type {spec['type']!r:.60}")
        _check_spec(spec["children_spec"])


def _check_formula(text: str) -> None:
    """Check a size: a formula of integers and symbols such as s30."""
    try:
        if len(text) > _MAX_FORMULA_LENGTH:
            raise ValueError
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, TypeError):
        raise ValueError(f"the size {text!r:.60}") from None
    if not _is_arithmetic(tree) or _count_terms(tree) > _MAX_TERMS:
        raise ValueError(f"the size {text!r:.60}")


def _count_terms(node: ast.AST) -> int:
    """Return the number of terms that a formula expands to."""
    is_call = isinstance(node, ast.Call)
    children = ast.iter_child_nodes(node)
    if is_call:  # constant keywords are properties of a symbol, such as positive=True
        keywords = [keyword.value for keyword in node.keywords]
        children = [*node.args, *(value for value in keywords if not isinstance(value, ast.Constant))]
    parts = [_count_terms(part) for part in children if isinstance(part, ast.expr)]
    name = node.func.id if is_call else type(getattr(node, "op", None)).__name__
    if name == "Pow":
        return parts[0] ** 2
    return math.prod(parts) if name in ("Mul", "Mult") else max(sum(parts), 1)


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return (type(node.value) in (int, bool) and node.value < _MAX_SIZE) or (
            isinstance(node.value, str) and re.fullmatch(r"[a-z]+\d+", node.value) is not None
        )
    if isinstance(node, ast.Name):
        return re.fullmatch(r"[a-z]\d+", node.id) is not None
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_arithmetic(node.operand)
    if isinstance(node, ast.BinOp):
        allowed = isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod))
        return allowed and _is_arithmetic(node.left) and _is_arithmetic(node.right)
    if isinstance(node, ast.Call):
        allowed = isinstance(node.func, ast.Name) and node.func.id in _SYMPY_FUNCTIONS.split()
        parts = [*node.args, *(keyword.value for keyword in node.keywords)]
        if allowed and node.func.id == "Pow":  # SymPy hangs on large powers and nested squares
            base, exponent = map(ast.unparse, parts) if len(parts) == 2 else ("Pow", "")
            return exponent == "Integer(2)" and "Pow" not in base and _is_arithmetic(parts[0])
        return allowed and all(_is_arithmetic(part) for part in parts)
    return False
