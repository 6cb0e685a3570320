"""Python and packages: what is installed against what this program was tested with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from cluster.doctor.findings import Finding, error, note, ok, warning

# torch 2.x and torchvision 0.y are released together: y = x + 15.
_PAIR = 15


@dataclass(frozen=True)
class Wanted:
    """Ranges by package; ``optional`` are those of extras, needed where they are installed."""

    python: str
    packages: Mapping[str, str]
    optional: Mapping[str, str]


def wanted(package: str = "img2shape") -> Wanted:
    """What the installed ``package`` asks for.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    needed, optional = {}, {}
    for text in metadata.requires(package) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            needed[requirement.name] = str(requirement.specifier)
        elif requirement.name != package:
            optional[requirement.name] = str(requirement.specifier)
    return Wanted(metadata.metadata(package)["Requires-Python"] or "", needed, optional)


def installed(names: Mapping[str, str]) -> dict[str, str | None]:
    """The installed version of each, None where there is none."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def check_python(version: str, asked: str) -> Finding:
    """Whether Python ``version`` is within ``asked``, as in ``>=3.10``."""
    if _fits(version, asked):
        return ok("python", f"Python {version}")
    return error(
        "python", f"Python {version}, but {asked} is needed", "make the environment with that one"
    )


def check_packages(
    found: Mapping[str, str | None], asked: Mapping[str, str], *, extra: str = "needed"
) -> list[Finding]:
    """One finding for each package that does not fit, or one that all do.

    ``extra="optional"``: what is absent is not missed, and what does not fit is a warning.
    """
    wrong = []
    for name, specifier in asked.items():
        version = found.get(name)
        if version is None and extra == "needed":
            message = f"{name} is not installed"
            wrong.append(error("packages", message, f'pip install "{name}{specifier}"'))
        elif version is not None and not _fits(version, specifier):
            finding = error if extra == "needed" else warning
            message = f"{name} {version} is installed, but {specifier} is what was tested"
            wrong.append(finding("packages", message, f'pip install "{name}{specifier}"'))
    here = sum(version is not None for version in found.values())
    return wrong or [ok("packages", f"{here} {extra} packages are within their ranges")]


def check_torch_pair(torch: str, torchvision: str, *, failure: str | None = None) -> Finding:
    """Whether the two are of one release and one build; ``failure``: of importing torchvision."""
    remedy = "install both with one pip command and from one index"
    ours, theirs = Version(torch), Version(torchvision)
    if ours.major == 2 and theirs.major == 0 and theirs.minor != ours.minor + _PAIR:
        fitting = f"0.{ours.minor + _PAIR}"
        message = f"torch {torch} goes with torchvision {fitting}, not {torchvision}"
        return error("torchvision", message, remedy)
    if ours.local and theirs.local and ours.local != theirs.local:
        message = f"torch is a build for {ours.local}, torchvision one for {theirs.local}"
        return error("torchvision", message, remedy)
    if failure is not None and "operator torchvision::" in failure:
        message = f"torchvision {torchvision} has no compiled operators for this build of torch"
        return note("torchvision", f"{message}; training does without them", remedy)
    if failure is not None:
        return error("torchvision", f"cannot be imported beside torch {torch}: {failure}", remedy)
    if ours.major != 2:
        return note("torchvision", f"torch {torch} and torchvision {torchvision}: not a known pair")
    return ok("torchvision", f"torch {torch} with torchvision {torchvision}")


def _fits(version: str, specifier: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False
