"""All methods by name: those of this folder, and those that other distributions bring.

A distribution brings a method with an entry point in its ``pyproject.toml``, whose name is the
method's::

    [project.entry-points."img2shape.methods"]
    my-method = "my_package.my_method:MyMethod"
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, MutableMapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from trainer.methods.base import Method

log = logging.getLogger(__name__)
GROUP = "img2shape.methods"
FILES = (  # a new method in this folder is one more line; `img2shape methods` lists in this order
    "source_only",
    "zero_shot",
    "dann",
    "dan",
    "jan",
    "deep_coral",
    "afn",
    "entropy_minimisation",
    "cdan",
    "mstn",
    "dlea",
    "hda",
    "astn",
    "hifa",
    "daisnet",
    "ftspl",
    "dca",
    "siamese",
    "dcml",
    "coral",
    "gfk",
    "jgsa",
    "meda",
)


class Methods(MutableMapping[str, type[Method]]):
    """Method classes by name. They are loaded at the first look-up, so that the modules of other
    distributions may import this package first. ``METHODS["mine"] = Mine`` adds one for this
    process alone."""

    def __init__(self) -> None:
        self._origins: dict[str, str] = {}

    @cached_property
    def _classes(self) -> dict[str, type[Method]]:
        here = (_method_of(f"trainer.methods.{file}") for file in FILES)
        classes = {cls.name: cls for cls in here}
        for point in entry_points(group=GROUP):
            origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
            try:
                classes[point.name] = _loaded(point, taken=classes)
                self._origins[point.name] = origin
            except Exception as err:  # whatever the other distribution does
                reason = " ".join(f"{type(err).__name__}: {err}".split())
                log.warning("method '%s' of %s is left out: %s", point.name, origin, reason)
        return classes

    def __getitem__(self, name: str) -> type[Method]:
        return self._classes[name]

    def __setitem__(self, name: str, cls: type[Method]) -> None:
        self._classes[name] = cls

    def __delitem__(self, name: str) -> None:
        del self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def origin(self, name: str) -> str | None:
        """Name and version of the distribution that brings a method; None for this one."""
        return self._origins.get(name)


def _method_of(module: str) -> type[Method]:
    """The one class of a file that has a method's name."""
    (found,) = (
        value
        for value in vars(import_module(module)).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module
        and "name" in vars(value)
    )
    return found


def _loaded(point: EntryPoint, *, taken: Container[str]) -> type[Method]:
    cls = point.load()
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        raise TypeError(f"{point.value} is no subclass of img2shape.Method")
    lacking = [a for a in ("name", "paper", "streams", "Config") if not hasattr(cls, a)]
    if lacking:
        raise TypeError(f"{point.value} does not set {', '.join(lacking)}")
    if cls.name != point.name:
        raise ValueError(f"{point.value} calls itself '{cls.name}'; give both the same name")
    if point.name in taken:
        raise ValueError(f"there is a method of this name already; rename {point.value}")
    return cls


METHODS = Methods()
