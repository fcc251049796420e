"""Contact sheets: images that the audit linked, drawn side by side to be judged by eye."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from leukoscope.core.files import atomic_path
from leukoscope.core.records import ImageRecord, Manifest
from leukoscope.datasets.audit.run import Audit
from leukoscope.datasets.groups import components
from leukoscope.imaging.decode import decode_image

COLUMNS = 8
ROWS = 8
TILE_PX = 160

_GAP = 6
_CAPTION_PX = 16
_FRAMES = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (255, 127, 14), (148, 103, 189))

Box = tuple[float, float, float, float]
Shared = tuple[str, str, int, int, float]


@dataclass(frozen=True)
class _Group:
    """Linked images, best known first."""

    members: tuple[ImageRecord, ...]
    kind: str  # strongest link between them
    boxes: dict[str, Box]  # image id → the part shared with another member, as shares of the image


def contact_sheet(
    manifest: Manifest,
    audit: Audit,
    out: Path,
    *,
    pages: int | None = None,
    columns: int = COLUMNS,
    rows: int = ROWS,
) -> list[Path]:
    """Draw every group of linked images, the largest first; frames show the shared parts.

    Args:
        out: Page 1 becomes ``<out>-1.png``.
        pages: Most pages; None draws all groups.
        columns: Images in a row; a longer group continues in the next row.

    Returns:
        The pages that were written; none where nothing is linked.

    Raises:
        ImageError: An image cannot be read any more.
    """
    out = Path(out)
    written: list[Path] = []
    lines = _lines(_groups(manifest, audit), columns)
    for start in range(0, len(lines), rows):
        if pages is not None and len(written) >= pages:
            break
        page = _draw_page(manifest, lines[start : start + rows], columns)
        path = out.with_name(f"{out.name}-{len(written) + 1}.png")
        with atomic_path(path) as temporary:
            page.save(temporary, format="PNG", compress_level=4)
        written.append(path)
    return written


def _groups(manifest: Manifest, audit: Audit) -> list[_Group]:
    passport = audit.passport
    records = {record.image_id: record for record in manifest.images}
    ids = sorted(records)
    place = {name: i for i, name in enumerate(ids)}
    overlaps: list[Shared] = [
        (str(first), str(second), int(dx), int(dy), float(score))
        for first, second, dx, dy, score in passport["overlaps"]["pairs"]
    ]
    kinds: dict[str, list[list[str]]] = {
        "duplicates": passport["exact_duplicates"]["groups"],
        "equal pixels": passport["pixel_duplicates"]["groups"],
        "twins": passport["twins"]["groups"],
        "near": passport["near_duplicates"]["groups"],
        "overlap": [[first, second] for first, second, *_ in overlaps],
    }
    links = [(group[0], other) for groups in kinds.values() for group in groups for other in group]
    found = []
    for indices in components(len(ids), [(place[a], place[b]) for a, b in links]):
        members = [records[ids[i]] for i in indices]
        names = {record.image_id for record in members}
        kind = next(
            kind for kind, groups in kinds.items() if any(names & set(group) for group in groups)
        )
        shared = [pair for pair in overlaps if pair[0] in names]
        members.sort(key=lambda record: record.path)
        found.append(_Group(tuple(members), kind, _boxes(shared, records)))
    return sorted(found, key=lambda group: (-len(group.members), group.members[0].path))


def _boxes(shared: Sequence[Shared], records: dict[str, ImageRecord]) -> dict[str, Box]:
    """For each image the part that it shares with its best partner."""
    boxes: dict[str, Box] = {}
    for first, second, dx, dy, _ in sorted(shared, key=lambda pair: -pair[4]):
        width, height = records[first].width, records[first].height
        x0, x1 = max(0, -dx), min(width, width - dx)
        y0, y1 = max(0, -dy), min(height, height - dy)
        boxes.setdefault(first, (x0 / width, y0 / height, x1 / width, y1 / height))
        boxes.setdefault(
            second,
            ((x0 + dx) / width, (y0 + dy) / height, (x1 + dx) / width, (y1 + dy) / height),
        )
    return boxes


@dataclass(frozen=True)
class _Tile:
    """One image on a page."""

    record: ImageRecord
    head: str  # text above the image, before its name
    box: Box | None  # the shared part, if any
    frame: int  # number of the group, for its colour


def _lines(groups: Sequence[_Group], columns: int) -> list[list[_Tile]]:
    """Fill rows with whole groups; only a group longer than a row is broken."""
    lines: list[list[_Tile]] = [[]]
    for number, group in enumerate(groups):
        tiles = list(_tiles(group, number))
        if lines[-1] and len(lines[-1]) + len(tiles) > columns:
            lines.append([])
        while tiles:
            room = columns - len(lines[-1])
            lines[-1] += tiles[:room]
            tiles = tiles[room:]
            if tiles:
                lines.append([])
    return [line for line in lines if line]


def _tiles(group: _Group, number: int) -> Iterator[_Tile]:
    for k, record in enumerate(group.members):
        head = f"{number + 1} {group.kind} " if k == 0 else ""
        yield _Tile(record, head, group.boxes.get(record.image_id), number)


def _draw_page(manifest: Manifest, lines: Sequence[Sequence[_Tile]], columns: int) -> Image.Image:
    step_x, step_y = TILE_PX + _GAP, TILE_PX + _CAPTION_PX + _GAP
    page = Image.new("RGB", (columns * step_x + _GAP, len(lines) * step_y + _GAP), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(11)
    for row, line in enumerate(lines):
        for column, tile in enumerate(line):
            left, top = _GAP + column * step_x, _GAP + row * step_y
            colour = _FRAMES[tile.frame % len(_FRAMES)]
            text = _fitting(tile.head, Path(tile.record.path).stem, font)
            draw.text((left, top), text, fill=colour, font=font)
            top += _CAPTION_PX
            page.paste(Image.fromarray(_thumbnail(manifest.path_of(tile.record))), (left, top))
            draw.rectangle((left - 1, top - 1, left + TILE_PX, top + TILE_PX), outline=colour)
            if tile.box is not None:
                x0, y0, x1, y1 = (round(value * (TILE_PX - 1)) for value in tile.box)
                draw.rectangle((left + x0, top + y0, left + x1, top + y1), outline=colour, width=2)
    return page


def _fitting(head: str, name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The caption; a long name loses its beginning, because names differ at their ends."""
    shown = name
    while len(shown) > 2 and font.getlength(head + shown) > TILE_PX:
        shown = "…" + shown[2:]
    return head + shown


def _thumbnail(path: Path) -> NDArray[np.uint8]:
    image = decode_image(path).image
    return np.asarray(cv2.resize(image, (TILE_PX, TILE_PX), interpolation=cv2.INTER_AREA), np.uint8)
