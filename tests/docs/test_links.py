"""Every page and file that code, configs and pages refer to exists."""

import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the pages are part of a clone")

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "datasets/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = [page for page in PAGES if page.is_file() and "_build" not in page.parts]
SOURCES = [
    *(ROOT / name for name in ("Makefile", "setup.py", "datasets/prepare.py")),
    *(
        path
        for folder in ("vmae_det", "tests", "tools", "configs")
        for pattern in ("*.py", "*.yaml", "*.html")
        for path in sorted((ROOT / folder).rglob(pattern))
    ),
]


def relative(path):
    return path.relative_to(ROOT).as_posix()


def headings(page):
    """The anchors of a page's headings, as GitHub and MyST generate them."""
    text = re.sub(r"^(```|:::).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_pages_named_in_code_exist():
    pattern = re.compile(r"(?<![\w/.])(?:docs|datasets)/[\w/]+\.(?:md|webp|png|svg)")
    named = {(name, relative(path)) for path in SOURCES for name in pattern.findall(path.read_text("utf-8"))}
    assert len(named) > 10
    assert not [entry for entry in sorted(named) if not (ROOT / entry[0]).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_of_a_page_resolve(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{relative(page)} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in headings(target), f"{relative(page)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_names_of_the_code_on_a_page_exist(page):
    """Files such as `vmae_det/utils/cpu.py`, names such as `vmae_det.engine.trainer.Trainer`, and imports."""
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":
        return  # it names modules of earlier versions
    folders = "vmae_det|tests|tools|configs"
    if page.name == "coming_from.md":
        folders = "vmae_det|tests"  # the page names the tools and configs of other toolkits
    for path in re.findall(rf"\b(?:{folders})/[\w/]+\.(?:py|yaml|html)", text):
        assert (ROOT / path).is_file(), f"{relative(page)} names {path}"
    names = set(re.findall(r"(?<![\w/])vmae_det(?:\.\w+)+", text))
    for module, imported in re.findall(r"^ *from (vmae_det[\w.]*) import ([\w, ]+)", text, re.MULTILINE):
        names |= {f"{module}.{name}" for name in re.split(r",\s*", imported)}
    for name in sorted(names - {"vmae_det.json"}):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as error:
            raise AssertionError(f"{relative(page)} names {name}: {error}") from None


def test_every_page_is_in_the_table_of_contents():
    listed = {ROOT / "docs" / "index.md"}
    for page in (ROOT / "docs").rglob("*.md"):
        for entries in re.findall(r"^```\{toctree\}$(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.M):
            listed |= {
                page.parent / f"{line}.md" for line in entries.split("\n") if line and line[0] not in ":`"
            }
    pages = {page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts}
    assert len(listed) > 50
    assert not [relative(page) for page in pages - listed]
