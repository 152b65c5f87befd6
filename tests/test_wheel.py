"""What is installed without a checkout: the library, the baselines and the weights, which work, and nothing else."""

import contextlib
import os
import zipfile
from pathlib import Path

import pytest
from hatchling import build
from helpers import python

ROOT = Path(__file__).parents[1]

LIBRARY = """
import baselines, torch, vma
from vma.data import load
from vma.data.episodes import Episodes, EpisodeSpec
from vma.evaluation import evaluate
from vma.training import fit

assert all(module.__file__.startswith(sys.path[0]) for module in (vma, baselines)), (vma.__file__, sys.path)
data = load("strokes", image_size=8)
episodes = Episodes(data.train, EpisodeSpec(classes=2, targets_per_class=1, shots=1), seed=0)
sizes = vma.ConvSizes(image=(1, 8, 8), widths=(8,) * 6, hidden=None, latent=8, embedding=16)
for model in (vma.VariationalMemoryAddressing(sizes), baselines.SoftAttentionVAE(sizes), baselines.PlainVAE(sizes)):
    for _ in fit(model, episodes, vma.iwae, torch.optim.Adam(model.parameters()), 2, range(1)):
        print(evaluate(model, episodes, range(2), num_samples=2).summary("nll", by_class=True))
print(type(vma.load_pretrained("vae-table1")).__name__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of a wheel that is built of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    with contextlib.chdir(ROOT):
        name = build.build_wheel(str(folder))
    with zipfile.ZipFile(folder / name) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_holds_the_library_the_baselines_and_the_weights_alone(installed: Path) -> None:
    (about,) = installed.glob("*.dist-info")
    assert {path.name for path in installed.iterdir()} == {"vma", "baselines", about.name}
    assert about.name.startswith("vma_suite-")  # vma on the package index is another project
    weights = {path.name for path in (ROOT / "results" / "checkpoints").iterdir()}
    assert {path.name for path in (installed / "vma" / "weights").iterdir()} == weights


def test_the_library_works_without_a_checkout(installed: Path) -> None:
    """What it depends on is this environment's; the checkout, which may be installed there, is not looked at."""
    start = f"import sys\nsys.path[:] = [{str(installed)!r}, *(p for p in sys.path if p not in ('', {str(ROOT)!r}))]\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = python("-c", start + LIBRARY, cwd=installed, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[3:] == ["PlainVAE"]
