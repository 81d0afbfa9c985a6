"""The core does not know T5X: everything but distill.t5x imports where T5X cannot be imported."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("t5x", "airio", "jestimator", "fiddle"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import distill
names = [
    module.name
    for module in pkgutil.walk_packages(distill.__path__, "distill.", onerror=lambda name: None)
    if not module.name.startswith("distill.t5x.") and module.name != "distill.__main__"
]
for name in names:
    importlib.import_module(name)
assert "distill.training.train" in names and "distill.tasks.registration" in names, names
assert not [name for name in sys.modules if name.split(".")[0] == "t5x"]
try:
    import distill.t5x.model
except ModuleNotFoundError as error:
    assert error.name == "t5x", error
else:
    raise AssertionError("t5x was imported")
print(len(names))
"""


def test_the_core_imports_without_t5x():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 30
