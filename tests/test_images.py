"""Conversions at the door, outputs that appear complete or not at all, seeds, code digests."""

import numpy as np
import pytest
import torch
from PIL import Image

from frcore import seeds
from frcore.io import files, images


def test_uint8_and_float_are_inverse():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    tensor = images.to_float(pixels)
    assert tensor.shape == (1, 3, 16, 16) and tensor.max() == 1 and tensor.min() == 0
    assert np.array_equal(images.to_uint8(tensor), pixels)


def test_to_uint8_clips_rounds_and_refuses():
    values = torch.tensor([-1.0, 0.499 / 255, 0.501 / 255, 2.0])
    pixels = images.to_uint8(values.view(1, 1, 2, 2).expand(1, 3, 2, 2))
    assert pixels[0, ..., 0].ravel().tolist() == [0, 0, 1, 255]
    with pytest.raises(ValueError, match="not finite"):
        images.to_uint8(torch.full((1, 3, 2, 2), float("nan")))
    with pytest.raises(ValueError, match="expected N x 3"):
        images.to_uint8(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    "bad", [torch.full((1, 3, 2, 2), 1.1), torch.zeros(3, 2, 2), torch.zeros(1, 3, 2, 2).int()]
)
def test_check_images_refuses_other_ranges_and_shapes(bad):
    with pytest.raises(ValueError, match="got|expected"):
        images.check_images(bad)


def test_check_images_refuses_nan():
    with pytest.raises(ValueError, match="values must be"):
        images.check_images(torch.full((1, 3, 2, 2), float("nan")))


def test_written_image_reads_the_same_and_has_the_same_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        images.write_image(tmp_path / name, pixels)
    assert np.array_equal(images.read_image(tmp_path / "a.png"), pixels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(ValueError, match="uint8"):
        images.write_image(tmp_path / "c.png", pixels.astype(float))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((40, 20, 3), np.uint8)
    upright[:20, :10] = (200, 0, 0)  # one corner tells all eight apart, together with the shape
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's inverse transposes
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(np.asarray(images.read_photo(tmp_path / "x.png")), upright)


def test_sixteen_bit_grey_is_scaled_and_alpha_lies_on_white(tmp_path):
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "deep.png")
    assert abs(int(images.read_image(tmp_path / "deep.png")[0, 0, 0]) - 128) <= 1
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert images.read_image(tmp_path / "clear.png")[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("folder", [False, True])
def test_atomic_output_appears_complete_or_not_at_all(tmp_path, folder):
    target = tmp_path / "deep" / "out"

    def write(text, fail=False):
        with files.atomic_output(target, folder=folder) as part:
            (part / "x" if folder else part).write_text(text)
            if fail:
                raise RuntimeError("half way")

    write("first")
    with pytest.raises(RuntimeError):
        write("second", fail=True)
    assert (target / "x" if folder else target).read_text() == "first"
    write("third")
    assert (target / "x" if folder else target).read_text() == "third"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_seeds_are_stable_and_depend_on_every_part():
    # recorded: another value would change every test set that was ever published
    assert seeds.seed_for(0, "orl", "psfr_64", "s1_1") == 7528948191638150597
    known = {
        seeds.seed_for(*parts) for parts in [(0, "a"), ("0", "a"), (0, "a", ""), ("a", 0), (1, "a")]
    }
    assert len(known) == 5
    assert all(0 <= value < 2**63 for value in known)


@pytest.mark.parametrize("part", [None, 0.5, True])
def test_a_seed_is_made_of_text_and_integers(part):
    with pytest.raises(TypeError):
        seeds.seed_for(0, part)
