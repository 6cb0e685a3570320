"""Pix3D (Sun et al., CVPR 2018): photos aligned with shapes of mostly IKEA furniture.

A shape is a *folder*, `model/<category>/<shape>`: several of the 395 folders hold variants of their
mesh, fitted to single photos. A shape's mesh is `model.obj`, otherwise the first variant by name;
each photo notes the variant it was fitted with. Meshes are y up, their front is -z.

Boxes and masks are in the pixels as stored, before EXIF turns the photo, where its size there is
that of the table, `img_size`; otherwise in the upright photo. A photo of neither size is a defect.

There is no official split. By default a hash puts 20 % of the photos and of the shapes into test,
each on its own: a test photo's own shape may be a training shape. With `train_file` and `test_file`
(COCO-style, such as the S1 and S2 of Mesh R-CNN) the photos follow the files, and a shape is of
test if a test photo shows it, otherwise of train if a train photo does, otherwise by the hash.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image, UnidentifiedImageError
from pydantic import Field

from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.datasets.listing import (
    Keys,
    file_under,
    found,
    hashed_split,
    kept_classes,
    located,
    visible,
)
from dataio.datasets.pix3d_index import INDEX_NAME, Row, read_index
from dataio.datasets.pix3d_splits import listed_splits
from dataio.findings import Findings
from dataio.names import canonical_name
from dataio.records import DataError, Record, Split

# Their masks belong to other photos (reported with the data set, never corrected).
_KNOWN_BAD = frozenset({"table/0045", "table/1749"})
_PUBLISHED = (10_069, 395, 9)


class Options(AdapterOptions):
    """Options of `pix3d`."""

    crop: Literal["none", "bbox", "mask"] = Field(
        default="bbox",
        description="bbox: the photo within the object's box; mask: the same with all that is not "
        "the object white; none: the whole photo.",
    )
    padding: float = Field(
        default=0.1, ge=0, description="Margin around the box, a share of its width and height."
    )
    clean: bool = Field(default=False, description="Drop photos of truncated or occluded objects.")
    drop_known_bad: bool = Field(
        default=False, description="Drop table/0045 and table/1749, whose masks are wrong."
    )
    train_file: Path | None = Field(
        default=None,
        description="COCO-style JSON with the train photos (images[].file_name), for example S1 or "
        "S2; relative to the root, or absolute. Needs test_file; null: split by hash.",
    )
    test_file: Path | None = Field(default=None, description="The same for the test photos.")
    seed: int = Field(default=0, ge=0, description="Of the split by hash.")
    test_share: float = Field(
        default=0.2, ge=0, le=1, description="Share of test in the split by hash."
    )


def records(root: Path, options: Options, findings: Findings) -> list[Record]:
    """Photos in the order of `pix3d.json`, then shapes by name.

    `extra["shape_id"]` and the instance of both are the shape's folder. A photo has its flags in
    `extra` too, and `model`, the variant it was fitted with. Its own known defects are notes in
    `findings`.

    Raises DataError naming row or file if the tree is not usable.
    """
    return _Pix3D(root, options, findings).records()


class _Pix3D:
    def __init__(self, root: Path, options: Options, findings: Findings) -> None:
        self.options = options
        self.findings = findings
        self.dataset = findings.dataset
        self.root = located(
            root,
            lambda folder: (folder / INDEX_NAME).is_file(),
            dataset=self.dataset,
            expected=f"{INDEX_NAME}, img/<category>/ and model/<category>/<shape>/",
        )
        needed = {"none": (), "bbox": ("bbox",), "mask": ("bbox", "mask")}[options.crop]
        needed += ("truncated", "occluded") if options.clean else ()
        self.rows = read_index(self.root, findings, needed=needed)
        self.shapes = self._shape_folders()
        files = {"train": options.train_file, "test": options.test_file}
        self.splits = listed_splits(self.root, files, self.rows, findings)
        self.keys = Keys(options.name or "pix3d")
        self._whole: list[str] = []  # photos whose box is of no use

    def records(self) -> list[Record]:
        labels = {row.label for row in self.rows} | {_label(shape) for shape in self.shapes}
        counts = (len(self.rows), len(self.shapes), len(labels))
        self.findings.expect(
            counts == _PUBLISHED,
            "found {} photos and {} shapes of {} categories; ".format(*counts)
            + "published are {:,}, {} and {}".format(*_PUBLISHED),
        )
        kept = kept_classes(labels, self.options.classes, dataset=self.dataset)
        self._check_shapes([row for row in self.rows if row.label in kept])
        photos = [self._photo(row) for row in self.rows if row.label in kept and self._wanted(row)]
        if self._whole:
            self.findings.note(
                f"{len(self._whole)} photos have an empty box or one outside the photo (first: "
                f"{self._whole[0]}); they are kept whole"
            )
        shapes = [self._shape(shape) for shape in self.shapes if _label(shape) in kept]
        return [one for one in (*photos, *shapes) if one is not None]

    def _wanted(self, row: Row) -> bool:
        if self.options.drop_known_bad and row.item_id in _KNOWN_BAD:
            return False
        if self.splits is not None and row.img not in self.splits:
            return False
        occluded = row.flags.get("truncated") or row.flags.get("occluded")
        return not (self.options.clean and occluded)

    def _photo(self, row: Row) -> Record | None:
        file = file_under(self.root, row.img)
        if file is None:
            return self._defect(row, f"{row.where}: there is no such photo under {self.root}")
        size = _picture_size(file)  # None: packing names it
        if self.options.crop != "none" and size and row.size and sorted(size) != sorted(row.size):
            sizes = "photo {}x{}, {} says {}x{}".format(*size, INDEX_NAME, *row.size)
            return self._defect(row, f"{row.where}: {sizes}", other="none")
        mask = None
        if row.item_id in _KNOWN_BAD:
            self._note_bad_mask(row)
        elif self.options.crop == "mask" and row.mask is not None:
            mask = file_under(self.root, row.mask)
            size = None if mask is None else _picture_size(mask)
            if size is None:
                return self._defect(row, f"{row.where}: mask {row.mask!r} is missing or no picture")
            if row.size is not None and size != row.size:
                return self._defect(row, f"{row.item_id}: {_sizes(size, row.size)}")
        split = self._split(row.img)
        return Record(
            self.keys.make(split, row.label, PurePosixPath(row.img).stem, source=row.img),
            "image",
            split,
            row.label,
            image=file,
            source_path=row.img,
            instance=row.shape,
            crop=self._crop(row),
            mask=mask,
            drawn_on=row.size,
            extra={"shape_id": row.shape, "model": row.model, **row.flags},
        )

    def _defect(self, row: Row, reason: str, *, other: str = "bbox") -> None:
        remedy = "restore the file"
        if self.options.crop == "mask" or other == "none":
            remedy += f", pass crop={other}"
        self.findings.defect(row.img, reason, remedy=remedy)

    def _note_bad_mask(self, row: Row) -> None:
        file = None if row.mask is None else file_under(self.root, row.mask)
        size = None if file is None else _picture_size(file)
        sizes = f"{_sizes(size, row.size)}. " if size and row.size and size != row.size else ""
        self.findings.note(
            f"{row.item_id}: {sizes}Known bad mask; it is not used, row kept (drop_known_bad=true "
            "to drop)"
        )

    def _crop(self, row: Row) -> tuple[float, float, float, float] | None:
        if row.bbox is None:
            return None
        x0, y0, x1, y1 = row.bbox
        width, height = row.size or (float("inf"), float("inf"))
        # Written so that a NaN counts as empty.
        if not (x0 < x1 and y0 < y1 and x0 < width and y0 < height and x1 > 0 and y1 > 0):
            self._whole.append(f"{row.where} {list(row.bbox)}")
            return None
        across, down = self.options.padding * (x1 - x0), self.options.padding * (y1 - y0)
        return x0 - across, y0 - down, x1 + across, y1 + down

    def _shape_folders(self) -> dict[str, list[str]]:
        """Names of the meshes in each `model/<category>/<shape>`, in order."""
        model = self.root / "model"
        if not model.is_dir():
            raise DataError(
                f"{self.dataset}: no shapes under {str(model)!r}. Expected <category>/<shape>/ "
                f"there. Found in {str(self.root)!r}: {found(self.root)}."
            )
        shapes: dict[str, list[str]] = {}
        for category in visible(model, root=self.root):
            inside = visible(Path(category.path), root=self.root) if category.is_dir() else []
            for folder in inside:
                if folder.is_dir():
                    files = [e.name for e in visible(Path(folder.path), root=self.root)]
                    meshes = [name for name in files if name.lower().endswith(".obj")]
                    shapes[f"model/{category.name}/{folder.name}"] = meshes
        return shapes

    def _check_shapes(self, rows: list[Row]) -> None:
        missing = {row.shape: row for row in reversed(rows) if row.shape not in self.shapes}
        for shape, row in sorted(missing.items()):
            reason = f"{row.where}: there is no shape folder {shape!r} under {self.root}"
            self.findings.defect(shape, reason, remedy="restore the folder")

    def _shape(self, shape: str) -> Record | None:
        meshes = self.shapes[shape]
        if not meshes:
            reason = f"shape folder {shape!r} holds no .obj file"
            self.findings.defect(shape, reason, remedy="restore its model.obj")
            return None
        mesh = "model.obj" if "model.obj" in meshes else meshes[0]
        split, label = self._split(shape), _label(shape)
        return Record(
            self.keys.make(split, label, PurePosixPath(shape).name, source=shape),
            "shape",
            split,
            label,
            mesh=self.root / shape / mesh,
            source_path=shape,
            instance=shape,
            up_axis="+y",
            extra={"shape_id": shape, "model": f"{shape}/{mesh}", "variants": len(meshes)},
        )

    def _split(self, source: str) -> Split:
        listed = (self.splits or {}).get(source)
        o = self.options
        return listed or hashed_split(source, seed=o.seed, test_share=o.test_share)


def _label(shape: str) -> str:
    return canonical_name(shape.split("/")[1])


def _sizes(mask: tuple[int, int], image: tuple[int, int]) -> str:
    return "mask {}x{}, image {}x{}".format(*mask, *image)


def _picture_size(file: Path) -> tuple[int, int] | None:
    """Width and height by the file's header; None if it is no picture."""
    try:
        with Image.open(file) as picture:
            return picture.size
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return None


ADAPTERS = (
    Adapter(
        name="pix3d",
        title="Pix3D (Sun et al., CVPR 2018): photos and shapes of 9 kinds of furniture",
        layout="""\
pix3d.json
img/<category>/<NNNN>.{jpg,jpeg,png,tiff}
mask/<category>/<NNNN>.png                   for crop=mask
model/<category>/<shape>/model.obj           or model_<number>_<number>.obj""",
        terms="CC BY 4.0: shards may be passed on with the attribution.",
        options=Options,
        records=records,
    ),
)
