"""The splits of Flickr8k, Flickr30k and COCO by Karpathy and Fei-Fei, which papers on retrieval report."""

import json
from collections import defaultdict
from pathlib import Path

from datamodules.captioned_files import CaptionedFiles
from datamodules.locations import existing_file


class KarpathyPairs(CaptionedFiles):
    """The pictures of one split, with their captions.

    Args:
        annotations: ``dataset_flickr8k.json``, ``dataset_flickr30k.json`` or ``dataset_coco.json``.
        images: folder of the pictures; COCO's are in its ``val2014`` and ``train2014``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        ValueError: the file is missing or another one, or has no picture of the split.
    """

    def __init__(self, annotations: str | Path, images: str | Path, split: str = "test") -> None:
        file = existing_file(annotations)
        content = file.read_bytes()
        try:
            told = [
                (
                    "/".join([*filter(None, [picture.get("filepath")]), picture["filename"]]),
                    [text for sentence in picture["sentences"] if (text := " ".join(sentence["raw"].split()))],
                )
                for picture in json.loads(content)["images"]
                if picture["split"] == split
            ]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{file} is no file of Karpathy's splits ({reason}): fetch it again") from error
        super().__init__(file, images, content + split.encode(), told)


class CaptionLines(CaptionedFiles):
    """Pictures and captions of a text file, as clip-benchmark keeps Karpathy's splits of Flickr.

    Args:
        annotations: a heading, and lines ``NAME.jpg,CAPTION``; neither commas nor quotes of a caption are special.
        images: folder of the pictures.

    Raises:
        ValueError: the file is missing, or a line has no picture.
    """

    def __init__(self, annotations: str | Path, images: str | Path) -> None:
        file = existing_file(annotations)
        content = file.read_bytes()
        told: dict[str, list[str]] = defaultdict(list)
        for number, line in enumerate(content.decode("utf-8-sig", "replace").split("\n")[1:], start=2):
            name, found, caption = line.partition(".jpg,")
            if line.strip() and not found:
                raise ValueError(f"{file}: line {number} is no NAME.jpg,CAPTION: fetch it again")
            if caption.strip():
                told[f"{name}.jpg"].append(caption.strip())
        super().__init__(file, images, content, list(told.items()))
