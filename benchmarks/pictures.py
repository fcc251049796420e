"""The pictures of README and docs, from phantoms.

    python benchmarks/pictures.py WORK

draws phantoms in WORK, runs the commands that the pictures show, and writes docs/images. What is
finished in WORK is used again: after a change of the report, delete WORK/run/report.html. Needs
Chromium.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from PIL import Image, ImageChops
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parents[1] / "docs" / "images"
DESKTOP, PHONE = (1280, 800), (390, 844)
TERMINAL = """<body style="margin: 0"><pre style="margin: 0; padding: 16px 20px; width: 860px;
background: #1b2430; color: #e6eaf0; font: 15px/1.5 monospace; white-space: pre-wrap">{}</pre>"""
COLOURS = 96  # of a palette: screenshots of text need no more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    run(work, "phantom --images 200 --confound stain --out phantoms", "phantoms")
    run(work, "study phantoms -r quick -p random -p grouped --out run", "run/metrics.json")
    run(work, "study --out run --resume", "run/report.html")
    run(work, f"data samples phantoms --per-class 3 --out {IMAGES / 'samples.png'}", "")
    shrink(IMAGES / "samples.png", width=720)
    with browser() as page:
        screenshot(page, (work / "run/report.html").as_uri(), "report.png", DESKTOP)
        with service(work) as address:
            for name, size in (("page-answer.png", DESKTOP), ("page-phone.png", PHONE)):
                answer(page, address, work, name, size)
        archive(page, work)
    patient_sheet(work)


def run(work: Path, arguments: str, made: str) -> None:
    """Run ``leukoscope`` in WORK unless what it makes is there."""
    if made and (work / made).exists():
        return
    command = [sys.executable, "-m", "leukoscope", *shlex.split(arguments)]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        sys.exit(f"{arguments}: {done.stderr}")


def archive(page: Page, work: Path) -> None:
    """What a terminal shows of a scored archive and of its proof."""
    shutil.rmtree(work / "scores", ignore_errors=True)
    shown = []
    for arguments in ("phantoms --bundle run/bundle --out scores", "--out scores --verify"):
        command = ["score", *shlex.split(arguments)]
        done = subprocess.run(
            [sys.executable, "-m", "leukoscope", *command],
            cwd=work,
            capture_output=True,
            text=True,
            check=True,
        )
        shown.append(f"<b>$ leukoscope {shlex.join(command)}</b>\n{escape(done.stdout)}")
    page.set_viewport_size({"width": 900, "height": 600})
    page.goto("about:blank")  # away from the service's page, which allows no style of others
    page.set_content(TERMINAL.format("\n".join(shown)))
    page.locator("pre").screenshot(path=IMAGES / "archive.png")
    shrink(IMAGES / "archive.png", width=900)


def patient_sheet(work: Path) -> None:
    """The cells that decided about a patient, from a study of patients."""
    run(work, "phantom --images 96 --sessions 6 --size 160 --out cells", "cells")
    settings = "--set control_draws=0 --set bootstrap=200 --no-probes --no-bundle --folds 2"
    run(
        work,
        f"study cells --unit patient -r quick {settings} --out patients",
        "patients/report.html",
    )
    sheets = sorted((work / "patients/explanations/patients").glob("*.png"))
    sheet = Image.open(sheets[0]).convert("RGB")
    drawn = ImageChops.difference(sheet, Image.new("RGB", sheet.size, "white")).getbbox()
    assert drawn is not None
    sheet.crop((0, 0, drawn[2] + 8, sheet.height)).save(IMAGES / "patient.png")
    shrink(IMAGES / "patient.png", width=900)


@contextmanager
def browser() -> Iterator[Page]:
    with sync_playwright() as engine:
        path = next(p for n in ("chromium", "google-chrome") if (p := shutil.which(n)))
        opened = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = opened.new_page()
        page.set_default_timeout(300_000)  # of a machine that does other work too
        yield page
        opened.close()


def screenshot(page: Page, address: str, name: str, size: tuple[int, int]) -> None:
    """What a reader sees first."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(address)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=IMAGES / name)
    shrink(IMAGES / name)


@contextmanager
def service(work: Path) -> Iterator[str]:
    """The page of ``leukoscope serve`` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", "leukoscope", "serve", "--bundle", "run/bundle"]
    process = subprocess.Popen([*serve, "--port", str(port)], cwd=work)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            if ready(address):
                break
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait()


def ready(address: str) -> bool:
    """Whether the service has its models; before that its page takes no files."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def answer(page: Page, address: str, work: Path, name: str, size: tuple[int, int]) -> None:
    """The page with its answer about one phantom."""
    with (work / "phantoms/manifest.csv").open(encoding="utf-8") as file:
        image = next(csv.DictReader(file))["path"]
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(address)
    page.wait_for_load_state("networkidle")
    page.set_input_files("#files", work / "phantoms" / image)
    page.wait_for_selector("#results-heading")
    page.locator("#results-heading").evaluate("heading => heading.scrollIntoView()")
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / name)
    shrink(IMAGES / name)


def shrink(path: Path, width: int = 1280) -> None:
    """Make a picture at most so wide, with a palette."""
    picture = Image.open(path).convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, picture.height * width // picture.width))
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
