"""Times between frames of an HTML page of images while it is panned and zoomed: `python -m benchmarks.bench_page FILE`.

The page (`lemamba evaluate … --html FILE`) is opened in headless Chromium without a GPU. The comparison is left alone,
zoomed in and out by the wheel, and, enlarged, dragged about: each for some seconds, with an event every 16 ms that is
sent within the page. Shown are the times between two calls of `requestAnimationFrame`: median, 95 %, longest. A page
that keeps up with 60 Hz has 16.7 ms. All images follow, so a frame draws every one that is in sight.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

from lemamba.utils.atomic import write_json
from lemamba.utils.command_line import Parser
from lemamba.utils.errors import UserError
from lemamba.utils.startup import run_cli

# Sends the comparison an event every 16 ms: the wheel, 100 times in and then out, or a pointer that drags it about.
_MOVE = """([kind, seconds]) => new Promise((done) => {
    const canvas = document.getElementById("compare"), box = canvas.getBoundingClientRect();
    const middle = [box.left + 0.6 * box.width, box.top + 0.5 * box.height];
    const send = (type, kind, more) =>
      canvas.dispatchEvent(new kind(type, { bubbles: true, cancelable: true, pointerId: 1, ...more }));
    canvas.setPointerCapture = () => {};  // there is no pointer of a device
    const frames = [], started = performance.now();
    let last, turn = 0;
    const frame = (now) => {
      if (last !== undefined) frames.push(now - last);
      last = now;
      if (now - started < 1000 * seconds) return requestAnimationFrame(frame);
      clearInterval(timer);
      if (kind === "pan") send("pointerup", PointerEvent, at(0));
      done(frames);
    };
    const at = (angle) => ({
      clientX: middle[0] + 0.3 * box.width * Math.sin(angle),
      clientY: middle[1] + 0.3 * box.height * Math.sin(0.7 * angle),
    });
    if (kind === "pan") send("pointerdown", PointerEvent, at(0));
    const timer = setInterval(() => {
      turn += 1;
      if (kind === "still") return;
      if (kind === "pan") send("pointermove", PointerEvent, at(turn / 25));
      else send("wheel", WheelEvent, { ...at(0), ctrlKey: true, deltaY: turn % 200 < 100 ? -12 : 12 });
    }, 16);
    requestAnimationFrame(frame);
  })"""


def measure(page: Path, seconds: float, width: int) -> dict[str, list[float]]:
    """Return the milliseconds between frames while zooming ("zoom") and panning ("pan"), and untouched ("still")."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise UserError("expected Chromium on PATH, found none; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": width, "height": round(width * 0.7)})
        opened.goto(page.resolve().as_uri())
        opened.wait_for_selector("body[data-ready='0']", timeout=120_000)
        opened.locator("#compare").scroll_into_view_if_needed()
        opened.wait_for_function("() => document.body.dataset.drawn === 'yes' && document.body.dataset.tiles === '0'")
        found = {}
        for kind in ("still", "zoom", "pan"):
            if kind == "pan":
                for _ in range(6):
                    opened.click("#in")
                opened.wait_for_timeout(500)
            found[kind] = opened.evaluate(_MOVE, [kind, seconds])
        browser.close()
    return found


def summary(frames: list[float]) -> dict[str, float]:
    """Return number, median, 95 % and longest of the times between frames, in ms."""
    ordered = sorted(frames)
    late = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return {"frames": len(ordered), "median": statistics.median(ordered), "95 %": late, "longest": ordered[-1]}


def main() -> None:
    """Measure and print."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="HTML file of lemamba evaluate or leaderboard.py")
    parser.add_argument("--seconds", type=float, default=8, help="of each movement (default %(default)s)")
    parser.add_argument("--width", type=int, default=1280, help="of the window in pixels (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the times here")
    options = parser.parse_args()
    if not options.page.is_file():
        raise UserError(f"expected an HTML file, given {options.page}; make one with lemamba evaluate … --html")
    found = measure(options.page, options.seconds, options.width)
    rows = {kind: summary(frames) for kind, frames in found.items()}
    for kind, row in rows.items():
        times = ", ".join(f"{name} {row[name]:.1f} ms" for name in ("median", "95 %", "longest"))
        print(f"{kind:<6} {row['frames']:4.0f} frames: {times}")
    if options.json:
        write_json(options.json, rows)


if __name__ == "__main__":
    run_cli(main)
