"""A file to be written is refused where it is an input, another output, or a file of another program."""

import io

import pytest

from distill import outputs


def test_an_output_that_is_an_input_is_refused(tmp_path):
    read = tmp_path / "rows.jsonl"
    read.write_text("{}\n")
    outputs.check({"the output": tmp_path / "out.jsonl"}, [read])
    for output in (read, tmp_path / "other" / ".." / "link.jsonl"):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "link.jsonl").unlink(missing_ok=True)
        (tmp_path / "link.jsonl").symlink_to(read)
        with pytest.raises(ValueError, match=r"the output .* is the input .*rows.jsonl: .* Name another file"):
            outputs.check({"the output": output}, [read])


def test_two_outputs_are_two_files(tmp_path):
    with pytest.raises(ValueError, match="the store and the output are one file"):
        outputs.check({"the output": tmp_path / "a", "the store": tmp_path / "b" / ".." / "a"}, [])


def test_only_own_and_empty_files_are_replaced(tmp_path):
    def is_own(file):
        return file.read() == b"own"

    path = tmp_path / "out"
    for content in (None, b"", b"own"):
        if content is not None:
            path.write_bytes(content)
        outputs.check_own("the report", path, is_own, "distill report")
    path.write_bytes(b"mine")
    with pytest.raises(
        ValueError, match=r"the report .*out exists, and was not written by `distill report`.* give --over"
    ):
        outputs.check_own("the report", path, is_own, "distill report")
    with pytest.raises(ValueError, match="/dev/null exists, and was not written by"):
        outputs.check_own("the report", "/dev/null", is_own, "distill report")
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("line", "found"), [(b'{"a": 1}\nx', {"a": 1}), (b"[1]", {}), (b"\xff", {}), (b"no", {}), (b"", {})]
)
def test_the_first_object_of_a_file(line, found):
    assert outputs.first_object(io.BytesIO(line)) == found
