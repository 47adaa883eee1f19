"""A pair of every public corpus, in the layout that its recipe in conf/data reads."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

CAPTIONS = {
    "cc3m": ["a tabby on a mat"],
    "cc12m": ["A tabby", "on a mat."],
    "sbu": ["A tabby", "on a mat."],
    "laion": ["A tabby", "on a mat."],
    "yfcc15m": ["A tabby\non a mat."],
    "coco": ["A tabby cat.", "A cat on a mat."],
}
"""Of the one pair by recipe; that of the shards has a line break, which only yfcc15m takes for what it is."""


def write_corpora(folder: Path) -> None:
    """Write one folder that any recipe's ``data.path`` may name."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    for path in ("cc_data/train/1/1.jpg", "train2017/000000000009.jpg"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(jpeg)
    table = "title\tfilepath\na tabby on a mat\ttrain/1/1.jpg\n"
    (folder / "Train_GCC-training_output.csv").write_text(table, encoding="utf-8")
    coco = {
        "images": [{"id": 9, "file_name": "000000000009.jpg"}],
        "annotations": [{"image_id": 9, "caption": caption} for caption in CAPTIONS["coco"]],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_train2017.json").write_text(json.dumps(coco), encoding="utf-8")
    (caption,) = CAPTIONS["yfcc15m"]
    fields = {"caption": caption, "key": "000000000", "status": "success", "similarity": 0.3, "width": 8, "height": 6}
    files = {"jpg": jpeg, "txt": caption.encode(), "json": json.dumps(fields).encode()}
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for ending, content in files.items():
            info = tarfile.TarInfo(f"000000000.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
