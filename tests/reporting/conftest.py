"""A study's folder made of random numbers: nothing in it was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from leukoscope.config.loading import load_recipe, save_study_config
from leukoscope.config.metrics.file import measurements
from leukoscope.config.study import DataConfig, StudyConfig
from leukoscope.core.files import sha256_bytes, write_csv, write_json
from leukoscope.core.records import Fold, ImageRecord, Manifest, save_folds
from leukoscope.core.run_folder import RunFolder
from leukoscope.evaluation.calibration.scaling import fit_temperature, softmax
from leukoscope.evaluation.predictions import PredictionTable, concatenate
from leukoscope.evaluation.statistics.metrics import compute_metrics, confusion_matrix
from leukoscope.evaluation.verdict.rule import judge
from leukoscope.evaluation.verdict.shortcuts import inflations, surviving_share

ACCURACY = {  # of the made-up model and probes
    "random": {"image": 0.98, "background-only": 0.95, "colour-only": 0.96, "cells-only": 0.92},
    "deduplicated": {"image": 0.97, "background-only": 0.9, "colour-only": 0.9, "cells-only": 0.9},
    "acquisition": {"image": 0.9, "background-only": 0.84, "colour-only": 0.72, "cells-only": 0.83},
    "acquisition-merged": {
        "image": 0.52, "background-only": 0.45, "colour-only": 0.41, "cells-only": 0.47,
    },
    "grouped": {"image": 0.82, "background-only": 0.71, "colour-only": 0.69, "cells-only": 0.78},
}  # fmt: skip
UNITS = {
    "random": "component",
    "deduplicated": "component",
    "acquisition": "acquisition cluster",
    "acquisition-merged": "merged acquisition cluster",
    "grouped": "patient",
}


@dataclass(frozen=True)
class Plan:
    """What the made-up study looks like."""

    images: int = 96
    classes: Sequence[str] = ("benign", "early_pre_b", "pre_b", "pro_b")
    protocols: Sequence[str] = ("random", "deduplicated", "acquisition", "acquisition-merged")
    recipes: Sequence[str] = ("quick",)
    inputs: Sequence[str] = ("image", "background-only", "colour-only", "cells-only")
    inapplicable: dict[str, str] = field(
        default_factory=lambda: {"grouped": "no patient ids are known for these images"}
    )
    folds: int = 3
    with_images: bool = True
    quarantined: Sequence[tuple[str, str]] = (
        ("Pro/broken <b>one</b> & two.jpg", "truncated: the file ends too early"),
        ("Early/empty.png", "empty"),
    )


def write_study(folder: Path, plan: Plan = Plan()) -> RunFolder:
    """Write every file that a study writes before its report."""
    rng = np.random.default_rng(7)
    run = RunFolder(folder / "run")
    run.path.mkdir(parents=True)
    manifest = _images(folder / "made-up smears", plan, rng)
    manifest.save(run.manifest)
    recipes = tuple(load_recipe(name) for name in plan.recipes)
    config = StudyConfig(
        data=DataConfig(path=str(manifest.root)),
        recipes=recipes,
        probes=tuple(name for name in plan.inputs if name != "image"),
    )
    save_study_config(run.config, config)
    folds = _folds(manifest, plan, rng)
    save_folds(run.splits, folds, manifest)
    table = _predictions(manifest, plan, rng)
    table.save(run.predictions)
    write_json(run.metrics, _metrics(table, plan))
    write_json(run.passport, _passport(manifest, plan))
    write_json(run.environment, _environment())
    _histories(run, plan, rng)
    _explanations(run, manifest, plan)
    return run


def _images(root: Path, plan: Plan, rng: np.random.Generator) -> Manifest:
    records = []
    colours = {name: rng.integers(150, 230, 3) for name in plan.classes}
    for i in range(plan.images):
        label = plan.classes[int(rng.integers(len(plan.classes) + 1)) % len(plan.classes)]
        path = f"{label}/img_{i:04d}.jpg"
        if plan.with_images:
            _draw(root / path, colours[label], rng)
        sha = sha256_bytes(path.encode())
        records.append(
            ImageRecord(
                image_id=sha[:12],
                path=path,
                sha256=sha,
                label=label,
                patient_id=f"P{i % 14}" if "grouped" in plan.protocols else "",
                group_id=f"g{i // 2 if i < 40 else i}",
                acquisition_id=f"a{plan.classes.index(label) * 6 + int(rng.integers(7)):02d}",
                width=96,
                height=96,
            )
        )
    records += [
        ImageRecord(f"bad{i}", path, status="quarantined", reason=reason)
        for i, (path, reason) in enumerate(plan.quarantined)
    ]
    return Manifest(root, tuple(records))


def _draw(path: Path, colour: np.ndarray, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.clip(colour + rng.normal(0, 6, (96, 96, 3)), 0, 255).astype(np.uint8)
    for _ in range(9):
        x, y = (int(v) for v in rng.integers(4, 92, 2))
        cv2.circle(image, (x, y), 7, (190, 160, 170), -1, cv2.LINE_AA)
    x, y = (int(v) for v in rng.integers(25, 70, 2))
    cv2.circle(image, (x, y), 15, (150, 110, 175), -1, cv2.LINE_AA)
    cv2.circle(image, (x + 2, y), 11, (90, 40, 130), -1, cv2.LINE_AA)
    path.write_bytes(cv2.imencode(".jpg", image[..., ::-1])[1].tobytes())


def _folds(manifest: Manifest, plan: Plan, rng: np.random.Generator) -> list[Fold]:
    ids = [record.image_id for record in manifest.usable]
    folds = []
    for protocol in plan.protocols:
        for fold in range(plan.folds):
            parts = {
                image_id: "test"
                if i % plan.folds == fold
                else str(rng.choice(["train", "val", "cal"], p=[0.8, 0.1, 0.1]))
                for i, image_id in enumerate(ids)
            }
            folds.append(Fold(protocol, fold, parts))
    return folds


def _predictions(manifest: Manifest, plan: Plan, rng: np.random.Generator) -> PredictionTable:
    usable = manifest.usable
    ids = [record.image_id for record in usable]
    y = np.array([list(plan.classes).index(record.label) for record in usable])
    k = len(plan.classes)
    tables = []
    for protocol in plan.protocols:
        for seen in plan.inputs:
            for recipe in plan.recipes if seen == "image" else plan.recipes[:1]:
                target = ACCURACY[protocol][seen]
                hit = rng.random(len(y)) < target
                peak = np.where(hit, y, (y + rng.integers(1, k, len(y))) % k)
                logits = rng.normal(0, 1.2, (len(y), k))
                logits[np.arange(len(y)), peak] = logits.max(axis=1) + rng.gamma(
                    2.5, 1.6 * target, len(y)
                )
                temperature = fit_temperature(logits, y)
                tables.append(
                    PredictionTable.build(
                        plan.classes,
                        ids,
                        softmax(logits / temperature),
                        recipe=recipe,
                        protocol=protocol,
                        fold=np.arange(len(y)) % plan.folds,
                        part="test",
                        input=seen,
                        y_true=y,
                        logits=logits,
                    )
                )
    return concatenate(tables)


def _with_intervals(table: PredictionTable, reliable: bool) -> dict[str, Any]:
    values = compute_metrics(table.y_true, table.probs, table.class_names)
    out = {}
    for name, value in values.items():
        half = 1.2 * np.sqrt(max(value * (1 - value), 0.0004) / len(table)) * (1 if reliable else 6)
        known = not np.isnan(value)
        out[name] = {
            "value": value if known else None,
            "low": max(0.0, value - half) if known else None,
            "high": min(1.0 if name != "log_loss" else 9.0, value + half) if known else None,
            "reliable": reliable,
        }  # fmt: skip
    return out


def _metrics(table: PredictionTable, plan: Plan) -> dict[str, Any]:
    results, probes, model_on, comparisons = [], [], [], []
    n = len(set(table.image_id.tolist()))
    for protocol in plan.protocols:
        groups = {"acquisition": 24, "acquisition-merged": 8, "grouped": 14}.get(protocol, n - 20)
        head = {
            "protocol": protocol,
            "n": n,
            "n_groups": groups,
            "group_unit": UNITS[protocol],
            "folds": plan.folds,
        }
        for seen in plan.inputs:
            for recipe in plan.recipes if seen == "image" else plan.recipes[:1]:
                rows = table.select(protocol=protocol, input=seen, recipe=recipe)
                metrics = _with_intervals(rows, groups >= 10)
                entry = {"recipe": recipe, **head, "metrics": metrics}
                if seen == "image":
                    predicted = rows.probs.argmax(axis=1)
                    entry["confusion"] = confusion_matrix(
                        rows.y_true, predicted, len(plan.classes)
                    ).tolist()
                    results.append({**entry, "calibrated": True})
                else:
                    probes.append({"probe": seen, **entry})
                    model_on.append({"input": seen, **entry})
        if protocol != "random":
            comparisons.append(
                {
                    "a": {"recipe": plan.recipes[0], "protocol": "random", "input": "image"},
                    "b": {"recipe": plan.recipes[0], "protocol": protocol, "input": "image"},
                    "metric": "accuracy",
                    "difference": {"value": 0.08, "low": 0.05, "high": 0.11, "reliable": True},
                    "verdict": "better",
                    "p": 0.0005,
                    "p_holm": 0.001,
                    "n": n,
                    "n_groups": groups,
                }
            )
    metrics: dict[str, Any] = {
        "schema": 1,
        "class_names": list(plan.classes),
        "confidence": 0.95,
        "results": results,
        "probes": probes,
        "model_on": [entry for entry in model_on if entry["input"] != "colour-only"],
        "comparisons": comparisons,
        "inapplicable": [
            {"protocol": name, "reason": reason} for name, reason in plan.inapplicable.items()
        ],
        "curve": [
            {
                "recipe": recipe,
                "clusters": k,
                "n": n,
                "n_groups": k,
                "accuracy": {"value": v - 0.02 * r, "low": v - 0.05, "high": min(1, v + 0.03)},
                "balanced_accuracy": {"value": v - 0.01, "low": v - 0.06, "high": v + 0.02},
            }
            for r, recipe in enumerate(plan.recipes)
            for k, v in ((6, 0.80), (12, 0.86), (24, 0.90), (48, 0.93), (96, 0.95))
            if "acquisition" in plan.protocols
        ],
        "decisions": {
            "recipe": plan.recipes[0],
            "coverage": {
                "nominal": 0.95,
                "protocol": {
                    name: {"value": v, "low": v - 0.02, "high": v + 0.015, "reliable": True}
                    for name, v in zip(plan.protocols, (0.95, 0.948, 0.9, 0.61, 0.8), strict=False)
                },
            },
            "mean_set_size": {
                "protocol": {
                    name: {"value": v, "low": v - 0.02, "high": v + 0.02, "reliable": True}
                    for name, v in zip(plan.protocols, (1.01, 1.03, 1.1, 1.4, 1.2), strict=False)
                }
            },
        },
        "warnings": ["SYNTHETIC: this study was made from random numbers for a test."],
    }
    right = np.arange(120) < np.array([[100], [60], [80]])
    share = surviving_share(*right, replicates=100).to_json()
    metrics["shortcuts"] = {
        "recipe": plan.recipes[0],
        "inflation": [
            row.model_dump(mode="json")
            for row in inflations(measurements(metrics).comparisons, plan.recipes[0])
        ],
        "shares": [{"protocol": name, **share} for name in plan.protocols] if probes else [],
        "inapplicable": [{"probe": "scale-bar-only", "reason": "no scale bar was found"}],
    }
    metrics["verdict"] = judge(measurements(metrics)).model_dump(mode="json")
    return metrics


def _passport(manifest: Manifest, plan: Plan) -> dict[str, Any]:
    per_class = dict.fromkeys(plan.classes, 0)
    for record in manifest.usable:
        per_class[record.label] += 1
    nothing = {"pairs": 0, "images": 0, "groups": []}
    return {
        "schema": 1,
        "leukoscope": "0.1.0",
        "root_name": "made-up smears",
        "layout": "class-folders",
        "notes": [],
        "n_files": len(manifest.images),
        "n_usable": len(manifest.usable),
        "classes": per_class,
        "quarantined": [],
        "excluded": {},
        "exact_duplicates": {"pairs": 4, "images": 8, "groups": [["a", "b"]] * 4},
        "pixel_duplicates": nothing,
        "near_duplicates": {"pairs": 2, "images": 4, "turned": 0, "groups": [["c", "d"]] * 2},
        "overlaps": {
            "groups": 20,
            "images": 40,
            "largest": 2,
            "by_class": {},
            "pairs": [["a", "b", 3, 4, 0.9]] * 20,
        },
        "twins": nothing,
        "components": {"groups": 26, "images": 52, "largest": 2, "sizes": {"2": 26}},
        "label_conflicts": [],
        "patients": {
            "n": 14,
            "n_given": 14,
            "images": len(manifest.usable),
            "by_class": {},
            "merged": [],
            "links_across": 0,
        },
        "given_parts": {"parts": {}, "leaking_components": [], "leaking_patients": {}},
        "scale_bars": {
            "images": 30,
            "red": 0,
            "boxes": {},
            "cramers_v": 0.5,
            "by_class": {plan.classes[0]: 20, plan.classes[1]: 10},
        },
        "acquisition": {"applicable": True, "clusters": 24, "cramers_v": 0.83},
        "class_balance": {"chi2": 31.4, "p": 1e-6, "entropy": 0.93, "ratio": 2.0},
        "findings": [
            {"level": "info", "code": "size", "text": "All images are 96 × 96 px."},
            {
                "level": "warning",
                "code": "overlap",
                "text": "40 images share a field with another.",
            },
        ],
        "sha256": "ab" * 32,
    }


def _environment() -> dict[str, Any]:
    return {
        "schema": 1,
        "command": "leukoscope study 'made-up smears' --out run --recipe quick",
        "python": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "cpu": "A processor <fast>",
        "cores": 2,
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
        "packages": {"leukoscope": "0.1.0", "numpy": "2.4.0", "torch": "2.15.0"},
        "seed": 42,
        "sha256": {"manifest.csv": "cd" * 32, "splits.csv": "ef" * 32},
        "seconds": {"audit": 31.2, "features of image": 64.0, "statistics": 12.5},
        "seconds_in_all": 120.0,
    }


def _histories(run: RunFolder, plan: Plan, rng: np.random.Generator) -> None:
    for recipe in plan.recipes:
        for protocol in plan.protocols:
            for fold in range(plan.folds):
                path = run.model(recipe, protocol, fold) / "history.csv"
                noise = rng.normal(0, 0.01, 12)
                if recipe == "quick":
                    rows = [
                        {
                            "c": c,
                            "train_loss": a,
                            "val_loss": b + noise[i],
                            "val_accuracy": 0.9 + noise[i],
                        }
                        for i, (c, a, b) in enumerate(
                            ((0.0003, 0.4, 0.45), (0.003, 0.1, 0.2), (0.03, 0.02, 0.26))
                        )
                    ]  # fmt: skip
                else:
                    rows = [
                        {
                            "epoch": e,
                            "train_loss": 1.3 * 0.8**e,
                            "train_accuracy": 1 - 0.7 * 0.8**e,
                            "val_loss": 0.3 + 1.1 * 0.75**e + noise[e],
                            "val_accuracy": 0.9 - 0.6 * 0.75**e + noise[e],
                            "lr": 0.001,
                            "seconds": 3.0,
                        }
                        for e in range(12)
                    ]
                write_csv(path, list(rows[0]), rows)


def _explanations(run: RunFolder, manifest: Manifest, plan: Plan) -> None:
    entries = []
    run.explanations.mkdir()
    yy, xx = np.mgrid[:224, :224]
    for i, record in enumerate(manifest.usable[:6]):
        kind = "right" if i < 4 else "wrong"
        panel = np.full((260, 700, 3), 255, np.uint8)
        source = cv2.imread(str(manifest.path_of(record))) if plan.with_images else None
        tile = (
            np.full((224, 224, 3), 200, np.uint8)
            if source is None
            else cv2.resize(source, (224, 224))
        )
        heat = np.exp(-((xx - 90) ** 2 + (yy - 120) ** 2) / 2500)
        warm = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
        for column, image in enumerate((tile, warm, (tile // 2 + warm // 2))):
            panel[30:254, 5 + 232 * column : 229 + 232 * column] = image
        name = f"explanations/{kind}-{record.image_id}.png"
        (run.path / name).write_bytes(cv2.imencode(".png", panel)[1].tobytes())
        entries.append(
            {
                "image_id": record.image_id,
                "path": record.path,
                "recipe": plan.recipes[0],
                "protocol": plan.protocols[0],
                "fold": 0,
                "part": "test",
                "method": "grad-cam",
                "explained": record.label,
                "y_true": record.label,
                "y_pred": record.label if kind == "right" else plan.classes[0],
                "p": 0.91,
                "kind": kind,
                "panel": name,
                "share_in_leukocytes": None if i == 1 else 0.41,
                "area_of_leukocytes": 0.16,
            }
        )
    write_json(run.explanations / "explanations.json", entries)
    _features(run, manifest, plan)


def _features(run: RunFolder, manifest: Manifest, plan: Plan) -> None:
    rows = [
        {
            "image_id": record.image_id,
            "path": record.path,
            "class": record.label,
            "patient": record.patient_id,
            "acquisition": record.acquisition_id,
            "y_pred": record.label,
            "p": 0.9,
            "pca_1": np.cos(number),
            "pca_2": np.sin(number),
            "tsne_1": "",
            "tsne_2": "",
        }
        for number, record in enumerate(manifest.usable)
    ]
    write_csv(run.explanations / "features.csv", list(rows[0]), rows)
    purity = {"n": len(rows), "value": 0.8, "chance": 0.3, "best": 1.0}
    entry = {"labelling": "class", "crossed": "", "groups": 4, "silhouette": 0.12}
    crossed = {"labelling": "class", "crossed": "other groups", "groups": 4, "silhouette": None}
    found = {
        "schema": 1,
        "recipe": plan.recipes[0],
        "protocol": plan.protocols[0],
        "fold": 0,
        "n": len(rows),
        "dimensions": 1280,
        "explained_variance": [0.3, 0.2],
        "neighbours": 10,
        "structures": [
            {**one, "purity": purity, "above_chance": 0.7143} for one in (entry, crossed)
        ],
        "verdict": "The features follow the class, not the acquisition group: made up.",
    }
    write_json(run.explanations / "features.json", found)


@pytest.fixture(scope="session")
def make_study() -> Callable[..., RunFolder]:
    """Writes a made-up study below a folder; keyword arguments change its plan."""

    def make(folder: Path, **changes: Any) -> RunFolder:
        return write_study(folder, replace(Plan(), **changes))

    return make
