"""Sphinx extension: generate the reference pages from the code.

A page contains a marker such as `<!-- reference: config -->`, which is replaced by Markdown when the page is
read:

- `config`: every config key with its default, range and comment, from `vmae_det/config/defaults.py`;
- `commands`: the usage and options of every command, from the argparse parsers of `vmae_det/cli`;
- `api`: the names exported by the packages, for autodoc.

The functions that generate Markdown do not import Sphinx.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import vmae_det
from vmae_det.cli import main as cli
from vmae_det.config import defaults

MARKER = re.compile(r"<!-- reference: (\w+) -->")

# Names of modules that the guides use and that their package does not export.
DOCUMENTED = (
    "vmae_det.data.catalog.CatalogEntry",
    "vmae_det.data.catalog.register_dataset",
    "vmae_det.data.catalog.register_dataset_type",
    "vmae_det.data.datasets.ClipDataset",
    "vmae_det.dataset_tools.importers.base.Importer",
    "vmae_det.rendering.result_writers.ResultWriter",
    "vmae_det.engine.train.run_training",
    "vmae_det.engine.evaluation.run_evaluation",
    "vmae_det.engine.launch.launch",
    "vmae_det.engine.trainer.HookBase",
    "vmae_det.engine.trainer.Trainer",
    "vmae_det.formats.ava_csv.read_action_csv",
    "vmae_det.formats.label_map.LabelMap",
)


# ---------------------------------------------------------------- config keys


def describe_range(values: Any) -> str:
    """Describe the range of a config key in words."""
    kind = values.kind
    if hasattr(values, "item"):
        low, high = values.shortest, values.longest
        count = f"{low}" if low == high else f"{low} to {high}"
        order = ", in ascending order" if values.ordered else ""
        return f"{count} values{order}, each: {describe_range(values.item)}"
    if getattr(values, "choices", ()):
        return " or ".join(f"`{name}`" for name in values.choices)
    if getattr(values, "registry", ""):
        registry = values.registry.partition(":")[2]
        extra = "".join(f", or `{name}`" for name in values.extra_choices)
        return f"a name in `{registry}`{extra}"
    if getattr(values, "form", ""):
        return f"str of the form {values.form}" + (", or empty" if values.blank else "")
    if hasattr(values, "blank"):
        return "str" if values.blank else "str, not empty"
    words = "".join(f", or `{word}`" for word in getattr(values, "extra_choices", ()))
    return f"{kind} in {values.text}{words}" if hasattr(values, "text") else kind


def key_comments() -> dict[str, str]:
    """Return the comment of each key in defaults.py. A comment holds for all keys up to the next comment."""
    comments: dict[str, str] = {}
    comment: list[str] = []
    in_comment = False
    for line in Path(defaults.__file__).read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith("# -----"):
            comment = [*comment, line[2:]] if in_comment else [line[2:]]
            in_comment = True
            continue
        in_comment = False
        if match := re.match(r"_C\.([A-Z0-9_.]+) = (Key|Group)\(", line):
            if match[2] == "Key":
                comments[match[1]] = " ".join(comment)
            else:
                comment = []
        elif not line.strip():
            comment = []
    return comments


def config_page() -> str:
    """Return a table of keys for each config group."""
    comments = key_comments()
    groups: dict[str, list[str]] = {}
    for name, key in defaults.KEYS.items():
        group = name.rpartition(".")[0] or "Top level"
        cells = (
            f"`{name}`",
            f"`{key.default!r}`",
            describe_range(key.range),
            comments.get(name, ""),
        )
        groups.setdefault(group, []).append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    lines = []
    for group, rows in groups.items():
        lines += [f"## {group}", "", "| key | default | range | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|").replace("*", "\\*")


def _prose(text: str) -> str:
    """Mark options as code and make links of the pages that a text names."""
    parts = re.split(r"(`[^`]*`)", text)  # every second part is code already
    for number in range(0, len(parts), 2):
        part = re.sub(r"(?<![\w-])--[a-z][\w-]*", lambda match: f"`{match[0]}`", parts[number])
        parts[number] = re.sub(r"\bdocs/([\w/]+)\.md\b", r"[\1](../\1.md)", part)
    return "".join(parts)


# ---------------------------------------------------------------- command line


def commands_page() -> str:
    """Return a section for each command: summary, usage, arguments and options."""
    lines = []
    for name in cli.COMMANDS:
        _, parser, _ = cli.build_parser(name)
        lines += _command(parser, f"vmae-det {name}", level=2)
    return "\n".join(lines)


def _command(parser: argparse.ArgumentParser, title: str, level: int) -> Iterator[str]:
    yield from (f"{'#' * level} {title}", "")
    if parser.description:
        yield from (_sentence(parser.description), "")
    usage = " ".join(re.sub(r"^usage: ", "", parser.format_usage(), flags=re.IGNORECASE).split())
    usage = textwrap.fill(usage, 88, subsequent_indent="    ", break_on_hyphens=False)
    yield from ("```text", usage, "```", "")
    subcommands = []
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            subcommands += action.choices.items()
        elif action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            rows.append(f"| {_cell(_invocation(action))} | {_cell(_explanation(parser, action))} |")
    if rows:
        yield from ("| argument | meaning |", "|---|---|", *rows, "")
    if parser.epilog:
        epilog = parser.epilog.strip()
        aligned = "  " in epilog
        yield from ("```text", epilog, "```", "") if aligned else (_prose(epilog), "")
    for name, subparser in subcommands:
        yield from _command(subparser, f"{title} {name}", level + 1)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[0].upper() + text[1:] + ("" if text.endswith((".", ":")) else ".")


def _invocation(action: argparse.Action) -> str:
    metavar = action.metavar
    if isinstance(metavar, tuple):
        metavar = " ".join(metavar)
    if not action.option_strings:
        return f"`{metavar or action.dest}`"
    value = ""
    if action.nargs != 0:
        choices = "|".join(str(choice) for choice in action.choices or ())
        value = " " + (metavar or choices or action.dest.upper())
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def _explanation(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    default = action.default
    hidden = default is None or default is False or default == argparse.SUPPRESS or default in ([], "")
    if action.option_strings and not hidden and "default" not in text and action.nargs != 0:
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        text += f"; default: {shown}" if text else f"default: {shown}"
    if action.choices and action.metavar and str(next(iter(action.choices))) not in text:
        text += f" (one of {', '.join(map(str, action.choices))})"
    return text + ("; required" if action.required and action.option_strings else "")


# ---------------------------------------------------------------- Python API


def public_packages() -> Iterator[ModuleType]:
    """Yield the packages that declare the names they export."""
    for info in pkgutil.walk_packages(vmae_det.__path__, "vmae_det."):
        if info.ispkg:
            package = importlib.import_module(info.name)
            if getattr(package, "__all__", ()):
                yield package


def api_page() -> str:
    """Return autodoc directives for the names that the packages export, and for `DOCUMENTED`."""
    lines = []
    for package in public_packages():
        lines += [f"## {package.__name__}", "", (package.__doc__ or "").strip(), ""]
        lines += _autodoc(f"{package.__name__}.{name}" for name in package.__all__)
    lines += ["## Further names", "", "Import these from their modules.", ""]
    lines += _autodoc(DOCUMENTED)
    return "\n".join(lines)


def _autodoc(names: Iterator[str] | tuple[str, ...]) -> list[str]:
    lines = ["```{eval-rst}"]
    for name in names:
        module, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(module), attribute)
        if isinstance(value, type):
            lines += [f".. autoclass:: {name}", "   :members:", ""]
        elif callable(value):
            lines += [f".. autofunction:: {name}", ""]
        else:
            lines += [f".. data:: {name}", f"   :type: {type(value).__name__}", ""]
    return [*lines, "```", ""]


_SECTIONS = {"Args:": "Parameters", "Attributes:": "Attributes", "Raises:": "Raises", "Returns:": "Returns"}


def to_rst(lines: list[str]) -> list[str]:
    """Convert a docstring to reStructuredText that always parses.

    Docstrings are plain text with code in single backticks and sections such as `Args:`. Text outside of
    backticks is escaped, sections become lists, and blocks get blank lines around them.
    """
    result: list[str] = []
    in_section = False
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text in _SECTIONS and indent == 0:
            result += ["", f"**{_SECTIONS[text]}**", ""]
            in_section = True
            continue
        if text and indent == 0:
            in_section = False
        if in_section:
            entry = re.match(r"(\*{0,2}[\w., *\[\]]+?)( \(.*?\))?: (.*)", text)
            if indent == 4 and entry:
                result += [f"- `{entry[1]}`: {_escape(entry[3])}"]
            else:
                result += [f"  {_escape(text)}" if text else ""]
            continue
        if re.match(r"([-*]|\d+\.) ", text) and result and result[-1].strip():
            result.append("")
        result.append(" " * (0 if indent < 4 else 4) + _escape(text) if text else "")
    return _separate(result)


def _escape(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") and part.endswith("`") and len(part) > 1 else _escape_plain(part)
        for part in parts
    )


def _escape_plain(text: str) -> str:
    return re.sub(r"([*|`\\])|(?<=\w)_(?!\w)", lambda match: "\\" + match[0], text)


def _separate(lines: list[str]) -> list[str]:
    """Put a blank line wherever the indentation changes, as reStructuredText requires for blocks."""
    result: list[str] = []
    for line in lines:
        if result and line.strip() and result[-1].strip():
            before = len(result[-1]) - len(result[-1].lstrip())
            now = len(line) - len(line.lstrip())
            continues_item = result[-1].lstrip().startswith("- ") and now == before + 2
            if now != before and not continues_item and not (line.lstrip().startswith("- ") and now < before):
                result.append("")
        result.append(line)
    return result


# ---------------------------------------------------------------- Sphinx

PAGES: dict[str, Callable[[], str]] = {"config": config_page, "commands": commands_page, "api": api_page}


def replace_markers(text: str) -> str:
    """Replace the markers of a page by the Markdown that they name."""
    return MARKER.sub(lambda match: PAGES[match[1]](), text)


def _read_source(app: Any, name: str, source: list[str]) -> None:
    source[0] = replace_markers(source[0])


def _read_docstring(app: Any, kind: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def _skip_field_aliases(
    app: Any, kind: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Skip the fields of named tuples. The docstring of the class describes them."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Any) -> dict[str, Any]:
    """Connect the generators to Sphinx."""
    app.connect("autodoc-skip-member", _skip_field_aliases)
    app.connect("source-read", _read_source)
    app.connect("autodoc-process-docstring", _read_docstring)
    return {"version": vmae_det.__version__, "parallel_read_safe": True}
