"""The identity of tasks: everything that changes their contents, and no paths of files."""

import functools
import pathlib

from distill.tasks import fingerprint, jsonl, registration


def test_everything_plain_is_named_and_paths_are_not():
    def reader(skip):
        return lambda split: (split, skip)

    class Source:
        def __init__(self):
            self._teacher, self.file, self.itself = "palm", pathlib.Path("/data/rows"), self

    found = fingerprint.describe({"source": Source(), "read": reader(3), "part": functools.partial(reader, skip=4)})
    assert found["source.teacher"] == "palm"
    assert not any("file" in name for name in found)
    assert found["read.skip"] == 3
    assert found["part.skip"] == 4
    assert found["source.class"].endswith("Source")


def test_registered_tasks(tmp_path):
    def of(folder, **changes):
        fields = changes.pop("fields", {"input": "question"})
        names = registration.register(
            jsonl.dataset({"train": folder / "train.jsonl"}, fields=fields), "bytes", **changes
        )
        return registration.settings_of(names.paired)

    ours = of(tmp_path)
    assert fingerprint.differences(ours, of(tmp_path / "elsewhere")) == []
    assert fingerprint.differences(ours, of(tmp_path, subsample=0.5)) == [("selection.subsample", 1.0, 0.5)]
    assert fingerprint.differences(ours, of(tmp_path, fields={"input": "text"})) == [
        ("dataset.source.fields.input", "question", "text")
    ]
    assert fingerprint.differences(ours, of(tmp_path, label_rate=3.0)) == []
