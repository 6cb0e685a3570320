"""SHREC'13 and SHREC'14 sketch tracks (Li et al., 3DOR 2013 and 2014; CVIU 2014 and 2015).

Sketches are TU-Berlin's (Eitz et al., SIGGRAPH 2012), 50 of a class to train and 30 to test. The
shapes are meshes that a `.cla` file sorts into classes; a mesh file has a letter, `m1.off` in '13
and `M000001.off` in '14, that its id in the `.cla` file has not.

            classes   sketches (train / test)   shapes
    '13          90    7200 (4500 / 2700)         1258
    '14         171   13680 (8550 / 5130)         8987
    PART'14      48    3840 (2400 / 1440)         about 7200: the classes of more than 50 shapes

The abstract of the '14 track's report has 12,680 sketches; that is a misprint of 171 x 80 = 13,680.

Shapes have no official split. With `gallery=all` every shape has the split `test`: a run that also
trains on them, as most papers do, selects the shapes with `split: all`. With `gallery=heldout` a
fifth of each class is `test` and the rest `train`.

The shapes are not consistently upright; views show them as they are, with `up_axis` up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.datasets.cla import ClaClass, read_cla
from dataio.datasets.draw import drawn
from dataio.datasets.listing import Keys, kept_classes
from dataio.datasets.shrec_sketches import Sketches, check_sketches, listed_sketches
from dataio.datasets.shrec_tree import SHREC13, SHREC14, Edition, Tree, located, note_unlisted
from dataio.findings import Findings
from dataio.names import canonical_name
from dataio.records import DataError, Record, UpAxis

_PART_SHAPES, _PART_CLASSES = 50, 48

Classes = dict[str, ClaClass]  # by canonical name
Shapes = dict[str, list[Path]]


class Options(AdapterOptions):
    """Options of both tracks."""

    gallery: Literal["all", "heldout"] | None = Field(
        default=None,
        description="all: every shape is of split test; heldout: a fifth of each class is, the "
        "rest of train; null: all, but heldout for PART-SHREC'14.",
    )
    seed: int = Field(default=0, ge=0, description="Of the draw for gallery=heldout.")
    missing_classes: Literal["error", "drop"] = Field(
        default="error", description="What becomes of classes with sketches or shapes alone."
    )
    up_axis: UpAxis = Field(default="+z", description="Of the meshes: +z | +y.")

    @property
    def heldout(self) -> bool:
        """Whether the shapes are split."""
        return self.gallery == "heldout"


class Shrec14Options(Options):
    """Options of SHREC'14."""

    part: bool = Field(
        default=False, description="PART-SHREC'14: the classes of more than 50 shapes alone."
    )

    @property
    def heldout(self) -> bool:
        return self.part if self.gallery is None else self.gallery == "heldout"


def records(edition: Edition, root: Path, options: Options, findings: Findings) -> list[Record]:
    """The records of an edition: sketches by split and class, then shapes by class.

    Raises DataError for a missing folder, a wrong class file and a class of one side only. A listed
    mesh or sketch without its file, or with two, is a defect.
    """
    tree = located(edition, Path(root), dataset=findings.dataset)
    classes = _classes(tree, findings)
    sketches = listed_sketches(tree, findings)
    part = isinstance(options, Shrec14Options) and options.part
    wanted = kept_classes(
        {*classes, *chain(*sketches.values())}, options.classes, dataset=findings.dataset
    )
    if part:
        wanted = frozenset(
            k for k in wanted & set(classes) if len(classes[k].models) > _PART_SHAPES
        )
    shapes = _shapes(tree, classes, wanted, findings)
    sketches = {
        split: {label: files for label, files in by_class.items() if label in wanted}
        for split, by_class in sketches.items()
    }
    check_sketches(tree, sketches, findings)
    labels = _of_both_sides(
        tree, sketches, shapes, findings, drop=options.missing_classes == "drop"
    )
    made = _records(tree, sketches, shapes, labels, options)
    if options.classes is None and options.name in (None, edition.name):
        _expect_published(edition, made, findings, part=part)
    return made


def _records(
    tree: Tree, sketches: Sketches, shapes: Shapes, labels: list[str], options: Options
) -> list[Record]:
    keys = Keys(options.name or tree.edition.name)

    def record(stream: str, split: str, label: str, file: Path, **content: Any) -> Record:
        source = tree.source(file)
        # In lower case: copies of a data set differ in the letter before the number.
        key = keys.make(split, label, file.stem.lower(), source=source)
        return Record(key, stream, split, label, source_path=source, **content)

    queries = [
        record("sketch", split, label, file, image=file)
        for split, by_class in sketches.items()
        for label in labels
        for file in by_class.get(label, ())
    ]
    gallery = [
        record("shape", split, label, file, mesh=file, up_axis=options.up_axis)
        for label in labels
        for file, split in _split(shapes[label], options)
    ]
    return queries + gallery


def _classes(tree: Tree, findings: Findings) -> Classes:
    """The classes of the shapes that have any."""
    file = tree.class_file("Model")
    classes: Classes = {}
    for one in read_cla(file).classes:
        if not one.models:  # a node above other classes
            continue
        label = canonical_name(one.name)
        if label in classes:
            raise DataError(
                f"{findings.dataset}: {file} line {one.line}: {classes[label].name!r} (line "
                f"{classes[label].line}) and {one.name!r} are one class {label!r}; rename one"
            )
        classes[label] = one
    return dict(sorted(classes.items()))


def _shapes(tree: Tree, classes: Classes, wanted: frozenset[str], findings: Findings) -> Shapes:
    """The mesh files of the wanted classes, in the class file's order."""
    files, table = tree.meshes(findings), tree.class_file("Model")
    lines: dict[Path, int] = {}  # where a file is listed first
    shapes: Shapes = {label: [] for label in classes if label in wanted}
    for label, one in classes.items():
        for model, line in one.models.items():
            held = files.find(model)
            problem = _problem(held, lines, tree.models)
            for file in held:
                lines.setdefault(file, line)
            if label in wanted and problem:
                reason = f"{table} line {line} lists model {model} under {one.name!r}, {problem}"
                findings.defect(
                    f"{table.name} model {model}", reason, remedy="restore the archive's own files"
                )
            elif label in wanted:
                shapes[label] += held
    note_unlisted([file for file in files.all if file not in lines], table, findings)
    return shapes


def _problem(held: list[Path], lines: dict[Path, int], folder: Path) -> str | None:
    """Why the files that an id stands for are not one new file."""
    if not held:
        return f"and {str(folder)!r} has no .off file of that number"
    if len(held) > 1:
        return f"which is {' and '.join(repr(file.name) for file in held)} in {str(folder)!r}"
    if held[0] in lines:
        return f"and line {lines[held[0]]} lists its file {held[0].name!r} too"
    return None


def _of_both_sides(
    tree: Tree, sketches: Sketches, shapes: Shapes, findings: Findings, *, drop: bool
) -> list[str]:
    """The classes that have sketches and shapes, sorted."""
    queries = {label for part in sketches.values() for label, files in part.items() if files}
    gallery = {label for label, files in shapes.items() if files}
    table = tree.class_file("Model").name
    for label in sorted(queries ^ gallery):
        has = f"sketches and no shapes of {table}" if label in queries else "shapes and no sketches"
        message = f"class {label!r} has {has}"
        if not drop:
            raise DataError(
                f"{findings.dataset}: {message}; add them, or pass missing_classes=drop"
            )
        findings.note(f"{message}; dropped")
    if not queries & gallery:
        raise DataError(f"{findings.dataset}: no class with sketches and shapes is left to pack")
    return sorted(queries & gallery)


def _split(files: list[Path], options: Options) -> Iterator[tuple[Path, str]]:
    """Each file with its split. Held out is a fifth, at least one: in a class of one shape it is
    the shape that the test sketches look for."""
    count = max(1, (len(files) + 2) // 5) if options.heldout else None
    test = set(drawn(files, count, seed=options.seed, item_id=lambda file: file.stem.lower()))
    for file in files:
        yield file, "test" if file in test else "train"


def _expect_published(
    edition: Edition, made: list[Record], findings: Findings, *, part: bool
) -> None:
    classes = _PART_CLASSES if part else edition.classes
    sketches = Counter(record.split for record in made if record.stream == "sketch")
    counts = {
        "classes": (len({record.label for record in made}), classes),
        "train sketches": (sketches["train"], 50 * classes),
        "test sketches": (sketches["test"], 30 * classes),
    }
    if not part:
        counts["shapes"] = (sum(r.stream == "shape" for r in made), edition.shapes)
    for what, (held, published) in counts.items():
        findings.expect(held == published, f"{held} {what}, {published} are published")


_TERMS = (
    "For research, by the terms of the tracks' pages and of the shapes' own sources; "
    "shards may not be passed on."
)

ADAPTERS = (
    Adapter(
        name="shrec13",
        title="SHREC'13 sketch track: 90 classes, 7200 sketches, 1258 shapes (PSB)",
        layout="""\
SHREC13_SBR_TRAINING_SKETCHES/<class>/train/<id>.png
SHREC13_SBR_TESTING_SKETCHES/<class>/test/<id>.png
SHREC13_SBR_TARGET_MODELS/models/m<id>.off
SHREC2013_Sketch_Evaluation/SHREC13_SBR_Model.cla
SHREC2013_Sketch_Evaluation/SHREC13_SBR_Sketch_{Train,Test}.cla    optional""",
        terms=_TERMS,
        options=Options,
        records=partial(records, SHREC13),
    ),
    Adapter(
        name="shrec14",
        title="SHREC'14 sketch track: 171 classes, 13680 sketches, 8987 shapes; PART-SHREC'14",
        layout="""\
SHREC14LSSTB_SKETCHES/<class>/{train,test}/<id>.png
SHREC14LSSTB_TARGET_MODELS/M<6 digits>.off
SHREC14_Sketch_Evaluation[_CVIU]/SHREC14_SBR_Model.cla
SHREC14_Sketch_Evaluation[_CVIU]/SHREC14_SBR_Sketch_{Train,Test}.cla    optional""",
        terms=_TERMS,
        options=Shrec14Options,
        records=partial(records, SHREC14),
    ),
)
