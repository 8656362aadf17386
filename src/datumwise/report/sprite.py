"""How do hundreds of pictures travel in one page? As thumbnails on one sheet, a PNG if tiny, else a JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Sprite", "make_sprite", "thumbnail"]

SIDE = 48  # px, a multiple of 16 so that no JPEG block straddles two tiles
TINY = 32  # px; pictures up to here keep their own pixels, on a PNG
PIXEL_ART = 16  # px; pictures up to here are enlarged without smoothing
JPEG_QUALITY = 80
MAX_SHEET = 8192  # px a side, what every browser can decode
BYTE_LIMIT = 1_500_000  # bytes of the encoded sheet


@dataclass(frozen=True)
class Sprite:
    """Thumbnails of some rows on one sheet.

    ``tiles`` row -> tile number, counted along the lines of the sheet; ``sizes`` (t, 2) uint8, the width and
    height in px that tile t really fills, from its top left corner.
    """

    mime: str = ""
    data: bytes = b""
    side: int = SIDE  # px of a tile
    columns: int = 1
    lines: int = 1
    pixelated: bool = False
    tiles: dict[int, int] = field(default_factory=dict)
    sizes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.uint8))
    left_out: int = 0  # rows that had to go for the byte limit

    @property
    def base64(self) -> str:
        return base64.b64encode(self.data).decode("ascii")


def make_sprite(picture: Callable[[int], Image | None], rows: Sequence[int], *, limit: int = BYTE_LIMIT) -> Sprite:
    """Thumbnails of ``rows`` on one sheet of at most ``limit`` bytes.

    Parameters
    ----------
    picture : callable
        Row to picture; ``None`` where there is none. A broken file counts as none. Called once a row.
    rows : sequence of int
        The most important first: the last are left out when the sheet grows too large.
    limit : int, default 1,500,000
        Bytes of the encoded sheet.

    Returns
    -------
    Sprite
        Without ``data`` when no row has a picture.

    Examples
    --------
    >>> from PIL import Image
    >>> sheet = make_sprite(lambda row: Image.new("L", (8, 8), 9 * row), [4, 2, 7])
    >>> sheet.mime, sheet.side, sheet.tiles, sheet.pixelated
    ('image/png', 8, {4: 0, 2: 1, 7: 2}, True)
    """
    images: dict[int, Image] = {}
    side = 1  # px, the longest edge among the pictures
    for row in rows:
        image = _read(picture, row)
        if image is not None:
            side = max(side, *image.size)
            images[row] = thumbnail(image, TINY if max(image.size) <= TINY else SIDE)
    if not images:
        return Sprite()
    png = side <= TINY
    side = side if png else SIDE
    kept = list(images)[: (MAX_SHEET // SIDE) ** 2]
    sheet, columns, lines = _lay(kept, images, side)
    data = _encode(sheet, png=png)
    if png and len(data) > limit:
        png, side = False, -(-side // 16) * 16  # a JPEG after all, whose blocks are 16 px
        sheet, columns, lines = _lay(kept, images, side)
        data = _encode(sheet, png=False)
    while len(data) > limit and len(kept) > 1:
        kept = kept[: max(1, int(len(kept) * 0.95 * limit / len(data)))]
        sheet, columns, lines = _lay(kept, images, side)
        data = _encode(sheet, png=png)
    return Sprite(
        mime="image/png" if png else "image/jpeg",
        data=data,
        side=side,
        columns=columns,
        lines=lines,
        pixelated=png and side <= PIXEL_ART,
        tiles={row: tile for tile, row in enumerate(kept)},
        sizes=np.array([images[row].size for row in kept], np.uint8).reshape(-1, 2),
        left_out=len(images) - len(kept),
    )


def thumbnail(image: Image, side: int = SIDE) -> Image:
    """The picture as 8-bit grey or RGB, upright, on white, in ``side`` x ``side`` px; never enlarged.

    Examples
    --------
    >>> from PIL import Image
    >>> small = thumbnail(Image.new("RGBA", (400, 100)))
    >>> small.size, small.mode, small.getpixel((0, 0))
    ((48, 12), 'RGB', (255, 255, 255))
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _stretch_to_8_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    if max(image.size) > side:
        width, height = (max(1, round(length * side / max(image.size))) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return image


def _read(picture: Callable[[int], Image | None], row: int) -> Image | None:
    """The picture of a row, or ``None`` if it has none, is empty or cannot be decoded."""
    from PIL.Image import DecompressionBombError

    try:
        image = picture(int(row))
        if image is None or 0 in image.size:
            return None
        image.load()
    except (OSError, SyntaxError, ValueError, DecompressionBombError):  # what Pillow raises for broken files
        return None
    return image


def _stretch_to_8_bits(image: Image) -> Image:
    """Grey of 16 or 32 bits or floats: darkest to 0, brightest to 255."""
    from PIL import Image

    values = np.asarray(image, dtype=np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    span = float(np.ptp(values)) or 1.0
    return Image.fromarray(np.round((values - values.min()) / span * 255).astype(np.uint8))


def _lay(rows: Sequence[int], images: dict[int, Image], side: int) -> tuple[Image, int, int]:
    """The sheet, as square as it goes, and how many tiles it has across and down."""
    from PIL import Image

    columns = int(np.ceil(np.sqrt(len(rows))))
    lines = -(-len(rows) // columns)
    mode = "L" if all(images[row].mode == "L" for row in rows) else "RGB"
    sheet = Image.new(mode, (columns * side, lines * side), "white")
    for tile, row in enumerate(rows):
        sheet.paste(images[row], (tile % columns * side, tile // columns * side))
    return sheet, columns, lines


def _encode(sheet: Image, *, png: bool) -> bytes:
    file = io.BytesIO()
    if png:
        sheet.save(file, "PNG", optimize=True)
    else:
        sheet.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return file.getvalue()
