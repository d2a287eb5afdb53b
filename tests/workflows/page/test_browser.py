"""The demo's page in a real headless browser: a picture dropped, pasted and chosen; what it shows and says."""

import os
import re
import shutil
import threading

import pytest
from image_models import make_image_models, picture
from PIL import Image
from plain_classifier import export_plain_classifier

from rebnn_mm.workflows.page import server as page
from rebnn_mm.workflows.page.serve import make_server

pytestmark = pytest.mark.slow
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="optional: pip install playwright")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no browser on this machine: one of {', '.join(_NAMES)} (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as play:
        # Chromium's own sandbox refuses to run as root, which a container is
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.getuid() == 0 else [])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """``opened(model)`` -> the page of a model; an error in its script, or a refused resource, fails the test."""
    servers, wrong = [], []

    def open_page(model):
        server = make_server(model, port=0)
        thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
        thread.start()
        servers.append((server, thread))
        tab = browser.new_page(viewport=dict(width=1000, height=700))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda line: wrong.append(line.text) if "Content Security" in line.text else None)
        tab.goto(server.url)
        tab.wait_for_selector("#facts:not(:empty)")
        return tab

    yield open_page
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()
    assert not wrong


# drops or pastes the file that stands in the page's own input, as a mouse or a keyboard would
_HAND_OVER = """([kind, name, size, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([bytes ? Uint8Array.from(bytes) : new Uint8Array(size)], name));
  const event = kind === "drop"
    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
  document.getElementById("drop").dispatchEvent(event);
}"""


def hand_over(tab, kind, path):
    tab.evaluate(_HAND_OVER, [kind, path.name, 0, list(path.read_bytes())])


def rows(tab):
    return [line.split("\n") for line in tab.locator("#found li").all_inner_texts()]


def test_a_classifier_names_what_is_dropped(opened, tmp_path):
    export_plain_classifier(tmp_path / "m.rebnn", classes=("<i>red</i>", "blue"))
    tab = opened([tmp_path / "m.rebnn"])
    assert tab.title() == "m.rebnn - rebnn demo" and "classifier, 2 classes" in tab.inner_text("#facts")
    assert not tab.is_visible("#result")
    for kind, colour, name in (("drop", "red", "<i>red</i>"), ("paste", "blue", "blue")):
        file = tmp_path / f"{colour}.png"
        Image.new("RGB", (80, 60), colour).save(file)
        hand_over(tab, kind, file)
        # said again when the answer is drawn; until then "looking at ..."
        tab.locator("#message", has_text=re.compile(f"^{colour}.png$")).wait_for()
        assert rows(tab)[0][0] == name and float(rows(tab)[0][1]) > 0.9
        assert "80 x 60 pixels" in tab.inner_text("#time") and " ms" in tab.inner_text("#time")
        assert tab.evaluate("document.getElementById('picture').naturalWidth") == 80
    assert not tab.is_visible("#threshold")


def test_bad_pictures_get_a_sentence_and_the_last_good_one_stays(opened, tmp_path):
    export_plain_classifier(tmp_path / "m.rebnn")
    tab = opened([tmp_path / "m.rebnn"])
    tab.set_input_files("#file", picture(tmp_path / "good.png"))
    tab.wait_for_selector("#result:not([hidden])")
    before = rows(tab)
    (tmp_path / "bad.jpg").write_text("no picture")
    hand_over(tab, "drop", tmp_path / "bad.jpg")
    tab.wait_for_selector("#message.bad")
    assert "bad.jpg: this is no picture that can be read" in tab.inner_text("#message") and rows(tab) == before
    tab.evaluate(_HAND_OVER, ["drop", "huge.png", page.MAX_BYTES + 1, None])
    tab.locator("#message.bad", has_text="huge.png has 20.0 MB; up to 20 MB are taken").wait_for()
    tab.set_input_files("#file", tmp_path / "good.png")
    tab.wait_for_selector("#message:not(.bad)")


def test_a_detector_draws_boxes_above_the_threshold(opened, tmp_path):
    pytest.importorskip("mmdet")
    from rebnn_mm.integrations.build import read_config
    from rebnn_mm.workflows.export import export_config

    root = make_image_models(tmp_path)
    export_config(read_config(root / "detector.py"), root / "detector.pth", root / "detector.rebnn", verify=False)
    tab = opened([root / "detector.rebnn"])
    assert "detector, 2 classes" in tab.inner_text("#facts")
    tab.set_input_files("#file", picture(tmp_path / "new" / "a.png", 120, 200))
    tab.wait_for_selector("#result:not([hidden])")
    everything = tab.evaluate("last.found.map((one) => one.score)")
    assert everything and tab.is_visible("#threshold")
    for least in (0.05, 0.95):
        tab.fill("#slider", str(least))
        kept = [score for score in everything if score >= least]
        assert tab.locator("#boxes rect").count() == len(rows(tab)) == len(kept)
    tab.fill("#slider", "0.05")
    # a box lies over the picture where the model has put it
    x1, y1, x2, y2 = tab.evaluate("last.found[0].box")
    image = tab.locator("#picture").bounding_box()
    box = tab.evaluate(
        "(({x, y, width, height}) => [x, y, width, height])(document.querySelector('rect').getBoundingClientRect())"
    )
    scale = image["width"] / 200
    expected = [image["x"] + x1 * scale, image["y"] + y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale]
    assert box == pytest.approx(expected, abs=2.5)


def test_the_page_says_when_its_program_has_ended(opened, tmp_path):
    export_plain_classifier(tmp_path / "m.rebnn")
    tab = opened([tmp_path / "m.rebnn"])
    tab.route("**/look", lambda route: route.abort())
    tab.set_input_files("#file", picture(tmp_path / "a.png"))
    tab.wait_for_selector("#message.bad")
    assert "is it still running?" in tab.inner_text("#message")
