"""Heat maps over images: what spoke for the predicted class."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from leukoscope.core.program import DISCLAIMER

# The same everywhere: on a bright smear, yellow alone would hardly be seen, yellow beside blue is.
OPACITY = 0.5
_GAP_PX = 6
_TITLE_PX = 24
_MIN_PANEL_PX = 224


def class_activation(maps: NDArray[np.float32], class_index: int) -> NDArray[np.float32]:
    """The class activation map of one class (Zhou et al. 2016; Grad-CAM for a linear head).

    Args:
        maps: (K, h, w) evidence for each class at each position; negative is against it.
        class_index: Index of the class.

    Returns:
        (h, w) float32 in [0, 1]: negative evidence set to 0, the rest divided by its maximum; all
        0 if nothing speaks for the class.

    >>> class_activation(np.array([[[-1.0, 2.0, 4.0]]], np.float32), 0).tolist()
    [[0.0, 0.5, 1.0]]
    """
    positive: NDArray[np.float32] = np.maximum(maps[class_index], 0)
    largest = positive.max()
    if largest > 0:
        positive /= largest
    return positive


def colour_map(heat: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Colour a heat map with Cividis: blue to yellow, uniform, safe for colour-blind eyes.

    Args:
        heat: (h, w) in [0, 1].
        size: Height and width of the result.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    levels = np.round(_enlarge(heat, size) * 255).astype(np.uint8)
    coloured = cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS)
    return np.asarray(cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), np.uint8)


def overlay(image: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Blend a heat map into an image: low values turn blue, high ones yellow.

    Args:
        image: (H, W, 3) uint8 RGB.
        heat: (h, w) in [0, 1] of any size; enlarged smoothly.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    colours = colour_map(heat, (image.shape[0], image.shape[1]))
    return np.asarray(cv2.addWeighted(image, 1 - OPACITY, colours, OPACITY, 0), np.uint8)


def triptych(image: NDArray[np.uint8], heat: NDArray[np.floating], title: str) -> NDArray[np.uint8]:
    """Original, heat map and overlay side by side, with a title above.

    Args:
        image: (H, W, 3) uint8 RGB as the model saw it; a small one is enlarged.
        heat: (h, w) in [0, 1].
        title: One line; cut off where it is too long.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    scale = max(1.0, _MIN_PANEL_PX / min(image.shape[:2]))
    height, width = (round(side * scale) for side in image.shape[:2])
    shown = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    panels = (shown, colour_map(heat, (height, width)), overlay(shown, heat))
    canvas = np.full((height + 2 * _TITLE_PX, 3 * width + 2 * _GAP_PX, 3), 255, np.uint8)
    for number, panel in enumerate(panels):
        left = number * (width + _GAP_PX)
        canvas[_TITLE_PX : _TITLE_PX + height, left : left + width] = panel
    return _write_lines(canvas, {4: title, _TITLE_PX + height + 5: DISCLAIMER})


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes of an (H, W, 3) uint8 RGB image."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be written as PNG")
    return bytes(data)


def _write_lines(canvas: NDArray[np.uint8], lines: dict[int, str]) -> NDArray[np.uint8]:
    # Pillow, not OpenCV, whose letters are ASCII only.
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=13)
    for top, text in lines.items():
        line = text
        while line and draw.textlength(line, font=font) > picture.width - 8:
            line = line.removesuffix("…")[:-1] + "…" if len(line) > 1 else ""
        draw.text((4, top), line, fill=(0, 0, 0), font=font)
    return np.asarray(picture, np.uint8)


def _enlarge(heat: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    values = np.clip(heat, 0, 1).astype(np.float32)
    # Linear: higher orders overshoot and paint faint heat where there is none.
    wide = cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(wide, np.float32)
