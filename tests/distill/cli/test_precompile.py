"""``distill precompile``: mistakes in the topology and the mesh end with one line, before anything is compiled."""

import pytest

from distill import exit_codes
from distill.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
FILES = ["--gin_file=gin/models/t5_1_1_tiny.gin", "--gin_file=gin/tasks/svamp.gin", "--gin_file=gin/runs/distill.gin"]
FILES.append("--gin_file=gin/hardware/tpu_v5e_16.gin")


@pytest.mark.parametrize(
    "topology, message",
    [("v5:2x2", "unknown TPU generation 'v5'"), ("v5e", "GENERATION:AxB"), ("v5e:0x2", "at least one chip")],
)
def test_topologies_that_are_refused(topology, message, capsys):
    assert main.main(["precompile", *FILES, f"--topology={topology}"]) == exit_codes.MISTAKE
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("distill precompile: ")
    assert message in last


def test_a_t5gemma_needs_no_vocabulary(capsys):
    files = [FILES[0].replace("t5_1_1_tiny", "t5gemma2_1b"), *FILES[1:]]
    assert main.main(["precompile", *files, "--topology=v5:2x2"]) == exit_codes.MISTAKE
    assert "unknown TPU generation 'v5'" in capsys.readouterr().err  # and not: nothing sets VOCABULARY_PATH


def test_a_missing_hardware_file_is_that_of_the_topology(capsys):
    assert main.main(["precompile", *FILES[:3], "--topology=v6e:2x4"]) == exit_codes.MISTAKE
    assert "such as --gin_file=gin/hardware/tpu_v6e_8.gin, or --gin.MESH=" in capsys.readouterr().err
