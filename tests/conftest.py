"""What every test runs under: shapes checked, one thread, a cache of its own; CUDA tests only where there is CUDA."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

# Before anything imports these packages: a function compiled without the hook is never checked.
install_import_hook(["vma", "baselines"], "beartype.beartype")

# The tests' tensors are so small that handing them to more threads costs more than it saves.
torch.set_num_threads(1)

# The hook makes a first example slow, which a deadline would report as flaky; the same examples in each run, for CI.
hypothesis.settings.register_profile("vma", deadline=None, derandomize=True)
hypothesis.settings.load_profile("vma")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and torch finds none")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(skip)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the processes that they start, neither see nor touch the data of the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("VMA_DATA", raising=False)
        yield


def _results(folder: Path, smoke: bool) -> Any:
    from made_results import make_results  # after the hook

    from reports.results import read_results

    return read_results(make_results(folder, smoke))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole folder of made-up results."""
    return _results(tmp_path_factory.mktemp("made"), smoke=False)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same of smoke runs."""
    return _results(tmp_path_factory.mktemp("smoke"), smoke=True)
