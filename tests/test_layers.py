"""Imports run one way: from the commands down to what everything stands on."""

import ast
import pathlib

import ssl_jax

PACKAGE = pathlib.Path(ssl_jax.__file__).parent
# A package may import those before it. The file formats of other libraries know nothing of runs.
ORDER = (
    "core", "hardware", "losses", "clustering", "optim", "models", "views", "pretrained.formats",
    "parallel", "hlo", "checkpoint", "modalities", "tasks", "data", "methods", "adapt", "evals",
    "config", "report", "experiment", "pretrained", "run", "sweeps", "cli",
)  # fmt: skip
# The reader of config sections stands on core alone and serves every package.
LOW = "config.fields"


def layer(module):
    """The entry of ORDER that a dotted module below ssl_jax belongs to; None for the root."""
    for name in sorted(ORDER, key=len, reverse=True):
        if module == name or module.startswith(name + "."):
            return name
    return None


def imports(path):
    """Dotted modules below ssl_jax that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "ssl_jax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssl_jax."):
            base = node.module.removeprefix("ssl_jax.")
            inside = (PACKAGE / base.replace(".", "/")).is_dir()
            yield from (f"{base}.{alias.name}" if inside else base for alias in node.names)


def test_imports_run_one_way():
    upward, packages = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        if module.startswith("configs") or layer(module) is None:
            continue
        packages.add(layer(module))
        for target in imports(path):
            if layer(target) is None or target.startswith(LOW):
                continue
            if ORDER.index(layer(target)) > ORDER.index(layer(module)):
                upward.append(f"{module} imports {target}")
    assert not upward, "\n".join(upward)
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"configs"} <= packages


def test_packages_hold_no_logic():
    """An __init__ re-exports; the root package imports its public names when they are used."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent == PACKAGE or "configs" in path.parts:
            continue
        allowed = (ast.ImportFrom, ast.Import, ast.Assign, ast.Expr)
        for node in ast.parse(path.read_text()).body:
            assert isinstance(node, allowed), (path, ast.dump(node)[:80])
            if isinstance(node, ast.Assign):
                assert [target.id for target in node.targets] == ["__all__"], path
