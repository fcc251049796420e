"""Freeze a public data set's audit and recommended splits into the package.

python benchmarks/freeze.py aria-all path/to/aria_all
python benchmarks/freeze.py cnmc-2019 path/to/cnmc_2019 --audit path/to/study/cache/audit

Audits the data (or takes the audit that a study of the same files keeps in ``cache/audit``), makes
the splits (5 folds, seed 42) and writes ``NAME.json`` and ``NAME.csv.gz`` into
``src/leukoscope/datasets/frozen``. The same data and version give the same bytes. The published
passports are older: components, clusters and test folds come out again, but they also keep images
to calibrate on, which folds no longer need. A new hash is a new passport: say so in the changelog,
for papers cite it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import leukoscope
from leukoscope.datasets.audit.run import load_audit
from leukoscope.datasets.frozen_passports import freeze
from leukoscope.pipeline.folds import plan_protocols
from leukoscope.study.options import study_config
from leukoscope.study.run import audited

FOLDER = Path(leukoscope.__file__).parent / "datasets" / "frozen"
SETS = {
    "aria-all": {
        "title": "Acute Lymphoblastic Leukemia image data set, 3,256 original fields",
        "doi": "10.34740/KAGGLE/DSV/2175623",
        "licence": "as given by its publishers; research use, cite Ghaderzadeh et al. 2022 "
        "(doi 10.1002/int.22753)",
        "recommended": "acquisition",
        "remarks": [
            "No patient ids are published: no protocol here tests on unseen patients.",
            "Keyed by the JPEG files as published; a file that was saved again has other pixels "
            "and stays unknown.",
        ],
    },
    "cnmc-2019": {
        "title": "C-NMC 2019, 2,002 of the 3,527 cells of its training fold 0",
        "doi": "10.7937/tcia.2019.dc64i46r",
        "licence": "CC BY 3.0",
        "recommended": "grouped",
        "remarks": [
            "At most 90 cells of a patient, drawn at random, so 1,525 published cells of fold 0 "
            "are unknown to it; they must not be trained on beside these splits, for they show "
            "the same patients.",
            "The bytes hashed are a lossless WebP version; the bitmaps as published, and any other "
            "lossless copy, are found by the hash of their pixels.",
            "Patient ids are the subject numbers of the published file names; ids that share cells "
            "are joined.",
        ],
    },
}
FOLDS = 5  # of the published splits, whatever a study takes by default
PROTOCOLS = {
    "aria-all": ["random", "deduplicated", "acquisition", "acquisition-merged"],
    "cnmc-2019": ["grouped"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SETS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--audit", type=Path, help="Folder of a finished audit of the same files.")
    parser.add_argument("--out", type=Path, default=FOLDER)
    given = parser.parse_args()
    config = study_config(
        given.data,
        protocols=PROTOCOLS[given.name],
        folds=FOLDS,
        overrides=("splits.cluster_curve=[]",),
    )
    found = load_audit(given.audit, given.data) if given.audit else audited(config, lambda *_: None)
    plan = plan_protocols(found.manifest, found, config)
    about = {
        "name": given.name,
        **SETS[given.name],
        "made_by": f"leukoscope {leukoscope.__version__}, benchmarks/freeze.py",
        "seed": config.seed,
        "folds": config.splits.folds,
        "shares": {"val": config.splits.val, "cal": config.splits.cal},
        "clusters": config.splits.clusters,
        "inapplicable": list(plan.inapplicable),
        "notes": list(plan.notes),
    }
    frozen = freeze(given.out, found.manifest, found.passport, plan.folds, about)
    size = sum((given.out / f"{given.name}.{end}").stat().st_size for end in ("json", "csv.gz"))
    print(f"{given.name}: {len(frozen.rows):,} images, {size / 1000:.0f} kB, {frozen.sha256}")


if __name__ == "__main__":
    main()
