"""Options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leukoscope.cli.choices import completion
from leukoscope.config import DEFAULT_RECIPE, PATIENT_RECIPES
from leukoscope.core.errors import ConfigError
from leukoscope.core.known_classes import ROLES

DataArgument = Annotated[
    Path, typer.Argument(help="Folder of images in any known layout, CSV manifest, or .npz file.")
]
LayoutOption = Annotated[
    str,
    typer.Option(
        "--layout",
        autocompletion=completion("layout"),
        help="Name of a layout, or a pattern of folders: '{class}/{patient}/*'.",
    ),
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="COLUMN",
        help="Column that is the label, such as diagnosis. Default: label, or the class folder.",
    ),
]
ClassOption = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="FOLDER=CLASS", help="What a folder name stands for."),
]
RoleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        metavar="CLASS=ROLE",
        help=f"What a class stands for: {', '.join(ROLES)}.",
    ),
]
OptionalData = Annotated[
    Path | None,
    typer.Argument(help="Folder of images in any known layout, CSV manifest, or .npz file."),
]
RunArgument = Annotated[Path, typer.Argument(help="Folder of a study or training run.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything that is random.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
RecipeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=completion("recipe"),
        help=f"Recipe name or TOML file; may be repeated. Default: {DEFAULT_RECIPE}; with "
        f"--unit patient {' and '.join(PATIENT_RECIPES)}.",
    ),
]
UnitOption = Annotated[
    str,
    typer.Option(
        "--unit",
        help="What is classified: each image, or each patient by all of its images together.",
    ),
]
ProtocolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        "-p",
        autocompletion=completion("protocol"),
        help="Protocol; may be repeated. Default: all that apply.",
    ),
]
OneRecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe", "-r", autocompletion=completion("recipe"), help="Recipe name or file."
    ),
]
RunRecipeOption = Annotated[
    str | None, typer.Option("--recipe", "-r", help="Default: the run's first.")
]
HoldOutOption = Annotated[
    str,
    typer.Option(
        "--protocol", "-p", autocompletion=completion("protocol"), help="How to hold images out."
    ),
]
PreprocessingOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=completion("recipe"),
        help="Recipe whose preprocessing to use.",
    ),
]
EngineOption = Annotated[
    str, typer.Option(autocompletion=completion("engine"), help="auto, openvino or onnxruntime.")
]
PrecisionOption = Annotated[
    str, typer.Option(help="auto, fp32, bf16 or int8; auto: the fastest that is offered.")
]
FittingBundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle", "-b", help="The model's folder. Default: the installed one that fits."
    ),
]
UmPerPxOption = Annotated[
    float | None,
    typer.Option("--um-per-px", min=0.001, help="Pixel scale of the images in µm."),
]
ScaleBarOption = Annotated[
    float | None,
    typer.Option("--scale-bar-um", min=0.1, help="Length of their scale bar in µm."),
]
WholeOption = Annotated[
    bool, typer.Option("--whole", help="Do not cut images larger than the model's field.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. training.epochs=3."),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        autocompletion=completion("backbone"),
        help="Use this backbone in place of the recipe's own.",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", metavar="imagenet|none|FILE|FOLDER", help="Weights to start from."),
]
NoBundleOption = Annotated[
    bool, typer.Option("--no-bundle", help="Measure only: save the fit on all images.")
]
JobsOption = Annotated[
    int, typer.Option("--jobs", min=1, help="Fits at once, each in a process of its own.")
]
ExecutorOption = Annotated[
    str, typer.Option("--executor", metavar="local|ray", help="Where the processes of --jobs run.")
]
DevicesOption = Annotated[
    int, typer.Option("--devices", min=1, help="Processes (GPUs) that share each training.")
]
NodesOption = Annotated[
    int, typer.Option("--nodes", min=1, help="Machines of --devices each; torchrun or SLURM.")
]
FoldsOption = Annotated[int, typer.Option("--folds", help="Number of folds; 1 is a hold-out.")]
UsualFoldsOption = Annotated[
    int | None,
    typer.Option(
        "--folds",
        help="Number of folds; 1 is a hold-out. Default: 10, or 5 where networks are trained.",
    ),
]

# study
StudyOutOption = Annotated[Path, typer.Option("--out", "-o", help="The study's folder.")]
ProbeOption = Annotated[
    list[str] | None,
    typer.Option(
        autocompletion=completion("probe"),
        help="Probe, or all; may be repeated. Default: all that a verdict needs.",
    ),
]
NoProbesOption = Annotated[bool, typer.Option("--no-probes", help="Leave the probes out.")]
ExternalOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--external",
        metavar="DATA",
        help="Other labelled data to measure the bundle on, beside the study's forecast; may "
        "be repeated.",
    ),
]
ExternalLayoutOption = Annotated[
    list[str] | None,
    typer.Option("--external-layout", help="Its layout: one for all, or one each in order."),
]
ResumeStudyOption = Annotated[bool, typer.Option("--resume", help="Resume a stopped study.")]
PlanOption = Annotated[
    bool,
    typer.Option("--plan", help="Say what would run, how long, how much disk; run nothing."),
]
OpenReportOption = Annotated[
    bool, typer.Option("--open", help="Open the report in a browser at the end.")
]
TrainOutOption = Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")]
ResumeTrainOption = Annotated[bool, typer.Option("--resume", help="Resume a stopped run.")]

# transfer and ablate
ArmsOutOption = Annotated[Path, typer.Option("--out", "-o", help="The folder of all arms.")]
ArmsProtocolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        "-p",
        autocompletion=completion("protocol"),
        help="Protocol; may be repeated. Default: deduplicated.",
    ),
]
ResumeArmsOption = Annotated[
    bool, typer.Option("--resume", help="Resume a stopped run: the same options again.")
]
SourceArgument = Annotated[Path, typer.Argument(help="Data of phase 1: folder or CSV manifest.")]
TargetArgument = Annotated[Path, typer.Argument(help="Data of phase 2: folder or CSV manifest.")]
TransferRecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        autocompletion=completion("recipe"),
        help="Recipe name or file; [phase1] tells the phases.",
    ),
]
SourceProtocolOption = Annotated[
    str | None,
    typer.Option(help="How the source is held out. Default: by patient where ids are known."),
]
FreezeOption = Annotated[
    bool, typer.Option("--freeze", help="Phase 2 trains the head alone, in both arms.")
]
ConvOption = Annotated[
    list[int] | None,
    typer.Option(help="Width of a further convolution in phase 2; may be repeated."),
]
TransferSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value of the recipe in both phases, or of the study of TARGET.",
    ),
]
SourceSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source-set", metavar="KEY=VALUE", help="Likewise, for phase 1 and its study alone."
    ),
]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Part to leave out, one arm each: augmentation, one augmentation, a preprocessing "
        "step, class_weights, …; a+b leaves out both. May be repeated."
    ),
]
SetArmOption = Annotated[
    list[str] | None,
    typer.Option("--set-arm", metavar="KEY=VALUE", help="One more arm with another value."),
]

# explain and features
RunProtocolOption = Annotated[
    str | None, typer.Option("--protocol", "-p", help="Default: the run's first.")
]
ExplainedImages = Annotated[
    list[str] | None,
    typer.Argument(help="Image files, folders or globs. Default: test images, chosen by rule."),
]
MethodOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        help="grad-cam, grad-cam++, occlusion or integrated-gradients; may be repeated. "
        "Default: grad-cam; for --audit all.",
    ),
]
PanelCountOption = Annotated[
    int, typer.Option(min=1, help="Panels of right and of wrong test predictions.")
]
ExplainedRecipesOption = Annotated[
    list[str] | None,
    typer.Option("--recipe", "-r", help="Repeat it to see two side by side. Default: first."),
]
BesideOption = Annotated[
    Path | None, typer.Option("--beside", help="Another run to show beside it.")
]
TargetClassOption = Annotated[
    str, typer.Option("--target", metavar="predicted|true|CLASS", help="The class explained.")
]
LayerOption = Annotated[
    str | None,
    typer.Option("--layer", help="Look at this layer. Default: the last map before pooling."),
]
AuditOption = Annotated[
    bool, typer.Option("--audit", help="Measure whether heat maps are reliable.")
]
AuditImagesOption = Annotated[
    int | None, typer.Option("--images", min=1, help="Test images of the audit. Default: 20.")
]
UnjudgedOption = Annotated[
    bool,
    typer.Option("--unjudged", help="Score fewer independent images than a verdict needs (20)."),
]
MasksOption = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        help="Leukocyte masks for the audit, PNG named like the images. Default: "
        "a phantom's truth, else our segmentation.",
    ),
]
ExplanationsOutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Default: a folder in RUN/explanations.")
]
FoldOption = Annotated[int, typer.Option("--fold", help="Whose model and test images.")]

# robustness
RunOrBundleArgument = Annotated[
    Path, typer.Argument(help="Folder of a run, or a bundle (then with DATA).")
]
BundleDataArgument = Annotated[
    Path | None, typer.Argument(help="Labelled images for a bundle: a folder or CSV manifest.")
]
ComparedRecipesOption = Annotated[
    list[str] | None,
    typer.Option("--recipe", "-r", help="Repeat it to compare; the first is the reference."),
]
RobustnessProtocolOption = Annotated[
    str | None,
    typer.Option("--protocol", "-p", help="Default: grouped, deduplicated, or the first."),
]
CorruptionOption = Annotated[
    list[str] | None,
    typer.Option("--corruption", "-c", help="A name, or s1; may be repeated. Default: all 13."),
]
SeverityOption = Annotated[
    list[int] | None, typer.Option("--severity", "-s", min=1, max=5, help="May be repeated.")
]
RobustnessImagesOption = Annotated[
    int | None, typer.Option("--images", min=20, help="Default: as many as fit in 5 minutes.")
]
BoundOption = Annotated[
    float, typer.Option("--bound", min=0.1, max=50, help="Accepted loss of accuracy, points.")
]
RobustnessOutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Default: RUN, its report and its bundle.")
]

# probe
ProbedArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|MODEL.onnx|DATA",
        help="A study's folder, an ONNX model, or with --predictions the data.",
    ),
]
ProbedDataArgument = Annotated[Path | None, typer.Argument(help="The data for MODEL.onnx.")]
PredictionsOption = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        help="CSV of another model: file name, path or sha256; predicted class or p_<class>; "
        "optional split.",
    ),
]
AuditOutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the audit.")]
AuditProbeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        autocompletion=completion("probe"),
        help="Probe, or all; may be repeated. Default: those of `study`.",
    ),
]
OutputClassesOption = Annotated[
    str | None, typer.Option("--classes", help="Order of the model's outputs: a,b,c.")
]
InputSizeOption = Annotated[
    int | None, typer.Option("--size", min=8, help="Input size, where the graph has none.")
]
PixelMeanOption = Annotated[str, typer.Option("--mean", help="Of pixels 0–1: one or three.")]
PixelStdOption = Annotated[str, typer.Option("--std", help="Of pixels 0–1: one or three.")]
TensorLayoutOption = Annotated[
    str, typer.Option("--tensor", help="nchw, nhwc, or auto: as the graph says.")
]
OutputNameOption = Annotated[str | None, typer.Option("--output", help="Which output to read.")]

# tune
TuneOutOption = Annotated[Path, typer.Option("--out", "-o", help="The tuning's folder.")]
TrialsOption = Annotated[
    int, typer.Option("--trials", min=1, help="Trials in all, earlier sessions included.")
]
TuneMinutesOption = Annotated[
    float | None,
    typer.Option("--timeout", metavar="MINUTES", help="Start no trial later than this."),
]
InnerFoldsOption = Annotated[
    int, typer.Option("--folds", help="Folds within train and val; 1 takes val as it is.")
]
SearchSpaceFileOption = Annotated[
    Path | None, typer.Option("--space", metavar="FILE.toml", help="Search space as a file.")
]
SearchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="KEY=KIND:…",
        help="log:1e-5..1e-2, uniform:0..0.5, int:1..4 or choice:16,32; may be repeated.",
    ),
]
StorageOption = Annotated[
    str,
    typer.Option("--storage", metavar="journal:FILE|URL", help="Default: a journal in --out."),
]
SamplerOption = Annotated[
    str, typer.Option("--sampler", metavar="tpe|random|grid", help="How trials are drawn.")
]
PrunerOption = Annotated[
    str,
    typer.Option("--pruner", metavar="median|hyperband|none", help="What ends poor trials."),
]
ResumeTuneOption = Annotated[
    bool, typer.Option("--resume", help="Resume a stopped tuning, or join a running one.")
]
FinalOption = Annotated[
    bool, typer.Option("--final", help="Then measure the best once on the test part.")
]

# score
ArchiveArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Folders, manifests (CSV, TSV, Parquet, TXT), URLs such as s3://…, or -."),
]
ScoreOutOption = Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")]
ManifestRootOption = Annotated[
    str | None,
    typer.Option(help="Folder or URL that the names in a manifest are relative to."),
]
UrlsOption = Annotated[
    str | None,
    typer.Option(
        help="URLs in a table or list: none (the default), public (http, https and object stores; "
        "no address of your own network), or any. Given again to resume a run that reads URLs."
    ),
]
ExecutionOption = Annotated[
    str, typer.Option(help="local: processes of this machine; ray: a Ray cluster.")
]
WorkersOption = Annotated[
    int, typer.Option(min=0, help="Processes or actors. Default: one for each core here.")
]
WorkerThreadsOption = Annotated[
    int, typer.Option(min=0, help="Cores of each worker. Default: its share of this machine.")
]
ShardSizeOption = Annotated[
    int | None,
    typer.Option("--shard-size", min=1, help="Images in a shard. Default: at most 2000."),
]
ScoreEngineOption = Annotated[str | None, typer.Option(help="auto, openvino or onnxruntime.")]
ScorePrecisionOption = Annotated[
    str | None, typer.Option(help="auto, fp32, bf16 or int8; the same for all workers.")
]
StallOption = Annotated[
    float,
    typer.Option(min=1, help="Replace a worker after so many seconds without sign of life."),
]
RayAddressOption = Annotated[
    str | None, typer.Option(help="Of a running Ray cluster. Default: RAY_ADDRESS, or start.")
]
ResumeScoreOption = Annotated[bool, typer.Option("--resume", help="Resume a stopped run.")]
VerifyOption = Annotated[
    bool, typer.Option("--verify", help="Prove that a finished run is complete; score nothing.")
]

# serve
ServedBundlesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--bundle",
        "-b",
        help="A model's folder; may be repeated: first = default. Default: the installed ones.",
    ),
]
HostOption = Annotated[str, typer.Option(help="Address; 0.0.0.0 for all, needs a key.")]
PortOption = Annotated[int, typer.Option(help="Port; 0 takes a free one.")]
AuditLogOption = Annotated[
    Path | None, typer.Option("--audit-log", help="Append every answer to this chained log.")
]
ApiKeyFileOption = Annotated[
    Path | None,
    typer.Option(help="File with the API key; else the variable LEUKOSCOPE_API_KEY."),
]
WithoutKeyOption = Annotated[
    bool, typer.Option("--without-key", help="No key though other machines reach it.")
]
RateLimitOption = Annotated[
    int | None,
    typer.Option(
        help="Requests a client may make in a minute; 0: any number. "
        "Default: 0 on this machine alone, else 600."
    ),
]
CorsOriginOption = Annotated[
    list[str] | None, typer.Option(help="Web origin whose scripts may ask; may be repeated.")
]
QueueOption = Annotated[int, typer.Option(help="Images that may wait for each model.")]
BatchOption = Annotated[int, typer.Option(help="Most images the network sees at once.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Default: every core.")]
RequestTimeoutOption = Annotated[float, typer.Option(help="Seconds until a request is given up.")]
UploadTimeoutOption = Annotated[
    float, typer.Option(help="Seconds that the upload of a request may take.")
]
DrainOption = Annotated[
    float, typer.Option(help="Seconds between a stop signal and closing the port.")
]
OpenPageOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]


def class_map(texts: list[str] | None) -> dict[str, str]:
    """The mapping that ``--class FOLDER=CLASS`` options describe.

    >>> class_map(["Blasts A=all"])
    {'Blasts A': 'all'}
    """
    mapping = {}
    for text in texts or ():
        folder, separator, name = text.rpartition("=")
        if not separator or not folder:
            raise ConfigError(f"--class expects FOLDER=CLASS, got {text!r}")
        mapping[folder] = name.strip()
    return mapping


def roles(texts: list[str] | None) -> dict[str, str]:
    """The roles that ``--role CLASS=ROLE`` options state.

    >>> roles(["apl=malignant"])
    {'apl': 'malignant'}
    """
    stated = {}
    for text in texts or ():
        name, separator, role = text.rpartition("=")
        if not separator or not name:
            raise ConfigError(f"--role expects CLASS=ROLE, got {text!r}")
        stated[name.strip()] = role.strip()
    return stated
