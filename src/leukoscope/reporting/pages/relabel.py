"""The page in which a person goes through a relabel queue; it opens offline and sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from leukoscope.config.relabel_queue import ListName, Queue
from leukoscope.core.errors import ImageError
from leukoscope.core.files import write_text
from leukoscope.core.labels import class_title
from leukoscope.core.records import Manifest
from leukoscope.imaging.decode import decode_image
from leukoscope.reporting.gallery import thumb_uri
from leukoscope.reporting.markup import embedded_json, render_page

PICTURE_PX = 288
QUALITY = 82
LISTS: Mapping[ListName, str] = {
    "label": "likely errors and conflicts",
    "uncertain": "least certain",
    "ood": "unlike the others",
}


def write_relabel_page(
    path: Path, queue: Queue, manifest: Manifest, tell: Callable[[int, int], None]
) -> list[str]:
    """Write the page, every image inside as a small JPEG.

    Args:
        path: The HTML file.
        queue: The images, in order.
        manifest: Where the images lie; one that is gone or broken is named as such in the page.
        tell: Told (done, total) as images are read.

    Returns:
        Paths of the images that could not be read.
    """
    places = {record.image_id: manifest.path_of(record) for record in manifest.images}
    rows = []
    missing = []
    for row in queue.rows:
        picture = picture_uri(places.get(row.image_id))
        rows.append({**row.model_dump(mode="json", by_alias=True), "picture": picture})
        if not picture:
            missing.append(row.path)
        tell(len(rows), len(queue.rows))
    classes = [{"name": name, "title": class_title(name)} for name in queue.class_names]
    data = {"sha256": queue.sha256, "classes": classes, "rows": rows}
    absent = queue.lists["ood"].absent
    page = render_page(
        "relabel.html.j2",
        ("corrections.js", "relabel.js"),
        title=f"Labels to check: {queue.run}",
        queue=queue,
        lists=[(key, text, queue.lists[key].shown) for key, text in LISTS.items()],
        absent=f"No list of images unlike the others: {absent}." if absent else "",
        data=embedded_json(data),
    )
    write_text(path, page)
    return missing


def picture_uri(path: Path | None) -> str:
    """A ``data:`` URI of an image as JPEG, at most 288 px wide or high; empty where unreadable."""
    try:
        image = decode_image(path).image if path is not None else None
    except ImageError:
        image = None
    return "" if image is None else thumb_uri(image, PICTURE_PX, QUALITY)
