"""Checks of rendered objects against the schemas of Kubernetes; they need no cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

KUBERNETES_VERSION = "1.31"


@dataclass(frozen=True)
class Checked:
    """The result of a check.

    Attributes:
        by_schema: number of objects that were compared with the schemas of Kubernetes
            ``KUBERNETES_VERSION``; None without the package kubernetes-validate.
        findings: what is wrong, each with the object's kind and name.
    """

    by_schema: int | None
    findings: tuple[str, ...]


def check(objects: Sequence[dict[str, Any]]) -> Checked:
    """Compare the objects of Kubernetes itself, not those of operators, with their schemas."""
    try:
        import kubernetes_validate
    except ImportError:
        return Checked(None, ())
    by_schema, findings = 0, []
    for manifest in objects:
        try:
            kubernetes_validate.validate(manifest, KUBERNETES_VERSION, strict=True)
            by_schema += 1
        except kubernetes_validate.SchemaNotFoundError:
            continue  # an operator's kind: its own admission checks it
        except kubernetes_validate.ValidationError as err:
            by_schema += 1
            called = f"{manifest['kind']} {manifest['metadata']['name']}"
            findings.append(f"{called}: {str(err).splitlines()[0]}")
    return Checked(by_schema, tuple(findings))
