"""Views: named, randomly augmented inputs of the towers, made from a picture or a caption in the loader's workers.

torchvision's transforms draw from torch's global generator. ``seeded`` sets it anew for each (seed, pass, episode,
position, view), so that a view does not depend on workers, order or what was drawn before.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, v2
from torchvision.transforms.v2 import functional

from datamodules.sources import Picture
from protoclip.ranges import PositiveInt, Share

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

PictureTransform = Callable[[Picture], Tensor]
Tokenize = Callable[[Sequence[str]], Tensor]
Interpolation = Literal["bicubic", "bilinear"]
ResizeMode = Literal["shortest", "longest", "squash"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run the body with torch's CPU generator at a seed, and put the generator back afterwards."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


class Augmentation:
    """SimCLR's family of augmentations, in the order of ProtoCLIP's code; what has probability 0 is left out.

    Args:
        crop_scale: share of the area that a random crop keeps, bicubic, aspect ratio 3/4 to 4/3.
        flip: probability of a horizontal flip.
        jitter: strengths of brightness, contrast, saturation and hue.
        jitter_probability: probability of the colour jitter.
        grayscale: probability of losing colour.
        blur: probability of a Gaussian blur.
        blur_kernel: its side in pixels, odd.
        blur_sigma: range of its standard deviation.

    Raises:
        ValueError: a blur kernel of an even side.
    """

    def __init__(
        self,
        *,
        crop_scale: Sequence[Share] = (0.5, 1.0),
        flip: Share = 0.0,
        jitter: Sequence[float] = (0.8, 0.8, 0.8, 0.2),
        jitter_probability: Share = 0.0,
        grayscale: Share = 0.0,
        blur: Share = 0.0,
        blur_kernel: PositiveInt = 21,
        blur_sigma: Sequence[float] = (0.1, 2.0),
    ) -> None:
        if blur and blur_kernel % 2 == 0:
            raise ValueError(f"a blur kernel has a middle pixel: set blur_kernel={blur_kernel + 1} for {blur_kernel}")
        self.crop_scale = tuple(crop_scale)
        self.blur_kernel = blur_kernel if blur else 1
        self.steps: list[Any] = []
        if flip:
            self.steps.append(v2.RandomHorizontalFlip(flip))
        if jitter_probability:
            self.steps.append(v2.RandomApply([v2.ColorJitter(*jitter)], jitter_probability))
        if grayscale:
            self.steps.append(v2.RandomGrayscale(grayscale))
        if blur:
            self.steps.append(v2.RandomApply([v2.GaussianBlur(blur_kernel, tuple(blur_sigma))], blur))

    def __call__(
        self, image_size: int, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ) -> PictureTransform:
        """The transform for one size of the towers' input.

        Args:
            image_size: side of the result.
            mean: subtracted from each channel in [0, 1].
            std: divides each channel.

        Returns:
            A picklable function from a picture to a float32 tensor [3, image_size, image_size].

        Raises:
            ValueError: pictures so small that the blur would reach over more than their mirrored edges.
        """
        if self.blur_kernel // 2 >= image_size:
            raise ValueError(
                f"a blur kernel of {self.blur_kernel} pixels is too large for pictures of {image_size}: "
                f"set the view's blur_kernel to {2 * image_size - 1} or less, or towers.image_size to "
                f"{self.blur_kernel // 2 + 1} or more"
            )
        crop = Crop(image_size, self.crop_scale)
        transform: PictureTransform = v2.Compose([crop, *self.steps, Normalisation(mean, std)])
        return transform


def evaluation_transform(
    image_size: int,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    interpolation: Interpolation = "bicubic",
    resize_mode: ResizeMode = "shortest",
) -> PictureTransform:
    """How CLIP is tested, to the pixel: open_clip's ``image_transform`` for evaluation.

    Pillow resizes: torchvision does it in half the time, but one value of a hundred is a grey level beside.

    Args:
        image_size: side of the result.
        mean: subtracted from each channel in [0, 1].
        std: divides each channel.
        interpolation: of the resizing.
        resize_mode: the ``shortest`` side gets the size and the centre is cut out, the ``longest`` does and the rest is
            black, or ``squash``: both do, whatever the picture's proportions.
    """
    mode = v2.InterpolationMode[interpolation.upper()]
    square = [image_size, image_size]
    resizes = {
        "shortest": partial(functional.resize, size=[image_size], interpolation=mode),
        "longest": LongestSide(image_size, mode),
        "squash": partial(functional.resize, size=square, interpolation=mode),
    }
    crop = partial(functional.center_crop, output_size=square)
    transform: PictureTransform = Compose([_to_pillow, resizes[resize_mode], crop, Normalisation(mean, std)])
    return transform


def _to_pillow(picture: Picture) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).numpy()) if isinstance(picture, Tensor) else picture


class LongestSide:
    """Resizes a PIL image so that its longer side has a length, as open_clip's ``ResizeKeepRatio`` rounds.

    Args:
        size: that length.
        interpolation: of the resizing.
    """

    def __init__(self, size: int, interpolation: v2.InterpolationMode) -> None:
        self.size = size
        self.interpolation = interpolation

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The picture, both sides divided by the same number."""
        ratio = max(picture.size) / self.size
        height, width = round(picture.height / ratio), round(picture.width / ratio)
        resized: Image.Image = functional.resize(picture, [height, width], self.interpolation)
        return resized


def to_pixels(view: Tensor, *, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """The picture that a view shows: uint8 [3, height, width] of normalised channels."""
    means, stds = (torch.tensor(constants).view(3, 1, 1) for constants in (mean, std))
    return ((view * stds + means).clamp(0, 1) * 255).round().to(torch.uint8)


class Crop:
    """torchvision's random resized crop, bit for bit, and quicker on tensors: torch resizes dense channels last best.

    Args:
        image_size: side of the result.
        scale: share of the area that is kept.
    """

    def __init__(self, image_size: int, scale: Sequence[float]) -> None:
        self.original = v2.RandomResizedCrop(
            image_size, scale, interpolation=v2.InterpolationMode.BICUBIC, antialias=True
        )

    def __call__(self, picture: Picture) -> Picture:
        """A view of the picture's kind; a tensor's planes lie one after the other, as later steps read them best."""
        original = self.original
        if not isinstance(picture, Tensor):
            view: Picture = original(picture)
            return view
        window = functional.crop_image(picture, **original.make_params([picture]))
        dense = window.unsqueeze(0).contiguous(memory_format=torch.channels_last)
        resized: Tensor = functional.resize_image(dense, original.size, original.interpolation, antialias=True)
        return resized[0].contiguous()


class Normalisation:
    """What v2's ToImage, ToDtype, Normalize and ToPureTensor make, bit for bit and without their price.

    On a small picture the four transforms' own dispatch takes longer than all they compute.

    Args:
        mean: subtracted from each channel in [0, 1].
        std: divides each channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(constants).view(3, 1, 1) for constants in (mean, std))

    def __call__(self, picture: Picture) -> Tensor:
        """A float32 tensor [3, height, width] of an RGB picture."""
        pixels = picture if isinstance(picture, Tensor) else functional.pil_to_tensor(picture)
        planes = pixels.contiguous()  # each constant goes along a plane in one stride
        scaled: Tensor = functional.to_dtype_image(planes, torch.float32, scale=True)
        return scaled.sub_(self.mean).div_(self.std)
