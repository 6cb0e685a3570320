"""What is installed: packages, torch's build beside torchvision's, and the engine of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cluster.doctor.findings import Finding, error, note, ok, warning
from trainer.config import RunConfig
from trainer.engines import refusals

_PACKAGE = "img2shape"


def look_at_packages() -> tuple[dict[str, list[str]], dict[str, str]]:
    """Requirements of this package and of those that it needs, by name; installed versions."""
    versions: dict[str, str] = {
        canonicalize_name(d.name): d.version for d in metadata.distributions()
    }
    own = metadata.requires(_PACKAGE) or []
    names = {_PACKAGE, *(Requirement(text).name for text in own)}
    here = sorted(name for name in names if canonicalize_name(name) in versions)
    return {name: metadata.requires(name) or [] for name in here}, versions


def check_packages(
    asked: Mapping[str, Sequence[str]], versions: Mapping[str, str]
) -> list[Finding]:
    """One finding for each requirement that is not met, as `pip check` finds them, or one that
    all are.

    A package of one of our own extras may be absent; one that does not fit is a warning.
    """
    found = []
    for package, texts in asked.items():
        for requirement in map(Requirement, texts):
            extra = bool(requirement.marker and not requirement.marker.evaluate({"extra": ""}))
            version = versions.get(canonicalize_name(requirement.name))
            if extra and (version is None or package != _PACKAGE):
                continue
            if version is not None and requirement.specifier.contains(version, prereleases=True):
                continue
            wanted = f"{requirement.name}{requirement.specifier}"
            here = f"{requirement.name} {version}" if version else "nothing of it"
            message = f"{package} needs {wanted}, but {here} is installed"
            remedy = f'pip install "{wanted}"'
            found.append((warning if extra else error)("packages", message, remedy))
    return found or [ok("packages", f"all requirements of {_PACKAGE} are met")]


def torchvision_failure() -> str | None:
    """Why torchvision cannot be used beside this torch; None if it can."""
    try:
        import torchvision.ops  # noqa: F401  # registers its compiled operators
    except (ImportError, OSError, RuntimeError, AttributeError) as err:
        return str(err).splitlines()[0]
    return None


def check_torchvision(failure: str | None) -> Finding:
    """Whether torchvision is of a build that fits torch's: `pip check` compares versions alone."""
    remedy = "install torch and torchvision with one pip command and from one index"
    if failure is None:
        return ok("torchvision", "its build fits torch's")
    if "operator torchvision::" in failure:
        message = "its compiled operators do not fit this build of torch; training needs none"
        return note("torchvision", message, remedy)
    return error("torchvision", f"cannot be imported beside torch: {failure}", remedy)


def check_engine(config: RunConfig) -> list[Finding]:
    """What the engine refuses, such as a DeepSpeed that is not installed."""
    found = []
    for refusal in refusals(config):
        message, _, remedy = refusal.rpartition("; ")
        found.append(error("engine", message, remedy))
    return found or [ok("engine", f"strategy.name={config.strategy.name} can train this run")]
