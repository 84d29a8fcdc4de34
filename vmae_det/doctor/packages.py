"""Versions of the packages that vmae_det needs, compared with its requirements. Imports none of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass

import vmae_det
from vmae_det.doctor.report import FACT, FAILED, OK, WARNING, Finding

SECTION = "Packages"
_DEVELOPMENT = ("test", "docs")  # extras that are listed only if a version is wrong
_DISPENSABLE = ("decord",)  # required where wheels exist, but PyAV replaces it


@dataclass(frozen=True)
class Requirement:
    """A requirement of vmae_det.

    Attributes:
        extra: name of the extra; "" for a requirement of the package itself.
        name: of the distribution.
        specifier: allowed versions, such as ">=17.1,<19".
        version: installed version; None if it is not installed.
        is_satisfied: whether the installed version is allowed.
    """

    extra: str
    name: str
    specifier: str
    version: str | None
    is_satisfied: bool


def describe_packages() -> Iterator[Finding]:
    """Yield the versions of all dependencies, then each missing package, wrong version and conflict."""
    try:
        import packaging.requirements  # noqa: F401
    except ImportError:
        remedy = "pip install packaging"
        yield Finding(SECTION, "packaging", FAILED, "not installed; versions were not compared", remedy)
        return
    try:
        requirements = read_requirements()
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install -e . in the clone, or pip install vmae_det"
        text = "vmae_det is not installed with pip; the versions that it needs are unknown"
        yield Finding(SECTION, "vmae_det", WARNING, text, remedy)
        return
    version = importlib.metadata.version("vmae_det")
    if version != vmae_det.__version__:
        text = f"pip installed {version}, the code is {vmae_det.__version__}; {version}'s needs are compared"
        yield Finding(SECTION, "vmae_det", WARNING, text, "run the installation again: pip install -e .")
    yield Finding(SECTION, "required", OK, _versions(r for r in requirements if not r.extra))
    extras = dict.fromkeys(r.extra for r in requirements if r.extra and r.extra not in _DEVELOPMENT)
    groups = {extra: [r for r in requirements if r.extra == extra] for extra in extras}
    installed = {extra: _versions(group) for extra, group in groups.items() if all(r.version for r in group)}
    text = "; ".join(f"{extra}: {versions}" for extra, versions in installed.items())
    yield Finding(SECTION, "extras", FACT, text or "none")
    missing = [extra for extra in extras if extra not in installed]
    if missing:
        yield Finding(
            SECTION, "not installed", FACT, f"{', '.join(missing)} (pip install 'vmae_det[EXTRA]' if needed)"
        )
    yield from _problems(requirements)


def read_requirements() -> list[Requirement]:
    """Return the requirements of the installed vmae_det that apply to this machine.

    Raises:
        importlib.metadata.PackageNotFoundError: vmae_det is not installed.
    """
    from packaging.requirements import Requirement as Parsed

    metadata = importlib.metadata.metadata("vmae_det")
    extras = ["", *(metadata.get_all("Provides-Extra") or ())]
    parsed = [Parsed(text) for text in importlib.metadata.requires("vmae_det") or ()]
    result = []
    for extra in extras:
        for requirement in parsed:
            marker = requirement.marker
            applies = marker is None or marker.evaluate({"extra": extra})
            if applies and (not extra or (marker is not None and not marker.evaluate({"extra": ""}))):
                version = installed_version(requirement.name)
                satisfied = version is not None and requirement.specifier.contains(version, prereleases=True)
                specifier = str(requirement.specifier)
                result.append(Requirement(extra, requirement.name, specifier, version, satisfied))
    return result


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions(requirements: Iterator[Requirement] | list[Requirement]) -> str:
    return ", ".join(f"{r.name} {r.version}" for r in requirements if r.version)


def _problems(requirements: list[Requirement]) -> Iterator[Finding]:
    seen: set[str] = set()
    for r in sorted(requirements, key=lambda r: r.extra in _DEVELOPMENT):
        if r.is_satisfied or r.name in seen or (r.extra and not r.version):
            continue
        seen.add(r.name)
        got = f"version {r.version} is installed" if r.version else "not installed"
        needs = f"vmae_det{f'[{r.extra}]' if r.extra else ''} needs {r.name}{r.specifier}"
        status = WARNING if r.extra or r.name in _DISPENSABLE else FAILED
        yield Finding(SECTION, r.name, status, f"{got}, {needs}", f"pip install '{r.name}{r.specifier}'")
    for name in dict.fromkeys(r.name for r in requirements if r.version and r.extra not in _DEVELOPMENT):
        yield from (conflict for conflict in _conflicts(name) if conflict.name not in seen)


def _conflicts(name: str) -> Iterator[Finding]:
    """Yield the conflicts of a dependency with its own dependencies, as `pip check` does."""
    from packaging.requirements import InvalidRequirement
    from packaging.requirements import Requirement as Parsed

    for text in importlib.metadata.requires(name) or ():
        try:
            parsed = Parsed(text)
        except InvalidRequirement:  # of an old package
            continue
        if parsed.marker is not None and not parsed.marker.evaluate({"extra": ""}):
            continue
        version = installed_version(parsed.name)
        if version is not None and not parsed.specifier.contains(version, prereleases=True):
            needs = f"{name} {installed_version(name)} needs {parsed.name}{parsed.specifier}"
            remedy = f"pip install '{parsed.name}{parsed.specifier}', or another version of {name}"
            yield Finding(SECTION, parsed.name, WARNING, f"version {version} is installed, {needs}", remedy)
