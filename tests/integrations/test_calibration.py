"""Images and regions by which 8 bits are scaled."""

import pytest
import torch

from rebnn_mm.deploy.file.card import Preprocessing
from rebnn_mm.errors import MissingFileError, UserError

pytest.importorskip("mmcv")

from rebnn_mm.integrations.calibration import calibration_images, in_batches  # noqa: E402


def test_images_of_a_folder(tmp_path):
    image = pytest.importorskip("PIL.Image")
    card = Preprocessing((10.0, 20.0, 30.0), (1.0, 2.0, 4.0), "bgr", (8, 8))
    with pytest.raises(MissingFileError, match="no such folder; name one with images"):
        calibration_images(tmp_path / "none", card, (8, 8))
    with pytest.raises(UserError, match="no image is in it"):
        calibration_images(tmp_path, card, (8, 8))
    with pytest.raises(UserError, match="needs the size of the images"):
        calibration_images(tmp_path, card, None)
    with pytest.raises(UserError, match="networks that take images"):
        calibration_images(tmp_path, None, (8, 8))
    (tmp_path / "inner").mkdir()
    image.new("RGB", (16, 8), (30, 22, 12)).save(tmp_path / "inner" / "a.png")
    (plain,) = calibration_images(tmp_path, card, (8, 8))
    assert plain.shape == (1, 3, 8, 8) and plain[0, :, 0, 0].tolist() == [2.0, 1.0, 0.0]
    (fitted,) = calibration_images(tmp_path, card, (8, 8), fit=True)
    assert fitted[0, 0].count_nonzero() == 32 and (fitted[0, :, 4:] == 0).all()
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="b.png cannot be decoded"):
        calibration_images(tmp_path, card, (8, 8))


def test_regions_fill_every_batch():
    rows = torch.arange(6.0).view(3, 2)
    for batch, calls in ((2, 2), (3, 1), (8, 1)):
        filled = in_batches(rows, batch)
        assert [len(part) for part in filled] == [batch] * calls
        assert torch.equal(torch.cat(filled), rows.repeat(3, 1)[: calls * batch])
    with pytest.raises(UserError, match="proposes no region in these images"):
        in_batches(rows[:0], 2)
