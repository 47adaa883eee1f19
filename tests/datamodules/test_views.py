import contextlib
import inspect
import pickle
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from datamodules.sources import Picture
from datamodules.views import (
    MEAN,
    STD,
    Augmentation,
    Crop,
    Normalisation,
    PictureTransform,
    evaluation_transform,
    seeded,
    to_pixels,
)
from protoclip.cli.build import build_datamodule
from tests.conftest import Compose

LIGHT: dict[str, Any] = {"flip": 0.5, "jitter_probability": 0.2, "grayscale": 0.2, "blur": 0.2}
STRONG: dict[str, Any] = {"jitter_probability": 0.8, "blur": 0.5}


def alone(size: int, **options: Any) -> PictureTransform:
    """No crop and no normalisation, so that a test sees one augmentation alone."""
    return Augmentation(crop_scale=(1.0, 1.0), **options)(size, mean=(0, 0, 0), std=(1, 1, 1))


ONE_BY_ONE: dict[str, PictureTransform] = {
    "crop": Augmentation()(16),
    "flip": alone(16, flip=0.5),
    "jitter": alone(16, jitter_probability=0.5),
    "grayscale": alone(16, grayscale=0.5),
    "blur": alone(16, blur=0.5, blur_kernel=5),
    "all": Augmentation(**LIGHT)(16),
}


def picture(side: int = 24, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def draw(transform: PictureTransform, seed: int, of: Picture | None = None) -> Tensor:
    with seeded(seed):
        return transform(picture() if of is None else of)


def test_seeded_leaves_the_global_generator_untouched() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded(1):
        inside = torch.rand(2)
    with contextlib.suppress(KeyError), seeded(2):
        raise KeyError(torch.rand(7))
    assert torch.equal(torch.rand(4), expected)
    with seeded(1):
        assert torch.equal(torch.rand(2), inside)
    with seeded(2):
        assert not torch.equal(torch.rand(2), inside)


def test_seeded_takes_every_derived_seed() -> None:
    with seeded(2**63 - 1):
        high = torch.rand(1)
    with seeded(2**31 - 1):
        assert not torch.equal(torch.rand(1), high)


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_every_augmentation_draws_from_the_seed_alone(name: str) -> None:
    transform = ONE_BY_ONE[name]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    views = [draw(transform, seed) for seed in range(20)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    torch.rand(5)
    again = [draw(transform, seed) for seed in reversed(range(20))]
    assert all(torch.equal(*pair) for pair in zip(views, again[::-1], strict=True))
    distinct = len({view.numpy().tobytes() for view in views})
    assert distinct == 2 if name in {"flip", "grayscale"} else distinct > 5


@pytest.mark.parametrize(
    ("option", "probability"),
    [("flip", 0.5), ("jitter_probability", 0.2), ("jitter_probability", 0.8), ("grayscale", 0.2), ("blur", 0.5)],
)
def test_augmentations_come_at_their_probability(option: str, probability: float) -> None:
    options: dict[str, Any] = {option: probability, "blur_kernel": 5}
    transform = alone(24, **options)
    plain = draw(alone(24), 0)
    changed = [not torch.equal(draw(transform, seed), plain) for seed in range(400)]
    assert sum(changed) / 400 == pytest.approx(probability, abs=0.08)


def test_what_is_off_changes_nothing() -> None:
    torch.testing.assert_close(draw(alone(24), 0), picture() / 255)


def test_a_flip_mirrors_and_grayscale_has_no_colour() -> None:
    torch.testing.assert_close(draw(alone(24, flip=1.0), 0), picture().flip(2) / 255)
    gray = draw(alone(24, grayscale=1.0), 0)
    assert torch.equal(gray[0], gray[1])
    assert torch.equal(gray[0], gray[2])


@pytest.mark.parametrize("scale", [(0.5, 1.0), (0.9, 1.0), (0.08, 0.2)])
def test_crops_keep_their_share_of_the_area(scale: tuple[float, float]) -> None:
    side = 200
    ramp = torch.arange(side, dtype=torch.float32) / (side - 1)
    coordinates = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), torch.zeros(side, side)])
    transform = Augmentation(crop_scale=scale)(100, mean=(0, 0, 0), std=(1, 1, 1))
    areas, ratios = [], []
    for seed in range(100):
        view = draw(transform, seed, of=coordinates)
        width, height = ((view[axis].max() - view[axis].min()).item() for axis in (0, 1))
        areas.append(width * height)
        ratios.append(width / height)
    assert scale[0] - 0.03 < min(areas) < scale[0] + 0.1 * (scale[1] - scale[0])
    assert scale[1] - 0.15 * (scale[1] - scale[0]) < max(areas) < scale[1] + 0.01
    assert min(ratios) > 0.72
    assert max(ratios) < 1.39


def test_views_are_normalised() -> None:
    white = torch.full((3, 20, 20), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(MEAN)) / torch.tensor(STD)
    for transform in (Augmentation()(8), evaluation_transform(8)):
        view = draw(transform, 0, of=white)
        assert view.shape == (3, 8, 8)
        assert view.dtype == torch.float32
        assert type(view) is Tensor
        torch.testing.assert_close(view, expected[:, None, None].expand(3, 8, 8))
    view = evaluation_transform(8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))(white)
    torch.testing.assert_close(view, torch.full((3, 8, 8), 2.0))


def test_pixels_are_those_before_the_normalisation() -> None:
    for mean, std in ((MEAN, STD), ((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))):
        view = draw(Augmentation(crop_scale=(1.0, 1.0))(24, mean=mean, std=std), 0)
        assert torch.equal(to_pixels(view, mean=mean, std=std), picture())


def test_a_blur_needs_pictures_that_are_larger_than_half_its_kernel() -> None:
    blurred = Augmentation(blur=1.0, blur_kernel=21)
    assert draw(blurred(11), 0).shape == (3, 11, 11)
    for size in (8, 10):
        with pytest.raises(ValueError, match=rf"blur_kernel to {2 * size - 1} or less, or towers\.image_size to 11 or"):
            blurred(size)
        assert draw(Augmentation(blur=1.0, blur_kernel=2 * size - 1)(size), 0).shape == (3, size, size)
    assert draw(Augmentation(blur_kernel=21)(8), 0).shape == (3, 8, 8)  # which is off
    with pytest.raises(ValueError, match="set blur_kernel=21 for 20"):
        Augmentation(blur=0.2, blur_kernel=20)


def test_evaluation_takes_the_centre_of_the_resized_picture() -> None:
    wide = torch.zeros(3, 10, 40, dtype=torch.uint8)
    wide[:, :, 15:25] = 255
    assert torch.equal(evaluation_transform(10, mean=(0, 0, 0), std=(1, 1, 1))(wide), torch.ones(3, 10, 10))
    tall = picture(20).repeat(1, 2, 1)
    assert evaluation_transform(10)(tall).shape == (3, 10, 10)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(evaluation_transform(10)(tall), evaluation_transform(10)(tall))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("transform", [Augmentation(**LIGHT, blur_kernel=5)(16), evaluation_transform(16)])
def test_photos_and_tensors_give_the_same_view(transform: PictureTransform) -> None:
    smooth = torch.arange(3 * 32 * 32).reshape(3, 32, 32) * 255 // (3 * 32 * 32)
    pixels = smooth.to(torch.uint8)
    photo = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    for seed in range(5):
        from_photo, from_tensor = draw(transform, seed, of=photo), draw(transform, seed, of=pixels)
        assert from_photo.shape == from_tensor.shape
        torch.testing.assert_close(from_photo, from_tensor, atol=0.1, rtol=0)


def test_photos_are_resized_as_pillow_does_it_within_rounding() -> None:
    """Training crops and CLIP's own evaluation: one transform for decoded photos, another for PIL images."""
    generator = np.random.default_rng(0)
    coarse: NDArray[np.uint8] = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    shapes = np.asarray(Image.fromarray(coarse).resize((250, 187), Image.Resampling.BICUBIC), np.float32)
    photo = Image.fromarray((shapes + 8 * generator.standard_normal(shapes.shape)).clip(0, 255).astype(np.uint8))
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    identity: dict[str, Any] = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}
    for transform in (Augmentation()(112, **identity), evaluation_transform(112, **identity)):
        for seed in range(4):
            difference = (draw(transform, seed, of=photo) - draw(transform, seed, of=pixels)).abs()
            assert difference.mean() < 0.5
            assert difference.max() < 2.01


@pytest.mark.parametrize("side", [20, 48])
def test_crops_are_those_of_torchvision(side: int) -> None:
    ours = v2.Compose([Crop(32, (0.3, 1.0))])
    theirs = v2.RandomResizedCrop(32, (0.3, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True)
    planes = picture(side)
    for pixels in (planes, planes.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        for seed in range(10):
            view = draw(ours, seed, of=pixels)
            assert torch.equal(view, draw(theirs, seed, of=pixels))
            assert view.is_contiguous()


def test_transforms_survive_the_way_to_a_worker() -> None:
    for transform in (Augmentation(**LIGHT)(16), evaluation_transform(16)):
        assert torch.equal(draw(pickle.loads(pickle.dumps(transform)), 4), draw(transform, 4))


def crop_of(compose_tiny: Compose, views: str) -> list[Any]:
    dataset = build_datamodule(compose_tiny("clip", f"views={views}", "towers.image_size=64")).dataset
    assert list(dataset.image_views) == ["image"]
    assert list(dataset.text_views) == ["text"]
    transform: Any = dataset.image_views["image"]
    return list(transform.transforms)


@pytest.mark.parametrize(
    ("view", "options"),
    [
        ("global", {"crop_scale": [0.9, 1.0]}),
        ("local", {"crop_scale": [0.5, 1.0]}),
        ("light", {"crop_scale": [0.5, 1.0], "jitter": [0.8, 0.8, 0.8, 0.2], **LIGHT}),
        ("simclr", {"crop_scale": [0.08, 1.0], "jitter": [0.8, 0.8, 0.8, 0.2], **LIGHT, **STRONG}),
        ("slip", {"crop_scale": [0.08, 1.0], "jitter": [0.4, 0.4, 0.4, 0.1], **LIGHT, **STRONG}),
        ("moco", {"crop_scale": [0.2, 1.0], "jitter": [0.4, 0.4, 0.4, 0.1], **LIGHT, **STRONG}),
    ],
)
def test_one_line_adds_a_view_of_a_papers_parameters(compose_tiny: Compose, view: str, options: dict[str, Any]) -> None:
    config = compose_tiny("clip", f"+view@views.image_views.second={view}", "views=crop")
    if "blur" in options:
        options = {**options, "blur_kernel": 21, "blur_sigma": [0.1, 2.0]}
    target = {"_target_": "datamodules.views.Augmentation"}
    expected = {"second": target | options, "image": target | {"crop_scale": [0.5, 1.0]}}
    assert OmegaConf.to_container(config.views.image_views) == expected
    assert {*build_datamodule(config).dataset.image_views} == {"second", "image"}


@pytest.mark.parametrize(
    ("views", "scale", "jitter_probability", "blur_probability"),
    [("light", (0.5, 1.0), 0.2, 0.2), ("simclr", (0.08, 1.0), 0.8, 0.5)],
)
def test_light_and_simclr_are_the_augmentations_of_protoclip(
    compose_tiny: Compose, views: str, scale: tuple[float, float], jitter_probability: float, blur_probability: float
) -> None:
    crop, flip, jitter, gray, blur, *rest = crop_of(compose_tiny, views)
    assert isinstance(crop, Crop)
    crop = crop.original
    assert (crop.size, crop.scale, crop.ratio) == ((64, 64), scale, (3 / 4, 4 / 3))
    assert (crop.interpolation, crop.antialias) == (InterpolationMode.BICUBIC, True)
    assert isinstance(flip, v2.RandomHorizontalFlip)
    assert flip.p == 0.5
    assert isinstance(jitter, v2.RandomApply)
    assert jitter.p == jitter_probability
    colours = jitter.transforms[0]
    assert isinstance(colours, v2.ColorJitter)
    ranges = [*colours.brightness, *colours.contrast, *colours.saturation, *colours.hue]
    assert ranges == pytest.approx([0.2, 1.8] * 3 + [-0.2, 0.2])
    assert isinstance(gray, v2.RandomGrayscale)
    assert gray.p == 0.2
    assert isinstance(blur, v2.RandomApply)
    assert blur.p == blur_probability
    gaussian = blur.transforms[0]
    assert isinstance(gaussian, v2.GaussianBlur)
    assert tuple(gaussian.kernel_size) == (21, 21)
    assert tuple(gaussian.sigma) == (0.1, 2.0)
    assert [type(step) for step in rest] == [Normalisation]
    assert rest[0].mean.flatten().tolist() == pytest.approx(MEAN)
    assert rest[0].std.flatten().tolist() == pytest.approx(STD)


@pytest.mark.parametrize(("views", "scale"), [("crop", (0.5, 1.0)), ("none", (0.9, 1.0))])
def test_the_other_views_crop_only(compose_tiny: Compose, views: str, scale: tuple[float, float]) -> None:
    crop, *rest = crop_of(compose_tiny, views)
    assert isinstance(crop, Crop)
    crop = crop.original
    assert (crop.size, crop.scale, crop.ratio) == ((64, 64), scale, (3 / 4, 4 / 3))
    assert (crop.interpolation, crop.antialias) == (InterpolationMode.BICUBIC, True)
    assert [type(step) for step in rest] == [Normalisation]


@pytest.mark.parametrize("as_tensor", [False, True])
def test_normalisation_is_that_of_torchvision(as_tensor: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = torch.from_numpy(pixels).permute(2, 0, 1).contiguous() if as_tensor else Image.fromarray(pixels)
    steps = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(MEAN), list(STD))]
    kept = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    assert torch.equal(Normalisation(MEAN, STD)(picture), torch.Tensor(v2.Compose(steps)(picture)))
    assert not isinstance(picture, torch.Tensor) or torch.equal(picture, kept)


def test_clip_constants() -> None:
    assert pytest.approx((0.48145466, 0.4578275, 0.40821073)) == MEAN
    assert pytest.approx((0.26862954, 0.26130258, 0.27577711)) == STD
    assert inspect.signature(Augmentation).parameters["flip"].default == 0


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_sees_the_pixels_of_open_clip(resize_mode: Any, interpolation: Any) -> None:
    options: dict[str, Any] = {"interpolation": interpolation, "resize_mode": resize_mode}
    theirs = open_clip.image_transform(40, is_train=False, **options)
    ours = evaluation_transform(40, **options)
    generator = np.random.default_rng(0)
    for shape in ((83, 61, 3), (30, 97, 3), (40, 40, 3), (21, 20, 3)):
        pixels: NDArray[np.uint8] = generator.integers(0, 256, shape, dtype=np.uint8)
        photo, expected = Image.fromarray(pixels), theirs(Image.fromarray(pixels))
        for picture in (photo, torch.from_numpy(pixels).permute(2, 0, 1)):
            torch.testing.assert_close(ours(picture), expected, rtol=0, atol=1e-6)
            assert torch.equal(to_pixels(ours(picture)), to_pixels(expected))
