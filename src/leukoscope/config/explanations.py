"""What a run says of single images: heat maps, cells that decided of patients, map of features.

The file ``audit.json`` holds the scores of heat maps, image by image and over all, and the
verdicts. Scores are defined in ``evaluation.explanation_scores``. One is None where it is
undefined, such as the share of heat inside leukocytes of an image without any.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal, TypeAlias

from pydantic import Field

from leukoscope.config.metrics.results import Estimate
from leukoscope.config.stored import Record, StoredFile

ExplainedKind = Literal["right", "wrong", "image"]
MaskKind = Literal["segmented", "exact", "given"]
"""Our own segmentation, the ground truth of phantoms, or a folder of the user's."""
TrustLevel = Literal["unreliable", "not decided", "nothing against it"]
RANDOM: Final = "random blobs"
CENTRE: Final = "Gaussian in the centre"
EDGES: Final = "edge detector"
BASELINES: Final = (RANDOM, CENTRE, EDGES)
"""Maps that do not know the model, scored like the others."""


class Explanation(Record):
    """One heat map: an entry of ``explanations.json``.

    Attributes:
        image_id: Which image; empty for one that is not of the data set.
        path: Its file below the data's root, or as the user named it.
        recipe: Of the model.
        protocol: Under which protocol the model was fitted.
        fold: In which fold.
        part: What the image was to the model: ``test``, ``train`` …, empty for a foreign image.
        y_true: True class; empty where unknown.
        y_pred: Predicted class.
        p: Its calibrated probability.
        method: How the map was made.
        explained: The class that the map speaks for.
        kind: What was right, or ``image`` where the user named it.
        panel: The figure's file, below the study's folder or beside the list.
        share_in_leukocytes: Share of the heat inside segmented leukocytes; None where none was
            found, or where the heat map is empty.
        area_of_leukocytes: Share of the field that they cover: what heat spread evenly would give.
    """

    image_id: str
    path: str
    recipe: str
    protocol: str
    fold: int
    part: str
    y_true: str
    y_pred: str
    p: float
    method: str
    explained: str
    kind: ExplainedKind
    panel: str
    share_in_leukocytes: float | None
    area_of_leukocytes: float


class WeighedCell(Record):
    """An image of a patient: its part in the mean, and what it adds to the log odds."""

    image_id: str
    path: str
    weight: float
    contribution: float


class PatientSheet(Record):
    """The cells that decided about a test patient: an entry of ``patients.json``.

    Attributes:
        patient: Id.
        recipe, protocol, fold: Of the model.
        y_true: True class.
        y_pred: Predicted class.
        p: Its calibrated probability.
        sheet: The picture's file, below the study's folder.
        cells: Those that moved the answer most.
    """

    patient: str
    recipe: str
    protocol: str
    fold: int
    y_true: str
    y_pred: str
    p: float
    sheet: str
    cells: tuple[WeighedCell, ...]


class NeighbourPurity(Record):
    """How often neighbours share a label.

    Attributes:
        n: Images that had enough candidates.
        value: Mean share of the nearest that share the image's label.
        chance: The same if neighbours were drawn from the candidates at random.
        best: The same if all images of the label came first.
    """

    n: int
    value: float
    chance: float
    best: float


class Structure(Record):
    """What one labelling has to do with the features.

    Attributes:
        labelling: ``class``, ``patient`` or ``acquisition``.
        crossed: Which neighbours were allowed: empty for any, ``other groups``, ``other patients``
            or ``same class``.
        groups: Number of distinct names.
        silhouette: From −1 to 1; only where any neighbour was allowed.
        purity: Of the neighbours.
        above_chance: 0 is as by chance, 1 as pure as it can be.
    """

    labelling: str
    crossed: str
    groups: int
    silhouette: float | None
    purity: NeighbourPurity
    above_chance: float | None


class FeatureMap(StoredFile):
    """The content of ``features.json``: what the features of one fold encode.

    Attributes:
        schema_version: Version of this schema.
        recipe, protocol, fold: Of the model.
        n: Test images.
        dimensions: Numbers that the last layer reads.
        explained_variance: Of the two principal components, 0 to 1.
        neighbours: How many nearest images are looked at.
        structures: Each labelling.
        verdict: Which one the features follow, in a sentence.
    """

    hint: ClassVar[str] = (
        "delete features.csv and features.json, or run the study's explanations again"
    )

    schema_version: Literal[1] = Field(alias="schema")
    recipe: str
    protocol: str
    fold: int
    n: int
    dimensions: int
    explained_variance: tuple[float, ...]
    neighbours: int
    structures: tuple[Structure, ...]
    verdict: str


class AuditSettings(Record):
    """What determines an audit: with equal settings an image has equal scores.

    Attributes:
        recipe, protocol: Of the models.
        unit: What intervals resample.
        methods: Names of the methods.
        masks: Where the masks of leukocytes come from.
        masks_sha256: Of the masks that a user gave.
        seed: Of the choice of images, of noise and of randomised weights.
        checkpoints: Fold → hash of its weights.
    """

    recipe: str
    protocol: str
    unit: str
    methods: tuple[str, ...]
    masks: MaskKind
    masks_sha256: str
    seed: int
    checkpoints: dict[str, str]


class MapScores(Record):
    """One map of one image.

    Attributes:
        hit: Of the pointing game, 0 to 1.
        share: Of the heat, inside leukocytes.
        insertion, deletion: Probability of the class at each of ``STEPS``.
        morf, lerf: Likewise at each of ``ROAD_STEPS``, the hottest or the coldest cells imputed.
        randomised: Rank correlation with the map after each stage of randomised weights; None for
            a map that knows no model.
        noise: Mean rank correlation with the maps of slightly noisy copies, likewise.
        sensitivity: Max-sensitivity under that noise, likewise.
    """

    hit: float | None
    share: float | None
    insertion: tuple[float, ...]
    deletion: tuple[float, ...]
    morf: tuple[float, ...]
    lerf: tuple[float, ...]
    randomised: tuple[float | None, ...] | None
    noise: float | None
    sensitivity: float | None


class AuditedImage(Record):
    """One image.

    Attributes:
        image_id, path: Which.
        y_true: Its class.
        group: Unit that intervals resample.
        fold: Whose model is explained.
        explained: The class that the maps explain: the predicted one.
        p: Its calibrated probability.
        area: Share of the image that leukocytes cover.
        stages: Names of the stages of randomisation.
        maps: Method or baseline → scores.
    """

    image_id: str
    path: str
    y_true: str
    group: str
    fold: int
    explained: str
    p: float
    area: float
    stages: tuple[str, ...]
    maps: dict[str, MapScores]


class MeanScore(Estimate):
    """Mean of a score over ``n`` images, with its interval over groups."""

    n: int


MeanOrNone: TypeAlias = MeanScore | None


class MapSummary(Record):
    """Means of one map over all images; None where no image has the score.

    Attributes:
        hit, share, insertion, deletion, noise, sensitivity: As of one image; insertion and
            deletion are areas under the curves.
        area: Share of the image that leukocytes cover.
        hit_over_area, share_over_area: What the score has more than that area.
        gain: Insertion minus deletion.
        road: Half of what remains more if the coldest cells go first.
        gain_over_random, gain_over_centre, gain_over_edges: What the map gains more than a
            baseline on the same images.
        road_over_random, road_over_centre, road_over_edges: Likewise.
        randomised: Size of the rank correlation by stage, so that an inverted map counts as kept.
    """

    hit: MeanOrNone
    hit_over_area: MeanOrNone
    share: MeanOrNone
    share_over_area: MeanOrNone
    area: MeanOrNone
    insertion: MeanOrNone
    deletion: MeanOrNone
    gain: MeanOrNone
    road: MeanOrNone
    noise: MeanOrNone
    sensitivity: MeanOrNone
    gain_over_random: MeanOrNone = Field(alias="gain_over_random blobs", default=None)
    gain_over_centre: MeanOrNone = Field(alias="gain_over_Gaussian in the centre", default=None)
    gain_over_edges: MeanOrNone = Field(alias="gain_over_edge detector", default=None)
    road_over_random: MeanOrNone = Field(alias="road_over_random blobs", default=None)
    road_over_centre: MeanOrNone = Field(alias="road_over_Gaussian in the centre", default=None)
    road_over_edges: MeanOrNone = Field(alias="road_over_edge detector", default=None)
    randomised: tuple[MeanOrNone, ...]


class MapVerdict(Record):
    """How far the maps of a method may be trusted.

    Attributes:
        level: In a word or two.
        text: The level with its reasons.
        place: Where the heat lies, if the map is reliable.
    """

    level: TrustLevel
    text: str
    place: str


class AuditFile(StoredFile):
    """The content of ``audit.json``; until all images are scored it has only these.

    Attributes:
        schema_version: Version of this schema.
        settings: What determines it.
        stages: Names of the stages of randomisation.
        verdicts: Method → verdict.
        summary: Map → means; methods first.
        images: Every image.
    """

    hint: ClassVar[str] = "score the heat maps again: leukoscope explain RUN --audit"

    schema_version: Literal[1] = Field(alias="schema")
    settings: AuditSettings
    stages: tuple[str, ...] = ()
    verdicts: dict[str, MapVerdict] = Field(default_factory=dict)
    summary: dict[str, MapSummary] = Field(default_factory=dict)
    images: tuple[AuditedImage, ...]

    @property
    def complete(self) -> bool:
        """Whether it has come to its verdicts."""
        return bool(self.verdicts)
