"""How an image becomes a model's input: one record for training, bundle and service."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from leukoscope.config.base import Strict

Triple = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
GreyLevel = Annotated[int, Field(ge=0, le=255)]
GreyLevels = tuple[GreyLevel, GreyLevel, GreyLevel]
Radius = Annotated[int, Field(ge=0, le=50)]
Tiles = Annotated[int, Field(ge=1, le=64)]


class Normalisation(NamedTuple):
    """Mean and standard deviation per channel (RGB), on the scale 0–1."""

    mean: Triple
    std: Triple


UNIT_RANGE = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Pixels from 0 to 1."""
SYMMETRIC = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Pixels from −1 to 1; the default of :class:`PreprocessSpec`."""
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Statistics of ImageNet's training images, which most published weights expect."""


class CenterCrop(Strict):
    """Keep a centred square and drop the rest; smaller images are padded with black."""

    kind: Literal["center_crop"] = "center_crop"
    size_px: Annotated[int, Field(ge=8, le=4096)]


class Clahe(Strict):
    """Contrast-limited adaptive histogram equalisation of L in LAB (Zuiderveld 1994)."""

    kind: Literal["clahe"] = "clahe"
    clip_limit: Positive = 2.0
    tiles: Tiles = 8


class MaskScaleBar(Strict):
    """Paint a burned-in scale bar over with the surrounding background."""

    kind: Literal["mask_scale_bar"] = "mask_scale_bar"


class AdaptiveClahe(Strict):
    """CLAHE with each pair of a clip limit and a number of tiles; the best contrast is kept.

    The best is the largest standard deviation of grey levels, of equal ones the first (study S1).
    """

    kind: Literal["adaptive_clahe"] = "adaptive_clahe"
    clip_limits: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 2.0, 3.0)
    tiles: Annotated[tuple[Tiles, ...], Field(min_length=1)] = (8, 16)


class GaussianBlur(Strict):
    """Smooth with a Gaussian of this standard deviation in pixels."""

    kind: Literal["gaussian_blur"] = "gaussian_blur"
    sigma_px: Annotated[float, Field(gt=0, le=50)] = 1.0


class BilateralFilter(Strict):
    """Smooth but keep edges (Tomasi & Manduchi 1998).

    Attributes:
        diameter_px: Of the neighbourhood; odd.
        sigma_colour: Difference of levels, 0–255, across which pixels are still mixed.
        sigma_px: Distance at which pixels are still mixed.
    """

    kind: Literal["bilateral_filter"] = "bilateral_filter"
    diameter_px: Annotated[int, Field(ge=3, le=25)] = 9
    sigma_colour: Positive = 75.0
    sigma_px: Positive = 75.0

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.diameter_px % 2 == 0:
            raise ValueError("diameter_px has to be odd")
        return self


class Morphology(Strict):
    """Grey-level opening (removes light specks) or closing (removes dark ones) by an ellipse.

    For masks see ``open_px`` and ``close_px`` of the segmentation steps.
    """

    kind: Literal["morphology"] = "morphology"
    operation: Literal["open", "close"] = "open"
    radius_px: Annotated[int, Field(ge=1, le=50)] = 2


class SegmentStep(Strict):
    """What all segmentation steps share: they blank everything outside their mask.

    Where a step finds nothing, the whole image is blank.

    Attributes:
        outside: Fill with ``black`` or a ``neutral`` light grey, RGB (200, 200, 200).
        open_px: Radius of the ellipse that opens the mask first; 0 leaves it.
        close_px: Radius of the ellipse that then closes it; 0 leaves it.
    """

    outside: Literal["black", "neutral"] = "black"
    open_px: Radius = 0
    close_px: Radius = 0


class LabRange(Strict):
    """A box in OpenCV's 8-bit LAB: L × 255/100, a + 128, b + 128; both ends belong to it."""

    low: GreyLevels
    high: GreyLevels

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if any(a > b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError("low may not be above high")
        return self


S3_RANGES = (
    LabRange(low=(130, 70, 215), high=(230, 170, 255)),
    LabRange(low=(90, 120, 100), high=(180, 200, 160)),
    LabRange(low=(100, 50, 100), high=(200, 150, 200)),
)
"""Pink, blue and purple of study S3."""


class LabRanges(SegmentStep):
    """Pixels in any of the ranges; of these, by Otsu's threshold of L, the darker (study S3).

    Attributes:
        ranges: Boxes, combined by OR.
        otsu: Whether to split what lies in the ranges.
    """

    kind: Literal["lab_ranges"] = "lab_ranges"
    ranges: Annotated[tuple[LabRange, ...], Field(min_length=1)] = S3_RANGES
    otsu: bool = True


class HsvSegment(SegmentStep):
    """Pixels of blue to magenta hue whose saturation is above Otsu's threshold (study S2).

    Attributes:
        hue_low: In OpenCV's half degrees, 0–179.
        hue_high: Likewise; below ``hue_low`` the range runs through red.
        saturation_min: The threshold is never below this, 0–255.
    """

    kind: Literal["hsv_segment"] = "hsv_segment"
    hue_low: Annotated[int, Field(ge=0, le=179)] = 115
    hue_high: Annotated[int, Field(ge=0, le=179)] = 175
    saturation_min: GreyLevel = 40


class KmeansSegment(SegmentStep):
    """The most violet of ``clusters`` k-means clusters in LAB (study S1)."""

    kind: Literal["kmeans_segment"] = "kmeans_segment"
    clusters: Annotated[int, Field(ge=2, le=8)] = 3


class MultiscaleKmeans(SegmentStep):
    """Majority of :class:`KmeansSegment` at several scales (study S1)."""

    kind: Literal["multiscale_kmeans"] = "multiscale_kmeans"
    clusters: Annotated[int, Field(ge=2, le=8)] = 3
    scales: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1, max_length=8)
    ] = (1.0, 0.5, 0.25)


class Leukocytes(SegmentStep):
    """Whole leukocytes or their nuclei, by this package's own segmentation; no scale bar."""

    kind: Literal["leukocytes"] = "leukocytes"
    part: Literal["cell", "nucleus"] = "cell"


class Reinhard(Strict):
    """Give the image the mean and standard deviation of a target in LAB (Reinhard et al. 2001).

    Attributes:
        mean: Of the target: L 0–100, a, b. The default is a typical field of the 4-class ALL
            set: medians over every 20th image.
        std: Likewise.
    """

    kind: Literal["reinhard"] = "reinhard"
    mean: Triple = (86.8, 2.0, -9.3)
    std: tuple[Positive, Positive, Positive] = (12.3, 10.5, 15.7)


class Macenko(Strict):
    """Bring the two stains of an image to those of a target (Macenko et al. 2009).

    The image stays as it is where fewer than ``tissue_min`` of its pixels are stained, or where
    all stained ones have one colour.

    Attributes:
        light: Level of unstained light.
        density_min: Pixels of less mean density than this over the channels count as unstained.
        angle_percentile: Percentile of the angles at which the two stains lie.
        tissue_min: Least share of stained pixels.
        stains: Of the target: optical densities (RGB) of the nuclear and the other stain. The
            default is a typical field of the 4-class ALL set: medians over every 20th image.
        concentrations: Of the target: 99th percentiles of the two stains' amounts; likewise.
    """

    kind: Literal["macenko"] = "macenko"
    light: Annotated[int, Field(ge=1, le=255)] = 240
    density_min: Positive = 0.15
    angle_percentile: Annotated[float, Field(gt=0, lt=50)] = 1.0
    tissue_min: Annotated[float, Field(gt=0, le=1)] = 0.01
    stains: tuple[Triple, Triple] = ((0.486, 0.874, 0.0), (0.598, 0.593, 0.460))
    concentrations: tuple[Positive, Positive] = (0.832, 0.599)


class Grey(Strict):
    """Three equal channels: the mean optical density, or luma (ITU-R BT.601).

    Attributes:
        of: ``luma`` (ITU-R BT.601), or ``density``: mean optical density on a scale of its own,
            which takes the strength of stain and lamp away as well as their hue.
    """

    kind: Literal["grey"] = "grey"
    of: Literal["luma", "density"] = "density"


class CellMosaic(Strict):
    """Single leukocytes cut out at their own size and laid out in a square of equal tiles.

    A bag of cells as one image: what a network reads and pools are cells, wherever they lay. Tiles
    that are left over repeat the cells from the first on, so that their number is not to be seen;
    without a leukocyte all tiles are neutral grey.

    Attributes:
        tiles: Along each side; the largest ``tiles``² cells are taken, in reading order.
        crop_px: Side of the square around each nucleus, in pixels of the image as it comes.
        tile_px: Side to which that is scaled.
        outside: What is not leukocyte in a tile becomes ``neutral`` light grey or ``black``, or
            stays as it is (``keep``).
    """

    kind: Literal["cell_mosaic"] = "cell_mosaic"
    tiles: Annotated[int, Field(ge=1, le=8)] = 4
    crop_px: Annotated[int, Field(ge=8, le=1024)] = 56
    tile_px: Annotated[int, Field(ge=16, le=512)] = 56
    outside: Literal["neutral", "black", "keep"] = "neutral"


Segmentation = LabRanges | HsvSegment | KmeansSegment | MultiscaleKmeans | Leukocytes
Step = Annotated[
    CenterCrop
    | Clahe
    | AdaptiveClahe
    | MaskScaleBar
    | GaussianBlur
    | BilateralFilter
    | Morphology
    | Segmentation
    | CellMosaic
    | Grey
    | Reinhard
    | Macenko,
    Field(discriminator="kind"),
]


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
    mean: Triple = SYMMETRIC.mean
    std: Triple = SYMMETRIC.std
