"""Make one of the bundles of this distribution: draw or take images, run a study, pack, check.

Example: python bundles/build.py aria-field path/to/aria_all --run runs/aria-field
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from leukoscope.config.bundle import BundleRecord
from leukoscope.config.loading import load_study_config
from leukoscope.core.errors import BundleError, LeukoscopeError, UsageError
from leukoscope.core.run_folder import RunFolder
from leukoscope.datasets.fetch_registry import public_set

HERE = Path(__file__).resolve().parent
MOST_BYTES = 16_000_000


@dataclass(frozen=True)
class Plan:
    """How a bundle is made.

    Attributes:
        recipe: Name or file.
        data_set: Key of ``datasets.fetch_registry``; empty where the images are drawn.
        extra: Further options of ``leukoscope study``.
        um_per_px: Pixel scale of the images, where it is known.
    """

    recipe: str
    data_set: str = ""
    extra: tuple[str, ...] = ()
    um_per_px: float | None = None


PLANS = {
    "phantom": Plan(
        str(HERE / "phantom.toml"),
        extra=("-p", "random", "-p", "grouped", "-p", "acquisition", "--folds", "1", "--no-probes"),
        um_per_px=0.303,
    ),
    "aria-field": Plan("shallow", "all-4class"),
    "cnmc-cell": Plan("single-cell", "cnmc-2019", (
        "-r", "quick", "-p", "random", "-p", "grouped",
    )),
}  # fmt: skip


def main() -> int:
    """Read the command line, build, say what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(PLANS))
    parser.add_argument("data", nargs="?", type=Path, help="the data set; phantoms are drawn")
    parser.add_argument("--run", type=Path, help="keep the study here, or take up the one here")
    parser.add_argument("--recipe", help="another recipe than the plan's")
    parser.add_argument(
        "--similar", action="store_true", help="only add the similar cases; fit and export nothing"
    )
    parser.add_argument("--out", type=Path, help="default: the package's own folder")
    given = parser.parse_intermixed_args()
    plan = PLANS[given.name]
    if given.recipe:
        plan = replace(plan, recipe=given.recipe)
    out = given.out or HERE / "src" / "leukoscope_bundles" / given.name
    try:
        if given.similar:
            size = add_cases(given.name, RunFolder(given.run), out)
            print(f"{out}: {size / 1e6:.1f} MB")
            return 0
        with tempfile.TemporaryDirectory() as scratch:
            run = RunFolder(given.run or Path(scratch) / "run")
            if run.config.is_file():
                if not run.report_html.is_file():
                    _leukoscope("study", "--out", str(run.path), "--resume")
            else:
                data = given.data or _draw(given.name, Path(scratch))
                options = ("-r", plan.recipe, *plan.extra, "--out", str(run.path))
                _leukoscope("study", str(data), *options)
            size = pack(given.name, plan, run, out)
    except LeukoscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{out}: {size / 1e6:.1f} MB")
    return 0


def _draw(name: str, scratch: Path) -> Path:
    if PLANS[name].data_set:
        raise UsageError(f"{name}: expected the folder of the data set", hint=__doc__ or "")
    _leukoscope("phantom", "--out", str(scratch / "phantoms"), "--images", "400", "--seed", "11")
    return scratch / "phantoms"


def _leukoscope(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "leukoscope", *arguments], check=False)
    if done.returncode not in (0, 3):  # 3: some files of the data set cannot be read
        raise BundleError(f"leukoscope {' '.join(arguments)} failed; see above")


def pack(name: str, plan: Plan, run: RunFolder, out: Path) -> int:
    """Export the study's model under the bundle's own name and check it.

    Args:
        name: Of the bundle.
        plan: How it was made.
        run: A finished study.
        out: Replaced as a whole, but only by a bundle that passes.

    Returns:
        Size in bytes.

    Raises:
        BundleError: The bundle is too large, holds a foreign image, or names a local folder.
    """
    from leukoscope.runtime.bundle import save_bundle
    from leukoscope.study.bundling import export_bundle

    recipe = load_study_config(run.config).recipes[0].name
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        record = export_bundle(run, recipe, folder, um_per_px=plan.um_per_px, compact=True)
        files: dict[str, bytes | Path] = {key: folder / key for key in record.files}
        card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
        files["MODEL_CARD.md"] = (card.rstrip("\n") + _origin(name, plan, recipe)).encode()
        files["LICENSE"] = _terms(plan).encode()
        record = record.model_copy(update={"name": name, "licence": _short_terms(plan)})
        record = save_bundle(folder, record, files)
        size = check(folder, record, run)
        save_bundle(out, record, {key: folder / key for key in record.files})
    return size


def add_cases(name: str, run: RunFolder, out: Path) -> int:
    """Give a finished bundle the training cases of the study that made it.

    Args:
        name: Of the bundle.
        run: The study.
        out: The bundle; replaced only by one that passes.

    Returns:
        Size in bytes.

    Raises:
        BundleError: As in :func:`pack`.
    """
    from leukoscope.runtime.bundle import read_bundle, save_bundle
    from leukoscope.study.final_model import add_similar

    old = read_bundle(out)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        save_bundle(folder, old.record, {key: out / key for key in old.record.files})
        record = add_similar(folder, run)
        size = check(folder, record, run)
        save_bundle(out, record, {key: folder / key for key in record.files})
    return size


def check(folder: Path, record: BundleRecord, run: RunFolder) -> int:
    """Size in bytes of a bundle that may be given away.

    Raises:
        BundleError: It may not.
    """
    from leukoscope.phantom.render import golden_phantoms
    from leukoscope.runtime.golden import verify_bundle
    from leukoscope.runtime.heatmap import encode_png
    from leukoscope.runtime.similar import PICTURES

    data, of_data = _data_of(run)
    drawn = {hashlib.sha256(encode_png(image)).hexdigest() for image in golden_phantoms()}
    places = (Path.home(), HERE, data, run.path, tempfile.gettempdir())
    local = {str(Path(place).resolve()).encode() for place in places}
    local |= {b"/tmp/", b"/home/", b"/Users/"}
    size = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        size += len(content)
        name = path.relative_to(folder).as_posix()
        digest = hashlib.sha256(content).hexdigest()
        given = name == PICTURES and record.phantoms  # of cases that are drawn, every one
        picture = path.suffix in (".png", ".jpg") and not given
        if digest in of_data or (picture and digest not in drawn):
            raise BundleError(f"{name}: an image that is not drawn may not be given away")
        for place in sorted(local):
            if len(place) > 4 and place in content:
                raise BundleError(f"{name}: names a folder of this machine, {place.decode()}")
    if size > MOST_BYTES:
        raise BundleError(f"{folder.name}: expected at most {MOST_BYTES:,} bytes, found {size:,}")
    failed = [
        f"{found.name}: {found.detail}"
        for found in verify_bundle(folder, "onnxruntime")
        if not found.ok
    ]
    if failed:
        raise BundleError(f"{folder.name}: {'; '.join(failed)}")
    return size


def _data_of(run: RunFolder) -> tuple[str, set[str]]:
    """Where a study's images lie, and the SHA-256 of each."""
    from leukoscope.core.records import Manifest

    data = load_study_config(run.config).data
    images = Manifest.load(run.manifest, data.root).images
    return data.path, {image.sha256 for image in images}


def _origin(name: str, plan: Plan, recipe: str) -> str:
    command = f"python bundles/build.py {name}"
    cite = "Nothing: the images are drawn by `leukoscope phantom`."
    if plan.data_set:
        command += " path/to/data"
        data = public_set(plan.data_set)
        cite = "\n".join(f"- {work}" for work in data.citation)
        cite = f"{data.title}, {data.page} ({data.licence}).\n\n{cite}"
    if plan.data_set and recipe != PLANS[name].recipe:
        command += f" --recipe {recipe}"
    return (
        f"\n\n## How it was made\n\n```bash\n{command}\n```\n\nThe scores above are those of the "
        "models that were fitted without the images they were tested on; the packed model was "
        "fitted on all images, by the same recipe, and its large weights are stored as 16-bit "
        f"integers with one scale a channel.\n\n## Cite\n\n{cite}\n"
    )


def _short_terms(plan: Plan) -> str:
    if not plan.data_set:
        return "free for any use; see LICENSE"
    return "research use, with attribution to the authors of the data; see LICENSE"


def _terms(plan: Plan) -> str:
    end = "Research software, not a medical device.\n"
    if not plan.data_set:
        return f"The weights were fitted to images that Leukoscope draws; free for any use.\n{end}"
    data = public_set(plan.data_set)
    works = "".join(f"  {work}\n" for work in data.citation)
    return (
        f"The weights were fitted to the images of: {data.title}\n({data.page}; {data.licence}).\n"
        "They may be used for research, under the terms of that data set, with attribution to its\n"
        f"authors:\n{works}The authors of Leukoscope claim no rights in them.\n{end}"
    )


if __name__ == "__main__":
    sys.exit(main())
