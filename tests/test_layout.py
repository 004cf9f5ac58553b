"""The package's own order: imports point one way, heavy packages stay out, the public names are documented."""

import ast
import inspect
import pathlib
import subprocess
import sys

import jaxclear

PACKAGE = pathlib.Path(jaxclear.__file__).parent
CORE = [
    *("worker_processes", "cpu_threads", "even_blocks", "mesh_context", "pooling", "rules", "trace", "inputs"),
    *("devices", "transformation", "class_backprop", "responses", "units", "clear", "heatmaps"),
]
HEAVY = {"ase", "pymatgen", "matplotlib", "tensorflow_datasets", "spglib", "scipy", "PIL", "safetensors"}


def imported_modules(path, *, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_part(module):
    names = module.split(".")
    return names[1] if names[0] == "jaxclear" and len(names) > 1 else None


def test_the_core_imports_only_downwards():
    checked = 0
    for rank, name in enumerate(CORE):
        files = sorted((PACKAGE / name).rglob("*.py")) or [PACKAGE / f"{name}.py"]
        for file in files:
            for module in imported_modules(file):
                part = own_part(module)
                if part and (PACKAGE / part).exists() | (PACKAGE / f"{part}.py").exists():
                    assert part in CORE[: rank + 1], f"{file.name} imports {module}"
                    checked += 1
    assert checked > 20


def test_only_the_trace_package_knows_jaxprs():
    for file in PACKAGE.rglob("*.py"):
        if "trace" not in file.parts:
            for module in imported_modules(file):
                assert not module.startswith(("jax.extend", "jax._src")), f"{file} imports {module}"


def test_importing_jaxclear_loads_nothing_heavy():
    script = "import sys, jaxclear; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not HEAVY - {"scipy"} & set(ast.literal_eval(loaded))  # JAX itself loads scipy


def test_modules_and_functions_stay_small():
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        assert text.count("\n") <= 400, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                assert not body or node.end_lineno - body[0].lineno < 60, f"{file}: {node.name}"


def test_every_public_name_is_documented():
    for name in jaxclear.__all__:
        value = getattr(jaxclear, name)
        if inspect.isroutine(value) or inspect.isclass(value):
            documentation = inspect.getdoc(value) or ""
            assert len(documentation) > 30, name
            assert documentation.splitlines()[0].endswith((".", "?", ":", ">")) or "\n" in documentation, name
