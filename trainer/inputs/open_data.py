"""The packed data sets of a run, each opened once, with one label space over all of them."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Literal

import numpy as np

from dataio.loading import Balance, LoadingPlan, StreamSource
from dataio.records import DataError
from dataio.shards import (
    MANIFEST_NAME,
    ClassMap,
    Manifest,
    exists,
    is_remote,
    load_manifest,
    match_classes,
    read_quarantine,
    renamed,
    shown,
    union,
)
from trainer.config import ConfigError, RunConfig
from trainer.inputs.feature_store import FeatureStore
from trainer.methods import METHODS
from trainer.networks import Modality, NetworkConfig
from trainer.sections import Selection

Roots = tuple[str, ...]  # of the data sets whose union is one data set of a run


def training_selections(config: RunConfig) -> dict[str, Selection]:
    """The selection of each stream that the method trains on."""
    return {name: getattr(config.data, name) for name in METHODS[config.method_name].streams}


class OpenData:
    """The data of one run.

    A data set is opened when it is first needed and stays open, so whoever needs the run's data is
    given this object. What was read before does not change when the files do.

    Errors are raised where something is asked for:

    - ``ConfigError``: ``data.classes`` names a class that no data set has (with ``data.restrict``,
      that one of them lacks), or lacks a class that is trained on.
    - ``DataError``: a data set is not there or cannot be read, or a sample lacks a label.

    Args:
        config: the run.
        opened: manifests by root, for several runs on the same data sets: what is there already is
            used, and what is opened here is added.
    """

    def __init__(self, config: RunConfig, *, opened: dict[str, Manifest] | None = None) -> None:
        self.config = config
        self._opened = {} if opened is None else opened
        self._packed: dict[Roots, Manifest] = {}
        self._named: dict[Roots, Manifest] = {}
        self._features: FeatureStore | None = None

    def read_features(self, store: FeatureStore) -> None:
        """From here on streams of frozen trunks read their features in place of pictures."""
        self._features = store
        for known in ("sources", "plan"):  # made with pictures
            self.__dict__.pop(known, None)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The label space, class names in order of their ids: ``data.classes``; else, with
        ``data.restrict``, the classes that all data sets of the run have; else those of the
        labelled streams, by name, or of all streams where none is labelled."""
        config = self.config
        if config.data.classes is not None:
            return config.data.classes
        if self._class_map is not None:
            return self._class_map.classes
        needs = METHODS[config.method_name].streams
        selections = training_selections(config)
        labelled = [s for name, s in selections.items() if needs[name].labelled]
        named = labelled or list(selections.values())
        return tuple(sorted({c for s in named for c in self.manifest(s).classes}))

    @cached_property
    def mapping(self) -> dict[str, dict[str, list[str]]] | None:
        """Class -> data set -> the names that stand for it there; None where nothing is matched."""
        space = self._class_map
        if space is None:
            return None
        data_sets = self._all_roots()
        matched = self._matched(data_sets, classes=space.classes, required=self._required)
        return {
            wanted: {
                _name(roots): [old for old, new in own.items() if new == wanted]
                for roots, own in zip(data_sets, matched.names, strict=True)
            }
            for wanted in space.classes
        }

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content of all data sets that the run trains on."""
        parts = sorted({self._union(roots).fingerprint for roots in self._training_roots()})
        return "+".join(part[:16] for part in parts)

    @cached_property
    def dataset(self) -> str:
        """What tables and reports call the data: ``data.dataset``, else the names that the data
        sets of training were packed under; a folder of one's own is called as it lies on disk."""
        if self.config.data.dataset is not None:
            return self.config.data.dataset
        names = (_packed_name(self._union(roots)) for roots in self._training_roots())
        return " + ".join(dict.fromkeys(names))

    @cached_property
    def sources(self) -> dict[str, StreamSource]:
        """The streams that the method trains on, by name."""
        _ = self._class_map  # refuses a class that no data set has
        found = {}
        needs = METHODS[self.config.method_name].streams
        for name, selection in training_selections(self.config).items():
            labelled = needs[name].labelled
            found[name] = self._attached(self._source(selection, labelled=labelled, training=True))
            if labelled:
                _require_labels(found[name], where=f"data.{name}")
                _require_within_classes(found[name], where=f"data.{name}")
        return found

    @cached_property
    def plan(self) -> LoadingPlan:
        """The batches of training: plain or balanced ones of each stream that steps draw from.

        Raises DataError also where the streams cannot give such batches, such as for too few
        classes that are in all of them.
        """
        method, training = METHODS[self.config.method_name], self.config.training
        balance = None
        if method.balanced:
            options: Any = self.config.method
            balance = Balance(options.classes_per_batch, options.samples_per_class)
        return LoadingPlan(
            {name: source for name, source in self.sources.items() if name not in method.walked},
            batch=None if balance else training.batch,
            balance=balance,
            seed=training.seed,
            steps=training.steps,
            block_shards=self.config.data.block_shards,
        )

    def manifest(self, selection: Selection) -> Manifest:
        """The data set of ``selection``, its classes named as the run names them."""
        roots = self._roots(selection)
        if self.config.data.classes is None and not self.config.data.restrict:
            return self._union(roots)
        if roots not in self._named:
            matched = self._matched([roots], classes=self.classes, required=self._required)
            self._named[roots] = renamed(self._union(roots), matched.names[0])
        return self._named[roots]

    def evaluation_source(self, selection: Selection, *, pictures: bool = False) -> StreamSource:
        """The stream of queries or gallery items: all views, labels visible, no augmentation.

        Args:
            pictures: never features in place of pictures.

        Classes outside the label space are welcome: retrieval needs no classifier.
        """
        source = self._source(selection, labelled=True, training=False)
        _require_labels(source, where=f"{selection.stream}/{selection.split}")
        return source if pictures else self._attached(source)

    def criterion_source(self, selection: Selection, *, labelled: bool, where: str) -> StreamSource:
        """A stream that a criterion looks at: all views, no augmentation.

        Args:
            labelled: whether its labels may be read; where not, ``walk_stream`` hides them, and
                samples need none.
            where: what to call it in messages.
        """
        source = self._source(selection, labelled=labelled, training=False)
        if labelled:
            _require_labels(source, where=where)
            _require_within_classes(source, where=where)
        return self._attached(source)

    def require_samples(self, selection: Selection, *, key: str, name: str, remedy: str) -> None:
        """Check that ``data.<name>`` has samples of ``selection``, which option ``key`` asks for.

        Raises ConfigError if it has none; the message says in which splits they are, and the
        ``remedy``.
        """
        manifest = self.manifest(selection)
        held = sorted(set(manifest.splits[manifest.streams == selection.stream].tolist()))
        if not held or selection.split not in (*held, "all"):
            raise ConfigError(
                f"{key}: {manifest.root} has no {selection.stream} of split '{selection.split}' "
                f"for data.{name}; it has them in {', '.join(held) or 'no split'}; {remedy}"
            )

    def require_trainable(self) -> LoadingPlan:
        """Check that the streams are there and give the batches that the run asks for."""
        return self.plan

    def bad_samples(self) -> int | None:
        """Samples in quarantine in the data sets that the run trains on, all their streams and
        splits; None where a quarantine cannot be read."""
        roots = {root for part in self._training_roots() for root in part}
        try:
            return sum(len(read_quarantine(root).samples) for root in roots)
        except (DataError, OSError):
            return None

    def _source(self, selection: Selection, *, labelled: bool, training: bool) -> StreamSource:
        data, manifest = self.config.data, self.manifest(selection)
        rows = manifest.select(selection.stream, selection.split)
        if data.restrict:
            rows = _restricted(rows, manifest, self.classes)
        network = self._networks["shape" if selection.stream == "shape" else "image"]
        return StreamSource(
            manifest=manifest,
            rows=rows,
            classes=self.classes,
            labelled=labelled,
            image_size=network.input_size,
            views=data.train_views if training else None,
            augment=data.augment if training else None,
            preprocessing=network.resolved_preprocessing,
        )

    def _attached(self, source: StreamSource) -> StreamSource:
        """``source``, with the features of its trunk where they are read."""
        return source if self._features is None else self._features.attached(source)

    @cached_property
    def _networks(self) -> dict[Modality, NetworkConfig]:
        """What goes into the trunk of each modality."""
        return {"image": self.config.network.of("image"), "shape": self.config.network.of("shape")}

    @cached_property
    def _class_map(self) -> ClassMap | None:
        """The label space where the run names or restricts it; None where it is the data sets' own.

        Raises ConfigError, with the nearest names, for a class that the data sets of training lack.
        """
        data = self.config.data
        if data.classes is None:
            # What all have in common depends on all of them, those of the evaluation included.
            return self._matched(self._all_roots(), classes=None) if data.restrict else None
        if len(set(data.classes)) < len(data.classes):
            raise ConfigError("data.classes: a class is named twice; name each once")
        required = "all" if data.restrict else "any"
        return self._matched(self._training_roots(), classes=data.classes, required=required)

    @property
    def _required(self) -> Literal["all", "none"]:
        """Which of the data sets must have every class of the label space."""
        return "all" if self.config.data.restrict else "none"

    def _matched(
        self,
        data_sets: list[Roots],
        *,
        classes: tuple[str, ...] | None,
        required: Literal["all", "any", "none"] = "any",
    ) -> ClassMap:
        held = {_name(roots): self._union(roots).classes for roots in data_sets}
        mapping = self.config.data.mapping
        try:
            return match_classes(held, classes=classes, mapping=mapping, required=required)
        except DataError as err:
            raise ConfigError(f"data.classes: {err}") from err

    def _roots(self, selection: Selection) -> Roots:
        root = selection.root or self.config.data.root
        return (root,) if isinstance(root, str) else root

    def _training_roots(self) -> list[Roots]:
        selections = training_selections(self.config).values()
        return list(dict.fromkeys(self._roots(selection) for selection in selections))

    def _all_roots(self) -> list[Roots]:
        """The data sets of training first, then those of queries and gallery, each once."""
        data = self.config.data
        evaluated = (self._roots(selection) for selection in (data.queries, data.gallery))
        return list(dict.fromkeys([*self._training_roots(), *evaluated]))

    def _union(self, roots: Roots) -> Manifest:
        """The data set of ``roots`` with the class names that it was packed with."""
        if roots not in self._packed:
            for root in roots:
                if root not in self._opened:
                    _require_data_set(root)
                    self._opened[root] = load_manifest(root)
            self._packed[roots] = union([self._opened[root] for root in roots])
        return self._packed[roots]


def _name(roots: Roots) -> str:
    return " + ".join(roots)


def _packed_name(manifest: Manifest) -> str:
    parts = manifest.metadata.get("union", [manifest.metadata])
    names = [str(part.get("dataset") or "folder") for part in parts]
    if names == ["folder"]:  # the adapter's own name, which says nothing
        return manifest.root.rstrip("/").rsplit("/", 1)[-1]
    return " + ".join(names)


def _require_data_set(root: str) -> None:
    if re.match(r"\w+://[^/]*@", root):
        raise ConfigError(
            f"data.root: {shown(root)}: a user or password in a URL would be kept in the run's "
            "files; put them in ~/.netrc or in the environment"
        )
    if not is_remote(root) and not exists(root, MANIFEST_NAME):
        raise DataError(
            f"{root}: no data set here (no {MANIFEST_NAME}); make one with `img2shape data "
            f"make procedural --out {root}` or `img2shape data pack`, or name yours: --data "
            "FOLDER, which sets data.root=FOLDER"
        )


def _require_labels(source: StreamSource, *, where: str) -> None:
    for row in source.rows:
        if source.manifest.labels[row] is None:
            raise DataError(
                f"{source.manifest.root}: sample '{source.manifest.keys[row]}' of {where} has no "
                "label; choose a labelled stream and split"
            )


def _require_within_classes(source: StreamSource, *, where: str) -> None:
    lacking = sorted(set(source.manifest.labels[source.rows].tolist()) - set(source.classes))
    if lacking:
        raise ConfigError(
            f"data.classes: lacks {', '.join(lacking)}, which {where} of "
            f"{source.manifest.root} holds; add them or leave data.classes out"
        )


def _restricted(rows: np.ndarray, manifest: Manifest, classes: tuple[str, ...]) -> np.ndarray:
    """The rows of ``classes`` alone."""
    kept = rows[[label in classes for label in manifest.labels[rows]]]
    if len(kept) == 0:
        known = sorted({label for label in manifest.labels[rows] if label is not None})
        raise ConfigError(
            f"data.restrict: {manifest.root} has no sample of data.classes "
            f"({', '.join(classes)}) there; it has "
            f"{', '.join(known) or 'no labels'}"
        )
    return kept
