"""The arrows between modules, as declared in ALLOWED, and what no file may do: unpickle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers import python

ROOT = Path(__file__).parents[1]
PACKAGES = ("vma", "baselines", "benchmarks", "reports")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib"}

BELOW_MODELS = ("vma.errors", "vma.objectives", "vma.networks", "vma.addressing")
# Module or package: what of ours it may import, itself and what lies below it apart. The longest name that fits counts.
ALLOWED: dict[str, tuple[str, ...]] = {
    "vma": ("vma",),
    "vma.errors": (),
    "vma.files": (),
    "vma.hardware": (),
    "vma.objectives": ("vma.errors",),
    "vma.optimisers": (),
    "vma.estimators": ("vma.objectives", "vma.networks"),
    "vma.networks": (),
    "vma.networks.family": (),
    "vma.networks.densities": ("vma.errors",),
    "vma.networks.kernels": ("vma.networks.densities",),
    "vma.networks.mlp": ("vma.networks.family", "vma.networks.kernels"),
    "vma.networks.conv": ("vma.networks.family", "vma.networks.kernels"),
    "vma.data": ("vma.errors", "vma.files", "vma.checkpoint"),
    "vma.addressing": ("vma.errors", "vma.networks"),
    "vma.z_gradient": ("vma.networks",),
    "vma.model": (*BELOW_MODELS, "vma.z_gradient"),
    "vma.reference": (*BELOW_MODELS, "vma.model"),
    "vma.gumbel": (*BELOW_MODELS, "vma.model"),
    "vma.sampled": (*BELOW_MODELS, "vma.model"),
    "vma.checkpoint": ("vma.errors", "vma.files"),
    "vma.protocol": ("vma.errors", "vma.objectives", "vma.networks"),
    "vma.update": ("vma.objectives", "vma.addressing", "vma.protocol", "vma.data"),
    "vma.graph": ("vma.errors", "vma.objectives", "vma.update"),
    "vma.training": ("vma.objectives", "vma.addressing", "vma.protocol", "vma.data", "vma.update", "vma.graph"),
    "vma.evaluation": ("vma.errors", "vma.objectives", "vma.addressing", "vma.protocol", "vma.data", "vma.statistics"),
    "vma.pictures": ("vma.errors", "vma.protocol"),
    # a model by its name needs all models, so the baselines too
    "vma.pretrained": (
        *("vma.errors", "vma.networks", "vma.model", "vma.reference", "vma.sampled", "vma.gumbel", "vma.estimators"),
        *("vma.protocol", "vma.checkpoint", "baselines"),
    ),
    "baselines": BELOW_MODELS,
    "baselines.sampled": ("baselines", "vma.objectives", "vma.networks", "vma.addressing", "vma.sampled"),
    "benchmarks": ("vma", "baselines", "reports"),
    # the rooms, each with those before it
    "benchmarks.declare": ("vma", "baselines"),
    "benchmarks.declare.__main__": ("benchmarks", "reports"),
    "benchmarks.record": ("vma", "reports", "benchmarks.declare"),
    "benchmarks.runs": ("vma", "baselines", "reports", "benchmarks.declare", "benchmarks.record"),
    "benchmarks.plan": ("vma", "reports", "benchmarks.declare", "benchmarks.record", "benchmarks.runs"),
    "benchmarks.execute": (
        *("vma", "reports", "benchmarks.declare", "benchmarks.record", "benchmarks.runs"),
        "benchmarks.plan",
    ),
    "vma.statistics": (),
    "reports": ("vma.errors", "vma.statistics"),
}


def below(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def rule(module: str) -> str:
    # "vma" speaks for vma/__init__.py alone: what is new in vma gets a line of its own
    names = [name for name in ALLOWED if below(module, name) and (name != "vma" or module == "vma")]
    assert names, f"{module} has no line in ALLOWED: say what it may import"
    return max(names, key=len)


def imports(module: str, path: Path) -> set[str]:
    """Every module that a file imports, wherever in it the statement stands, by its full name."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            names = {f"{source}.{alias.name}" for alias in node.names}
            # `from package import module` imports the module, `from module import name` the module before it
            found |= {name if name in MODULES else source for name in names}
    return found


def own(module: str, path: Path) -> set[str]:
    return {name for name in imports(module, path) if name.split(".")[0] in PACKAGES} - {module}


EQUATIONS = {  # of the paper, and the module that has the line of each
    1: "vma.model",
    2: "vma.objectives",
    3: "vma.model",
    4: "vma.addressing",
    5: "vma.addressing",
    6: "vma.addressing",
    7: "vma.objectives",
    8: "vma.estimators",
}


def test_each_equation_has_one_home() -> None:
    homes = {
        (int(n), module)
        for module, path in MODULES.items()
        for n in re.findall(r"\S  # eq\. (\d)", path.read_text(encoding="utf-8"))
    }
    assert homes == set(EQUATIONS.items())


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_arrows(module: str) -> None:
    name = rule(module)
    allowed = (*ALLOWED[name], name)
    astray = {found for found in own(module, MODULES[module]) if not any(below(found, target) for target in allowed)}
    assert not astray, f"{module} may not import {', '.join(sorted(astray))}: see ALLOWED for {name}"


def test_no_module_imports_itself_by_a_detour() -> None:
    # prepare() raises CycleError, which names the circle
    TopologicalSorter({module: own(module, path) for module, path in MODULES.items()}).prepare()


def test_reports_run_without_torch() -> None:
    modules = [module for module in MODULES if below(module, "reports")]
    script = "\n".join([*(f"import {module}" for module in modules), "import sys", "assert 'torch' not in sys.modules"])
    run = python("-c", script, cwd=ROOT)
    assert run.returncode == 0, run.stderr


def unpickles(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(alias.name.split(".")[0] in PICKLERS for alias in names)
        case ast.ImportFrom(module=str(module), names=names):
            torch_io = module == "torch" and any(alias.name in {"load", "save"} for alias in names)
            return torch_io or module.split(".")[0] in PICKLERS
        case ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save"):
            return True
        case ast.Attribute(attr="read_pickle" | "to_pickle"):
            return True
        case ast.keyword(arg="allow_pickle", value=value):
            return not (isinstance(value, ast.Constant) and value.value is False)
    return False


@pytest.mark.parametrize("module", MODULES)
def test_what_windows_lacks_is_imported_where_it_is_used(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
    assert not names & {"fcntl", "grp", "pwd", "resource", "termios"}


def test_nothing_is_pickled() -> None:
    files = [*MODULES.values(), *sorted((ROOT / "tests").rglob("*.py")), *sorted(ROOT.glob("*.py"))]
    lines = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        if unpickles(node)
    ]
    assert not lines, "pickle in " + ", ".join(lines)
