"""What the demo's page gets from real models: the same as the tools, from files with and without a config."""

import numpy as np
import pytest
import torch
from image_models import make_image_models, picture
from PIL import Image
from plain_classifier import export_plain_classifier

from rebnn_mm.deploy import load_model
from rebnn_mm.errors import UserError
from rebnn_mm.workflows.page.looker import PlainLooker, best_labels
from rebnn_mm.workflows.page.serve import facts_of, open_looker


def test_a_file_without_a_config(tmp_path):
    export_plain_classifier(tmp_path / "m.rebnn")
    looker = open_looker([tmp_path / "m.rebnn"])
    turned = Image.new("RGB", (60, 20), (10, 20, 240))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned.save(tmp_path / "blue.jpg", exif=exif)
    look = looker.look(tmp_path / "blue.jpg")
    assert [one.label for one in look.found] == ["blue", "red"] and look.picture.shape == (60, 20, 3)
    assert look.found[0].score > 0.9 and look.found[0].box is None and look.milliseconds > 0
    assert sum(one.score for one in look.found) == pytest.approx(1)
    facts = facts_of(tmp_path / "m.rebnn", looker)
    assert facts.name == "m.rebnn" and facts.text.startswith("classifier, 2 classes, 0.00 MB")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "blue.jpg").read_bytes()[:300])
    with pytest.raises(UserError, match="cannot be decoded"):
        looker.look(tmp_path / "cut.jpg")


def test_scores_are_those_of_the_loaded_model(tmp_path):
    export_plain_classifier(tmp_path / "m.rebnn", classes=None, size=(32, 48))
    image = picture(tmp_path / "a.png")
    expected = load_model(tmp_path / "m.rebnn")(torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1)[None])
    look = open_looker([tmp_path / "m.rebnn"]).look(image)
    assert {one.label: one.score for one in look.found} == pytest.approx(
        dict(zip("01", expected[0].tolist(), strict=True))
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_read_as_the_tools_read_them(tmp_path, suffix, channels):
    cv2 = pytest.importorskip("cv2")
    export_plain_classifier(tmp_path / "m.rebnn")
    pixels = np.random.default_rng(0).integers(0, 65536, (24, 32, channels)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), pixels)
    expected = cv2.imread(str(tmp_path / f"a{suffix}"), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    look = open_looker([tmp_path / "m.rebnn"]).look(tmp_path / f"a{suffix}")
    assert np.abs(look.picture - expected).max() <= (channels == 3)  # of 16-bit colours OpenCV rounds, Pillow cuts


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_a_known_white_are_refused(tmp_path, kind):
    export_plain_classifier(tmp_path / "m.rebnn")
    Image.fromarray(np.ones((24, 32), kind)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="numbers of 32 bits, and nothing says which one is white: convert it"):
        open_looker([tmp_path / "m.rebnn"]).look(tmp_path / "a.tif")


def test_a_network_that_is_no_classifier_is_refused():
    with pytest.raises(UserError, match="no classifier of RGB images"):
        PlainLooker(torch.nn.Identity())


def test_five_labels_and_numbers_for_names():
    found = best_labels(torch.tensor([0.1, 0.4, 0.05, 0.2, 0.15, 0.06, 0.04]), ("a", "b"))
    assert [one.label for one in found] == ["b", "3", "4", "a", "5"]


def test_a_large_picture_goes_back_smaller():
    look = open_plain(np.zeros((20, 4000, 3), np.uint8)).plain()
    assert (look["width"], look["height"]) == (4000, 20) and len(look["picture"]) < 20_000


def open_plain(image):
    from rebnn_mm.workflows.page.looker import Look

    return Look(image, (), 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pytest.importorskip("mmdet")
    pytest.importorskip("mmpretrain")
    from rebnn_mm.integrations.build import read_config
    from rebnn_mm.workflows.export import export_config

    root = make_image_models(tmp_path_factory.mktemp("page"))
    for kind in ("detector", "classifier"):
        cfg = read_config(root / f"{kind}.py")
        export_config(cfg, root / f"{kind}.pth", root / f"{kind}.rebnn", verify=False)
    return root


@pytest.mark.slow  # packs a detector and a classifier
@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_files_with_a_config_show_what_the_tools_do(data, kind):
    from rebnn_mm.workflows.inference import Inferencer, packed_config

    file, image = data / f"{kind}.rebnn", data / "folders" / "cat" / "a.png"
    looker = open_looker([file])
    look = looker.look(image)
    sample = Inferencer(packed_config(file), file).predict(image)
    assert looker.kind == kind and looker.names == ("apple", "pear") and look.picture.shape == (32, 32, 3)
    assert {one.label for one in look.found} <= {"apple", "pear"} and look.found
    if kind == "classifier":
        expected = dict(zip(("apple", "pear"), sample.pred_score.tolist(), strict=True))
        assert {one.label: one.score for one in look.found} == pytest.approx(expected)
    else:
        boxes = [tuple(box) for box in sample.pred_instances.bboxes.tolist()]
        assert {one.box for one in look.found} <= set(boxes)
        assert [one.score for one in look.found] == sorted((one.score for one in look.found), reverse=True)


@pytest.mark.slow
def test_a_config_and_a_checkpoint(data):
    look = open_looker([data / "classifier.py", data / "classifier.pth"]).look(data / "folders" / "cat" / "a.png")
    assert len(look.found) == 2
