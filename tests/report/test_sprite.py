"""Thumbnails on one sheet: every picture in its place, inside its tile, inside the byte limit."""

import io

import numpy as np
import pytest
from PIL import Image

from datumwise.report.sprite import SIDE, make_sprite, thumbnail


def tile_of(sprite, row):
    sheet = Image.open(io.BytesIO(sprite.data))
    tile = sprite.tiles[row]
    x, y = tile % sprite.columns * sprite.side, tile // sprite.columns * sprite.side
    width, height = sprite.sizes[tile]
    return np.asarray(sheet.crop((x, y, x + int(width), y + int(height))))


def test_tiny_pictures_come_back_pixel_for_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    rows = [29, 3, 17, 0, 8]
    sprite = make_sprite(lambda row: Image.fromarray(pixels[row]), rows)
    assert sprite.mime == "image/png"
    assert sprite.pixelated
    for row in rows:
        np.testing.assert_array_equal(tile_of(sprite, row), pixels[row])


def test_photographs_become_jpeg_tiles_of_their_own_colour():
    colours = np.random.default_rng(1).integers(0, 256, (50, 3))
    sprite = make_sprite(lambda row: Image.new("RGB", (200, 120), tuple(map(int, colours[row]))), range(50))
    assert sprite.mime == "image/jpeg"
    assert sprite.sizes[0].tolist() == [48, 29]
    for row in range(50):
        error = abs(tile_of(sprite, row).reshape(-1, 3).mean(0) - colours[row]).max()
        assert error < 8, f"tile of row {row} has another colour"


@pytest.mark.parametrize("size", [(32, 32), (300, 300)])
def test_sheet_stays_below_the_limit_and_leaves_out_the_last(size):
    noise = np.random.default_rng(2).integers(0, 256, (200, *size, 3), dtype=np.uint8)
    whole = make_sprite(lambda row: Image.fromarray(noise[row]), range(200), limit=10**9)
    limit = 60_000
    sprite = make_sprite(lambda row: Image.fromarray(noise[row]), range(200), limit=limit)
    assert len(whole.data) > limit
    assert len(sprite.data) <= limit
    assert list(sprite.tiles) == list(range(len(sprite.tiles)))
    assert sprite.left_out == 200 - len(sprite.tiles) > 0


def test_rows_without_a_readable_picture_have_no_tile():
    def picture(row):
        if row == 1:
            return None
        if row == 2:
            return Image.open(io.BytesIO(b"not a picture"))
        if row == 3:
            file = io.BytesIO()
            Image.new("RGB", (64, 64)).save(file, "PNG")
            return Image.open(io.BytesIO(file.getvalue()[:70]))
        return Image.new("L", (20, 20))

    assert set(make_sprite(picture, range(6)).tiles) == {0, 4, 5}
    empty = make_sprite(lambda row: None, range(3))
    assert empty.data == b""
    assert empty.tiles == {}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        *[(mode, "L") for mode in ("1", "L", "I;16", "I", "F")],
        *[(mode, "RGB") for mode in ("LA", "P", "RGB", "RGBA", "CMYK", "HSV", "YCbCr")],
    ],
)
def test_every_mode_becomes_eight_bit_grey_or_rgb(mode, expected):
    assert thumbnail(Image.new(mode, (100, 50))).mode == expected
    assert thumbnail(Image.new(mode, (100, 50))).size == (SIDE, SIDE // 2)


def test_sixteen_bit_grey_is_stretched_and_not_clipped():
    values = np.linspace(0, 65_535, 100).reshape(10, 10).astype(np.uint16)
    shown = np.asarray(thumbnail(Image.fromarray(values)))
    assert np.array_equal(shown, np.round(values / 65_535 * 255).astype(np.uint8))


def test_a_picture_that_lies_on_its_side_is_turned_upright():
    image = Image.new("RGB", (40, 20))
    image.getexif()[0x0112] = 6  # orientation: turn by 90 degrees
    file = io.BytesIO()
    image.save(file, "JPEG", exif=image.getexif())
    assert thumbnail(Image.open(file)).size == (20, 40)
