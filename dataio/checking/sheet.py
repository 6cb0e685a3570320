"""One picture that shows what a packed data set looks like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dataio.checking.inspection import chosen, groups
from dataio.records import DataError
from dataio.shards import Manifest, ShardReader, content_member, decode_image, decode_views

_LINE = 14  # pixels: height of a line of PIL's default font
_GAP = 4
_INK, _PAPER, _ALARM = "black", "white", "red"


def contact_sheet(
    manifest: Manifest, *, columns: int = 12, rows: int = 4, cell: int = 96
) -> Image.Image:
    """A block for each stream and split: pictures of several classes, or a row of views a shape.

    The samples are chosen by hashes of their keys, class after class in turn: the same data set
    gives the same sheet. A sample that cannot be decoded is a red cell.

    Args:
        manifest: the data set.
        columns: cells in a row; of a shape with more views, this many are shown, evenly spaced.
        rows: rows of a block at most.
        cell: pixels a side.

    Returns:
        An RGB picture.
    """
    reader = ShardReader(manifest.root, manifest.shards)
    blocks = []
    try:
        for kind, members in groups(manifest).items():
            lines = list(_lines(manifest, members, reader=reader, columns=columns, rows=rows))
            blocks.append((f"{kind}: {len(members)} samples", lines))
    finally:
        reader.close()
    return _laid_out(blocks, columns=columns, cell=cell)


def views_sheet(shapes: Sequence[tuple[str, Sequence[Path]]], *, cell: int = 96) -> Image.Image:
    """A row of pictures for each shape, (caption, files of its views in order); RGB."""
    lines = []
    for caption, files in shapes:
        pictures = [decode_image(file.read_bytes(), key=str(file)) for file in files]
        lines.append([(f"{caption} {number}", one) for number, one in enumerate(pictures, 1)])
    columns = max((len(line) for line in lines), default=1)
    return _laid_out([(f"{len(shapes)} shapes", lines)], columns=columns, cell=cell)


Cell = tuple[str, "np.ndarray | None"]  # caption, pixels uint8 [H, W, C]; None = undecodable


def _lines(
    manifest: Manifest, members: np.ndarray, *, reader: ShardReader, columns: int, rows: int
) -> Iterator[list[Cell]]:
    """Rows of cells: a shape's views each, or `columns` pictures each."""
    stacked = bool(manifest.views[members].any())
    picked = _of_many_classes(manifest, members, rows if stacked else rows * columns)
    if stacked:
        yield from (_cells(manifest, row, reader, columns) for row in picked)
        return
    pictures = [cell for row in picked for cell in _cells(manifest, row, reader, columns)]
    yield from (pictures[i : i + columns] for i in range(0, len(pictures), columns))


def _of_many_classes(manifest: Manifest, members: np.ndarray, count: int) -> list[int]:
    """At most `count` rows: one of each class, then a second of each, .., ordered by class."""
    labels = manifest.labels[members]
    names = sorted(set(labels.tolist()), key=lambda name: (name is None, name))
    of_class = [chosen(manifest, members[labels == name], count).tolist() for name in names]
    turns = [row for turn in range(count) for rows in of_class for row in rows[turn : turn + 1]]
    place = {row: (c, i) for c, rows in enumerate(of_class) for i, row in enumerate(rows)}
    return sorted(turns[:count], key=lambda row: place[row])


def _cells(manifest: Manifest, row: int, reader: ShardReader, columns: int) -> list[Cell]:
    """One cell of a picture, or up to `columns` of a shape's views, the first with the caption."""
    caption, views = manifest.labels[row] or "unlabelled", int(manifest.views[row])
    try:
        data = reader.read(int(manifest.shard_ids[row]), content_member(manifest, row))
        if not views:
            return [(caption, decode_image(data, key=manifest.keys[row]))]
        tiles = decode_views(data, key=manifest.keys[row], views=views)
    except DataError:
        return [(caption, None)]
    shown = np.arange(min(views, columns)) * views // min(views, columns)
    return [(f"{caption} {number}", tiles[number]) for number in shown.tolist()]


def _laid_out(
    blocks: list[tuple[str, list[list[Cell]]]], *, columns: int, cell: int
) -> Image.Image:
    row_height = cell + _LINE + _GAP
    height = sum(2 * _LINE + len(lines) * row_height for _, lines in blocks) + _GAP
    sheet = Image.new("RGB", (columns * (cell + _GAP) + _GAP, height), _PAPER)
    draw, font, y = ImageDraw.Draw(sheet), ImageFont.load_default(), _GAP
    for title, lines in blocks:
        draw.text((_GAP, y), title, fill=_INK, font=font)
        y += 2 * _LINE
        for cells in lines:
            for i, (caption, pixels) in enumerate(cells):
                x = _GAP + i * (cell + _GAP)
                sheet.paste(_picture(pixels, cell), (x, y))
                draw.text((x, y + cell), _fitted(caption, draw, cell), fill=_INK, font=font)
            y += row_height
    return sheet


def _picture(pixels: np.ndarray | None, cell: int) -> Image.Image:
    """The whole picture in a square cell, its proportions kept."""
    if pixels is None:
        return Image.new("RGB", (cell, cell), _ALARM)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    picture = ImageOps.contain(picture, (cell, cell), Image.Resampling.BILINEAR)
    square = Image.new("RGB", (cell, cell), _PAPER)
    square.paste(picture, ((cell - picture.width) // 2, (cell - picture.height) // 2))
    return square


def _fitted(caption: str, draw: ImageDraw.ImageDraw, width: int) -> str:
    """The caption cut to `width` pixels; letters the font lacks become `?`."""
    text = caption.encode("latin-1", "replace").decode("latin-1")
    while text and draw.textlength(text, font=ImageFont.load_default()) > width:
        text = text[:-1]
    return text
