"""MI3DOR-2, the second set of MI3DOR's authors: photos and 12-view shapes of ModelNet40's classes.

It is read from its list files or from folders like MI3DOR's. Its 3,982 shapes seem to be the 3,983
of ModelNet40's first MVCNN image set less one, and may be taken from there. No picture is opened.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dataio.datasets import modelnet
from dataio.datasets.adapter_type import Adapter
from dataio.datasets.listing import Keys, located
from dataio.datasets.mi3dor import checked, read_lists
from dataio.datasets.mi3dor_lists import ListFile, ListOptions, listed_by
from dataio.datasets.mi3dor_tree import FOLDERS, Tree, has_tree
from dataio.datasets.published import MODELNET40_CLASSES, Published
from dataio.findings import Findings
from dataio.records import Record

_LAYOUT = """\
train/MI3DOR_2_Image_train_list.txt   train/2D/<listed path>    lists are `path label`, every view
train/MI3DOR_2_View_train_list.txt    train/3D/<listed path>    is a line
test/MI3DOR_2_Image_test_list.txt     test/2D/<listed path>
test/MI3DOR_2_View_test_list.txt      test/3D/<listed path>

or Model_net_40_{source,target}_{train,test}.txt    paths from the root; source = images
or image/{train,test}/<class>/ and view/{train,test}/<class>/<shape>/ as in mi3dor"""

_EXPECTED = (
    "train/MI3DOR_2_{Image,View}_train_list.txt and so on, or image/{train,test}/<class>/ and "
    "view/{train,test}/<class>/<shape>/"
)

_PUBLISHED = Published(
    "mi3dor-2",
    MODELNET40_CLASSES,
    {
        ("image", "train"): 19294,
        ("image", "test"): 400,
        ("shape", "train"): 3182,
        ("shape", "test"): 800,
    },
)

# Either set of lists, in the order in which they are looked for. A listed path is put behind the
# base as text, so it may begin with a slash.
_LISTS = (
    tuple(
        ListFile(f"{split}/MI3DOR_2_{kind}_{split}_list.txt", stream, split, f"{split}/{base}/")
        for kind, stream, base in (("Image", "image", "2D"), ("View", "shape", "3D"))
        for split in ("train", "test")
    ),
    tuple(
        ListFile(f"Model_net_40_{kind}_{split}.txt", stream, split)
        for kind, stream in (("source", "image"), ("target", "shape"))
        for split in ("train", "test")
    ),
)


class Options(ListOptions):
    """Options of MI3DOR-2."""

    from_modelnet: str | None = Field(
        default=None,
        description="Folder of ModelNet40's MVCNN images (3,983 shapes), to take the shapes from.",
    )


def records(root: Path, options: Options, findings: Findings) -> list[Record]:
    """Images, then shapes. With `from_modelnet` the images are those of `root`, if it has any.

    Raises DataError, naming the file or folder and the remedy, if the data are not usable.
    """
    root = Path(root)
    if options.from_modelnet is not None:
        return _with_modelnet(root, Path(options.from_modelnet), options, findings)
    lists = listed_by(options)
    if not lists or not root.is_dir():
        dataset = options.name or _PUBLISHED.name
        root = located(root, _is_usable, dataset=dataset, expected=_EXPECTED)
    made = _own(root, lists or _lists(root), options, findings, streams=tuple(FOLDERS))
    return checked(made, _PUBLISHED, options=options, findings=findings)


def _with_modelnet(
    root: Path, modelnet_root: Path, options: Options, findings: Findings
) -> list[Record]:
    lists = [one for one in listed_by(options) or _lists(root) if one.stream == "image"]
    has_images = bool(lists) or (root.is_dir() and (root / FOLDERS["image"]).is_dir())
    images = _own(root, lists, options, findings, streams=("image",)) if has_images else []
    chosen = modelnet.ViewOptions(
        name=options.name or _PUBLISHED.name,
        classes=options.classes,
        missing_views=options.missing_views,
        views=options.views,
    )
    keys = Keys(options.name or _PUBLISHED.name, taken=(image.key for image in images))
    shapes = modelnet.view_records(modelnet_root, chosen, findings, keys=keys)
    findings.note(
        "the shapes are ModelNet40's: which of its 3,183 training shapes MI3DOR-2 lacks is not "
        "known" + ("" if images else ", nor are its images; there are none here")
    )
    counts = {**_PUBLISHED.counts, ("shape", "train"): 3183}
    published = _PUBLISHED._replace(counts=counts)
    return checked([*images, *shapes], published, options=options, findings=findings)


def _own(
    root: Path,
    lists: list[ListFile],
    options: Options,
    findings: Findings,
    *,
    streams: tuple[str, ...],
) -> list[Record]:
    """What `root` itself holds: the lists, or else the streams of its tree."""
    if lists:
        return read_lists(root, lists, _PUBLISHED, options=options, findings=findings)
    dataset = options.name or _PUBLISHED.name
    return Tree(root, dataset=dataset, options=options, findings=findings).records(streams)


def _lists(root: Path) -> list[ListFile]:
    """The data set's own lists; all four of a set are expected if there is one."""
    return next((list(four) for four in _LISTS if any((root / f.path).is_file() for f in four)), [])


def _is_usable(folder: Path) -> bool:
    return bool(_lists(folder)) or has_tree(folder)


ADAPTERS = (
    Adapter(
        name=_PUBLISHED.name,
        title="MI3DOR-2: photos and 12-view shapes of ModelNet40's 40 classes",
        layout=_LAYOUT,
        terms="Research and education only, on request from Tianjin University; shards may not be "
        "passed on.",
        options=Options,
        records=records,
    ),
)
