"""Image files as the pixels that a vision model takes, by its `preprocessor_config.json`. Needs Pillow."""

from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from penstock.errors import invalid_field
from penstock.search.encoding.encoder import Vectors, unusable

IMAGE_PIXELS_MAX = 25_000_000  # more than cameras of phones give by default; decoded it takes 75 MB
EDGE_PIXELS_MAX = 1_024  # of what the model takes; 224 is usual
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # Pillow's rarer readers are not for files of strangers

Edge = Annotated[int, Field(ge=1, le=EDGE_PIXELS_MAX)]
Colours = tuple[float, float, float]  # red, green, blue
Deviations = tuple[
    Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
]  # by which pixels are divided


class ShortestEdge(BaseModel):
    """The size to which an image is brought, its shape kept."""

    shortest_edge: Edge


class Crop(BaseModel):
    """What is then taken from its middle."""

    height: Edge
    width: Edge


class Preparation(BaseModel):
    """`preprocessor_config.json` as exports of CLIP have it, in its older and its newer spelling."""

    size: ShortestEdge | Edge
    crop_size: Crop | Edge
    image_mean: Colours
    image_std: Deviations
    resample: int = Field(default=Image.Resampling.BICUBIC, ge=0, le=5)
    rescale_factor: float = Field(default=1 / 255, gt=0)
    do_resize: Literal[True] = True
    do_center_crop: Literal[True] = True
    do_normalize: Literal[True] = True

    @property
    def shortest(self) -> int:
        """Pixels of the shorter edge after resizing."""
        return self.size if isinstance(self.size, int) else self.size.shortest_edge

    @property
    def crop(self) -> tuple[int, int]:
        """Width and height in pixels of what the model sees."""
        if isinstance(self.crop_size, int):
            return self.crop_size, self.crop_size
        return self.crop_size.width, self.crop_size.height


def read_preparation(path: Path) -> Preparation:
    """Raises Conflict (ENCODER_UNUSABLE) unless the file is there and describes a crop of a resized image."""
    mend = "copy it again from the folder of the model"
    try:
        found = Preparation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise unusable(f"{path} cannot be read ({error.strerror}); {mend}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise unusable(f"{path}: {where}: {first['msg']}; {mend}") from error
    if max(found.crop) > found.shortest:
        raise unusable(f"{path}: crop_size {found.crop} is more than size {found.shortest}; {mend}")
    return found


def pixels(file: bytes, preparation: Preparation) -> Vectors:
    """Shape (1, 3, height, width), normalised. Raises InvalidInput for what is no image or has too many pixels."""
    image = _decoded(file)
    width, height = preparation.crop
    # Resized and cropped in one step: of a picture of 1 × 10,000 pixels the resized whole would take gigabytes.
    scale = preparation.shortest / min(image.size)
    left = (image.width - width / scale) / 2
    top = (image.height - height / scale) / 2
    box = (left, top, left + width / scale, top + height / scale)
    seen = image.resize((width, height), Image.Resampling(preparation.resample), box=box)
    scaled = np.asarray(seen, dtype=np.float32) * np.float32(preparation.rescale_factor)
    mean, deviation = (np.array(each, dtype=np.float32) for each in (preparation.image_mean, preparation.image_std))
    return np.ascontiguousarray(((scaled - mean) / deviation).transpose(2, 0, 1)[np.newaxis], dtype=np.float32)


def _decoded(file: bytes) -> Image.Image:
    try:
        with Image.open(BytesIO(file), formats=FORMATS) as image:
            if image.width * image.height > IMAGE_PIXELS_MAX:
                raise invalid_field("image", f"has more than {IMAGE_PIXELS_MAX:,} pixels; send a smaller one")
            return image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise invalid_field("image", f"has more than {IMAGE_PIXELS_MAX:,} pixels; send a smaller one") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise invalid_field("image", f"cannot be read as one of {', '.join(FORMATS)}") from error
