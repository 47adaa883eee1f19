"""Names of classes are read from a file, or given."""

from pathlib import Path

import pytest

from datamodules.classnames import read_classnames


def test_class_names_are_lines_of_a_file_or_a_list(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("cat\r\ntabby dog\r\n\r\n")
    assert read_classnames(path) == read_classnames(["cat", "tabby dog"]) == ["cat", "tabby dog"]
    path.write_text("cat\n\ndog\n")
    for blank in (path, [], ["cat", " "]):
        with pytest.raises(ValueError, match="blank name"):
            read_classnames(blank)
