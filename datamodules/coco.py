"""COCO's captions: pictures with about five each, from one JSON file."""

import json
from pathlib import Path

from datamodules.captioned_files import CaptionedFiles
from datamodules.locations import existing_file


class CocoPairs(CaptionedFiles):
    """The pictures of a captions file in its order, each with all of its captions in theirs.

    Pictures without any caption are left out, with a warning.

    Args:
        annotations: such as ``captions_train2017.json``, with ``images`` and ``annotations``.
        images: folder of the pictures.

    Attributes:
        fingerprint: SHA-256 of the file's bytes.

    Raises:
        ValueError: the file is missing, is no captions file, or has no caption.
    """

    def __init__(self, annotations: str | Path, images: str | Path) -> None:
        file = existing_file(annotations)
        content = file.read_bytes()
        captions, names = _captions_of(file, content)
        super().__init__(file, images, content, [(names[image], texts) for image, texts in captions.items()])


def _captions_of(file: Path, content: bytes) -> tuple[dict[int, list[str]], dict[int, str]]:
    """Captions and file names by the picture's number."""
    try:
        table = json.loads(content)
        names = {image["id"]: str(image["file_name"]) for image in table["images"]}
        captions: dict[int, list[str]] = {image: [] for image in names}
        for annotation in table["annotations"]:
            if text := " ".join(annotation.get("caption", "").split()):
                captions[annotation["image_id"]].append(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{file} is no captions file of COCO ({reason}): fetch it again") from error
    return captions, names
