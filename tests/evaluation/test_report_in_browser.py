"""The report in a real browser: it asks for nothing, complains of nothing, and fits a phone, light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_cases import make_comparison, make_examples, make_log, make_result, make_sections

from seqrec_jax.evaluation.report.page import render_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the path")

OUTSIDE = '<img src="http://127.0.0.1:9/pixel.png">'
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-component-update", "--disable-background-networking", "--disable-sync", "--disable-extensions",
    "--enable-logging=stderr", "--virtual-time-budget=3000",
)  # fmt: skip
MEASURE = """
<!doctype html><title>measure</title><pre id="found"></pre><script>
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
    for (const folded of page.querySelectorAll("details")) folded.open = true;
    const boxes = [...page.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect());
    found[frame.name] = {
      title: page.title, scroll: root.scrollWidth, width: root.clientWidth, svgs: boxes.length,
      narrow: Math.min(...boxes.map((box) => box.width)), flat: Math.min(...boxes.map((box) => box.height)),
      text: Math.min(...[...page.querySelectorAll("svg text")].map((text) => text.getBoundingClientRect().height)),
      outside: [...page.querySelectorAll("p, h1, h2, h3, li, dd, svg")].filter(
        (node) => !node.closest(".scroll, .hidden") && !node.matches(".hidden")
          && node.getBoundingClientRect().right > root.clientWidth + 1).map((node) => node.textContent.slice(0, 40)),
      loaded: view.performance.getEntriesByType("resource").map((entry) => entry.name),
    };
  }
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>
"""


def browse(page: str, folder: Path, *flags: str, name: str = "report.html") -> subprocess.CompletedProcess[str]:
    """Open the page as a file; `stderr` has the console, `net.json` what the network was asked for."""
    (folder / name).write_text(page, encoding="utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *FLAGS, profile, f"--log-net-log={folder / 'net.json'}", *flags, (folder / name).as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def requests_of(folder: Path) -> list[str]:
    """The addresses asked for, but for files and the browser's own pages."""
    log = json.loads((folder / "net.json").read_text(encoding="utf-8"))
    starts = log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    found = [event["params"] for event in log["events"] if event["type"] == starts and "url" in event.get("params", {})]
    own = [event for event in found if event.get("initiator") != "not an origin"]
    return [event["url"] for event in own if not event["url"].startswith(("file:", "chrome:", "data:"))]


def console_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def large_report() -> str:
    result = make_result() | {"sections": make_sections(3), "warnings": ["A warning. " * 20]}
    result["systems"][0]["name"] = "a model with a rather long name, trained twice"
    card = {f"entry {number}": "a_value_without_any_blank_" * 4 for number in range(12)}
    result["protocol"] |= {"protocol_fingerprint": "0123456789ab", "card": card, "split": "leave_one_out, " * 8}
    finding = {
        "key": "k",
        "severity": "warning",
        "title": "Ties",
        "text": "Many. " * 30,
        "count": 12,
        "effect": "±0.01",
    }
    result["audit"] = [finding, finding | {"severity": "error"}, finding | {"severity": "info"}]
    result["model_card"] = {"data": "A log. " * 30, "limits": ["None known. " * 10] * 3}
    example = make_examples()[0]
    examples = [example | {"other": {"name": "old", "recommended": example["recommended"], "target_ranks": [3, 4]}}]
    return render_report(result, log=make_log(), examples=examples)


@pytest.fixture(scope="module")
def report() -> str:
    return large_report()


@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)])
def test_no_request_no_complaint_and_the_colours_that_the_reader_prefers(report, tmp_path, scheme, dark):
    from matplotlib.image import imread

    picture = tmp_path / "page.png"
    done = browse(
        report, tmp_path, f"--screenshot={picture}", "--window-size=1200,1400",
        f"--blink-settings=preferredColorScheme={scheme}",
    )  # fmt: skip
    assert requests_of(tmp_path) == [] and console_of(done) == []
    pixels = imread(picture)[..., :3]
    assert pixels.shape[:2] == (1400, 1200)
    assert (pixels.mean() < 0.3) if dark else (pixels.mean() > 0.8)
    assert pixels.std() > 0.03  # something is drawn


def test_a_request_or_a_complaint_would_have_been_noticed(tmp_path):
    blocked = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    done = browse(f"<!doctype html>{OUTSIDE}", tmp_path, "--dump-dom")
    assert "http://127.0.0.1:9/pixel.png" in requests_of(tmp_path)
    done = browse(f"<!doctype html>{blocked}{OUTSIDE}", tmp_path, "--dump-dom")
    assert requests_of(tmp_path) == [] and "Content Security Policy" in " ".join(console_of(done))


def test_pages_fit_phone_and_desk_with_all_details_open(report, tmp_path):
    protocols = {"fingerprints_differ": True, "fingerprints": {"A": "0" * 12, "B": "1" * 12}}
    comparison = render_report(make_comparison(0.012, -0.01, **protocols), log=[], examples=[])
    pages = {"phone": (report, 390), "small": (report, 320), "desk": (report, 1200), "comparison": (comparison, 390)}
    frames = "".join(
        f'<iframe name="{name}" style="width:{width}px;height:800px;border:0" srcdoc="{html.escape(page)}"></iframe>'
        for name, (page, width) in pages.items()
    )
    done = browse(MEASURE + frames, tmp_path, "--dump-dom", "--window-size=1400,900", name="measure.html")
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1]))
    assert set(found) == set(pages)
    for name, (page, width) in pages.items():
        measured = found[name]
        assert measured["title"].endswith(": evaluation report")
        assert measured["width"] == width and measured["scroll"] <= width and measured["outside"] == []
        assert measured["svgs"] == page.count("<svg ") > 1
        assert measured["narrow"] > 230 and measured["flat"] > 60 and measured["text"] > 8
        assert measured["loaded"] == []
