"""What the image of one location contains: its own folder, and of `dlt_sources` only what it imports.

The Dockerfile runs this file for each location: `python scripts/location_code.py <location> <target folder>`.
An edit of code that a location does not import thus leaves its image, and so its container, as they are.
"""

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def parts(location: str, root: Path = ROOT) -> set[Path]:
    """The files and folders that a location needs of `code_locations` and `dlt_sources`, relative to `root`."""
    folder = root / "code_locations" / location
    if not folder.is_dir():
        sys.exit(f"code_locations/{location} does not exist. LOCATION is the name of a folder in code_locations.")
    packages = ("code_locations/*.py", "dlt_sources/__init__.py", "dlt_sources/verified/__init__.py")
    todo = [folder, *(path for pattern in packages for path in root.glob(pattern))]
    found: set[Path] = set()
    while todo:
        part = todo.pop()
        if part not in found:
            found.add(part)
            todo += filter(None, (source(name, root) for name in imports(part, root)))
    return {part.relative_to(root) for part in found}


def imports(part: Path, root: Path) -> Iterator[str]:
    """The full names of all modules that a file, or the files of a folder, may import."""
    for path in part.rglob("*.py") if part.is_dir() else [part]:
        package = ".".join(path.parent.relative_to(root).parts)
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            match node:
                case ast.Import(names=names):
                    yield from (alias.name for alias in names)
                case ast.ImportFrom(module=module, names=names, level=level):
                    base = resolve_name("." * level + (module or ""), package)
                    yield from (f"{base}.{alias.name}" for alias in names)
                case ast.Constant(value=str(text)) if re.fullmatch(r"dlt_sources(\.\w+)+", text):
                    yield text  # for importlib.import_module()


def source(name: str, root: Path) -> Path | None:
    """The folder or file in `dlt_sources` that holds the module `name`; None for all other modules."""
    folder, *names = name.split(".")
    if folder != "dlt_sources" or not names:
        return None
    path = root / folder
    if names[0] == "verified":
        path /= names.pop(0)
    path = path.joinpath(*names[:1])
    return next((found for found in (path, path.with_suffix(".py")) if found.exists()), None)


def main(location: str, target: str) -> None:
    for part in parts(location):
        copy = Path(target) / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy)
        else:
            shutil.copy2(ROOT / part, copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
