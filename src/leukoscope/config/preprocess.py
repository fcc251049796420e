"""How an image becomes a model's input: one record for training, bundle and service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from leukoscope.config.base import Strict


class CenterCrop(Strict):
    """Keep a centred square and drop the rest; smaller images are padded with black."""

    kind: Literal["center_crop"] = "center_crop"
    size_px: Annotated[int, Field(ge=8, le=4096)]


class Clahe(Strict):
    """Contrast-limited adaptive histogram equalisation of L in LAB."""

    kind: Literal["clahe"] = "clahe"
    clip_limit: Annotated[float, Field(gt=0)] = 2.0
    tiles: Annotated[int, Field(ge=1, le=64)] = 8


class MaskScaleBar(Strict):
    """Paint a burned-in scale bar over with the surrounding background."""

    kind: Literal["mask_scale_bar"] = "mask_scale_bar"


Step = Annotated[CenterCrop | Clahe | MaskScaleBar, Field(discriminator="kind")]
Triple = tuple[float, float, float]


class PreprocessSpec(Strict):
    """Preprocessing of one image, in this order: ``steps``, resize, normalisation.

    Attributes:
        steps: Operations on the full-size uint8 RGB image.
        size_px: Height and width of the model's input.
        resize: ``stretch`` ignores the aspect ratio, ``letterbox`` pads with black, ``crop``
            scales the short side and takes the centre.
        mean: Per channel (RGB), on the scale 0–1; subtracted inside the model's graph.
        std: Likewise; divided by inside the model's graph.
    """

    steps: tuple[Step, ...] = ()
    size_px: Annotated[int, Field(ge=16, le=1024)] = 224
    resize: Literal["stretch", "letterbox", "crop"] = "stretch"
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)
