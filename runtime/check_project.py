"""What to change in a project that moves in. `python -m runtime.check_project PATH…` reads its code and runs nothing.

Prints a line for each finding and exits with 1 if there is any. `# check-project: ignore` hides the findings of a line.
"""

import argparse
import ast
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

IGNORE = re.compile(r"#\s*check-project:\s*ignore\b")
SKIPPED = {"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"}
PACKAGES = ("dagster_dlt", "dagster_embedded_elt.dlt")
STOCK = {f"{package}.DagsterDltResource" for package in PACKAGES}
STOCK_COMPONENT = re.compile(r"dagster_dlt\.([\w.]+\.)?DltLoadCollectionComponent")
DLT_ASSETS = {f"{package}.dlt_assets" for package in PACKAGES}
LOSES = "loses rows when partitions load at the same time"
DLT_PARTS = {"dlt.source", "dlt.resource", "dlt.transformer", "dlt.destination"}
DLT_MODULES = ("dlt.sources.", "dlt.destinations.")
RUN_WHEN_CALLED = {"dlt.source", "functools.cache", "functools.lru_cache"}  # decorators
ITERATORS = {"iter", "map", "filter", "zip", "enumerate", "reversed", "open"}  # built-in functions that return one
CREDENTIAL = re.compile(
    r"api_?key|token|secret|passw(or)?d|credential|private_?key|access_?key|dsn|(connection|database|db)_?(string|url)",
    re.IGNORECASE,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


@dataclass(frozen=True, order=True)
class Finding:
    """What to change in one line."""

    file: Path
    line: int
    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}. Write {self.instead} instead."


class Module:
    """One file: its functions and classes, and what its names mean."""

    def __init__(self, file: Path, text: str) -> None:
        tree = ast.parse(text)
        self.file, self.lines, self.body, self.nodes = file, text.splitlines(), tree.body, list(ast.walk(tree))
        *self.package, name = file.resolve().with_suffix("").parts
        self.path = self.package if name == "__init__" else [*self.package, name]
        methods = {child for node in self.nodes if isinstance(node, ast.ClassDef) for child in node.body}
        self.definitions: dict[str, Definition] = {
            node.name: node for node in self.nodes if isinstance(node, Definition) and node not in methods
        }
        self.variables: dict[str, ast.AST] = {}
        self.imports: dict[str, str] = {}  # the name in this file → where it is from
        for node in self.nodes:
            match node:
                case ast.Import(names=aliases):
                    for alias in aliases:
                        first = alias.name.partition(".")[0]
                        self.imports[alias.asname or first] = alias.name if alias.asname else first
                case ast.ImportFrom(names=aliases):
                    for alias in aliases:
                        self.imports[alias.asname or alias.name] = f"{self._from(node)}.{alias.name}"
                case ast.Assign(targets=[ast.Name(id=variable)], value=value):
                    self.variables[variable] = value
                case ast.AnnAssign(target=ast.Name(id=variable), value=ast.expr() as value):
                    self.variables[variable] = value

    def _from(self, node: ast.ImportFrom) -> str:
        """The module after `from`. A relative one is named from below the last folder that is no package: `my.shop`."""
        parents = self.package[: len(self.package) - node.level + 1] if node.level else []
        while not all(part.isidentifier() for part in parents):
            parents = parents[1:]
        return ".".join([*parents, *([node.module] if node.module else [])])

    def name(self, node: ast.AST) -> str:
        """What an expression names, for example `dlt.pipeline`; of a call, what it calls. Empty if it is no name."""
        match node:
            case ast.Name(id=name):
                return self.imports.get(name, name)
            case ast.Attribute(value=ast.Name() | ast.Attribute() as value, attr=attribute):
                return f"{self.name(value)}.{attribute}"
            case ast.Call(func=ast.Name() | ast.Attribute() as function):
                return self.name(function)
        return ""

    def decorators(self, node: Definition) -> set[str]:
        return {self.name(decorator) for decorator in node.decorator_list}


Place = tuple[Module, ast.AST]


class Project:
    """All files that are checked."""

    def __init__(self, modules: list[Module]) -> None:
        self.modules = modules
        self.isolated: set[Module] = set()  # what `location.isolated_imports` imports
        for module in modules:
            for block in (node for node in module.nodes if isinstance(node, ast.With)):
                if any(module.name(item.context_expr).endswith("isolated_imports") for item in block.items):
                    aliases = [node for node in ast.walk(block) if isinstance(node, ast.alias)]
                    self._isolate(module.imports[alias.asname or alias.name] for alias in aliases)

    def _isolate(self, names: Iterable[str]) -> None:
        for name in names:
            module = self.module(name) or self.module(name.rpartition(".")[0])
            if module and module not in self.isolated:
                self.isolated.add(module)
                self._isolate(module.imports.values())

    def module(self, name: str) -> Module | None:
        parts = name.split(".")
        found = [module for module in self.modules if module.path[-len(parts) :] == parts]
        return found[0] if len(found) == 1 else None

    def definition(self, module: Module, name: str, hops: int = 5) -> tuple[Module, Definition] | None:
        """The function or class that `Module.name` names, if it is in one of the files."""
        if found := module.definitions.get(name):
            return module, found
        owner, _, last = name.rpartition(".")
        if not (hops and owner and (other := self.module(owner))):
            return None
        return self.definition(other, other.imports.get(last, last), hops - 1)

    def at_import(self, start: Module) -> Iterator[Place]:
        """What runs when a file is imported: its statements, and the functions that they call."""
        todo: list[Place] = [(start, node) for node in start.body]
        seen = set[Definition]()
        for module, statement in todo:  # which grows
            for node in executed(statement):
                yield module, node
                found = self.definition(module, module.name(node)) if isinstance(node, ast.Call) else None
                if found and found[1] not in seen and runs_when_called(*found):
                    seen.add(found[1])
                    todo += [(found[0], child) for child in found[1].body]


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run with a statement, so without the bodies of the functions that it defines."""
    yield node
    children: Iterable[ast.AST]
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            children = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
        case ast.Lambda():
            children = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            children = node.orelse
        case _:
            children = ast.iter_child_nodes(node)
    for child in children:
        yield from executed(child)


def is_generator(module: Module, function: Definition) -> bool:
    """Whether a call of it makes a generator object. dlt's decorators make a resource of it."""
    return not module.decorators(function) & DLT_PARTS and any(
        isinstance(node, ast.Yield | ast.YieldFrom) for child in function.body for node in executed(child)
    )


def runs_when_called(module: Module, function: Definition) -> bool:
    return module.decorators(function) <= RUN_WHEN_CALLED and not is_generator(module, function)


def resources(project: Project, module: Module) -> Iterator[Finding]:
    """dagster-dlt's own resource, and subclasses that do not isolate."""
    replaced = {  # by `location.merge`
        value
        for node in module.nodes
        if isinstance(node, ast.Dict) and module in project.isolated
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "dlt"
    }
    for node in module.nodes:
        if isinstance(node, ast.Call) and module.name(node) in STOCK and node not in replaced:
            instead = "IsolatedDltResource(), from runtime.load.resource,"
            yield Finding(module.file, node.lineno, f"dagster-dlt's resource {LOSES}", instead)
        if isinstance(node, ast.ClassDef) and any(STOCK_COMPONENT.fullmatch(module.name(base)) for base in node.bases):
            what = f"{node.name} is dagster-dlt's component, which {LOSES}"
            instead = f"class {node.name}(IsolatedDltLoadCollectionComponent), from runtime.load.component,"
            yield Finding(module.file, node.lineno, what, instead)
        if isinstance(node, ast.ClassDef) and is_resource(project, module, node):
            if any(module.name(base) in STOCK for base in node.bases):
                instead = f"class {node.name}(IsolatedDltResource), from runtime.load.resource,"
                yield Finding(
                    module.file, node.lineno, f"{node.name} is dagster-dlt's resource, which {LOSES}", instead
                )
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "_run":
                    what = f"{node.name} overrides _run, which isolates and retries loads"
                    yield Finding(module.file, method.lineno, what, "run() or extract_resource_metadata()")


def components(file: Path) -> Iterator[Finding]:
    """dagster-dlt's own component in a `defs.yaml`."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        match = re.match(r"\s*type:\s*[\"']?([\w.]+)", line)
        if match and STOCK_COMPONENT.fullmatch(match[1]) and not IGNORE.search(line):
            instead = "runtime.load.component.IsolatedDltLoadCollectionComponent"
            yield Finding(file, number, f"dagster-dlt's component {LOSES}", instead)


def is_resource(project: Project, module: Module, node: Definition, hops: int = 5) -> bool:
    for base in map(module.name, node.bases) if isinstance(node, ast.ClassDef) else ():
        if base in STOCK or base.endswith("IsolatedDltResource"):
            return True
        found = project.definition(module, base)
        if hops and found and is_resource(project, *found, hops - 1):
            return True
    return False


def imports(project: Project, start: Module) -> Iterator[Finding]:
    """Iterators, pipelines and credentials at import.

    `isolated_imports` makes the last two harmless: imports take turns, and a module without its secret says so.
    """
    nodes = list(project.at_import(start))
    sources = called_sources(nodes)
    for module, node in nodes:
        if isinstance(node, ast.Call) and module.name(node) == "dlt.resource":
            yield from iterators(project, module, node)
        if start not in project.isolated:
            yield from pipelines(module, node)
            yield from credentials(project, module, node, sources)


def pipelines(module: Module, node: ast.AST) -> Iterator[Finding]:
    # A directory of its own may be private; one fixed path is as shared as dlt's.
    if (
        isinstance(node, ast.Call)
        and module.name(node) == "dlt.pipeline"
        and not any(k.arg == "pipelines_dir" and not isinstance(k.value, ast.Constant) for k in node.keywords)
    ):
        what = "dlt.pipeline() at import makes files in a folder that all processes share: they wait for one another"
        instead = "pipelines_dir=import_directory(), from runtime.load.directories, among its arguments, "
        instead += "or warehouse_pipeline(), from runtime.load.warehouse,"
        yield Finding(module.file, node.lineno, what, instead)


def called_sources(nodes: list[Place]) -> set[ast.AST]:
    """The calls that make the sources of `@dlt_assets`."""
    found = set[ast.AST]()
    for module, node in nodes:
        for keyword in node.keywords if isinstance(node, ast.Call) and module.name(node) in DLT_ASSETS else ():
            if keyword.arg == "dlt_source":
                value = module.variables.get(module.name(keyword.value), keyword.value)
                found |= {call for call in ast.walk(value) if isinstance(call, ast.Call)}
    return found


def iterators(project: Project, module: Module, call: ast.Call) -> Iterator[Finding]:
    """Data of `dlt.resource()` that can be read only once."""
    for data in [*call.args[:1], *(k.value for k in call.keywords if k.arg == "data")]:
        value = module.variables.get(module.name(data), data)
        name = module.name(value) if isinstance(value, ast.Call) else ""
        found = project.definition(module, name)
        instead = "a function that yields the rows, without a call,"
        if found and is_generator(*found) and isinstance(value, ast.Call):
            arguments = ", ".join(ast.unparse(argument) for argument in [*value.args, *value.keywords])
            instead = f"dlt.resource({ast.unparse(value.func)}, …)" + (f"({arguments})" if arguments else "")
        elif not isinstance(value, ast.GeneratorExp) and name not in ITERATORS:
            continue
        what = f"{ast.unparse(value)} is an iterator, which a second load or a retry cannot read again"
        yield Finding(module.file, data.lineno, what, instead)


def credentials(project: Project, module: Module, node: ast.AST, sources: set[ast.AST]) -> Iterator[Finding]:
    """Secrets of dlt, and environment variables that are given to a source or a destination."""
    match node:
        case ast.Subscript(value=value, ctx=ast.Load()) if module.name(value) == "dlt.secrets":
            yield credential(module, node)
        case ast.Call() if module.name(node) == "dlt.secrets.get":
            yield credential(module, node)
        case ast.Call():
            name = module.name(node)
            found = project.definition(module, name)
            is_part = found is not None and bool(found[0].decorators(found[1]) & DLT_PARTS)
            if is_part or node in sources or name == "dlt.pipeline" or name.startswith(DLT_MODULES):
                yield from given_credentials(module, node)


def given_credentials(module: Module, call: ast.Call) -> Iterator[Finding]:
    destination = module.name(call) if module.name(call).startswith("dlt.destinations.") else ""
    first = "credentials" if destination and not destination.endswith(".filesystem") else ""
    arguments = [(first if number == 0 else "", argument) for number, argument in enumerate(call.args)]
    arguments += [(keyword.arg or "", keyword.value) for keyword in call.keywords]
    for parameter, argument in arguments:
        todo, names = list[ast.AST]([argument]), {parameter}
        for value in todo:  # which grows
            for node in ast.walk(value):
                variable = environment_variable(module, node)
                if variable is not None and any(map(CREDENTIAL.search, [*names, variable])):
                    yield credential(module, node, destination, parameter)
                if isinstance(node, ast.Name) and node.id not in names and node.id in module.variables:
                    names.add(node.id)
                    todo.append(module.variables[node.id])


def environment_variable(module: Module, node: ast.AST) -> str | None:
    """The variable that an expression reads, empty if it is not a constant; None if it reads none."""
    match node:
        case ast.Subscript(value=value, slice=name, ctx=ast.Load()) if module.name(value) == "os.environ":
            return str(name.value) if isinstance(name, ast.Constant) else ""
        case ast.Call(func=ast.Attribute(value=ast.Call(args=[name]) as variable, attr="get_value")) if (
            module.name(variable) == "dagster.EnvVar"
        ):
            return str(name.value) if isinstance(name, ast.Constant) else ""
        case ast.Call(args=[name, *_]) if module.name(node) in ("os.environ.get", "os.getenv"):
            return str(name.value) if isinstance(name, ast.Constant) else ""
    return None


def credential(module: Module, node: ast.AST, destination: str = "", parameter: str = "") -> Finding:
    what = f"{ast.unparse(node)} is read at import, where a missing value may keep the whole file from loading"
    instead = f"`{parameter or 'token'}: str = dlt.secrets.value` into the signature of the resource, which reads it "
    instead += "when a run starts,"
    if destination:
        instead = f"DESTINATION__{destination.rpartition('.')[2].upper()}__CREDENTIALS into the environment, where dlt "
        instead += "finds it when a run starts,"
    return Finding(module.file, getattr(node, "lineno", 0), what, instead)


def partitions(project: Project, module: Module) -> Iterator[Finding]:
    """`replace` by assets that have partitions."""
    for function in module.nodes:
        if not isinstance(function, Function):
            continue
        for decorator in function.decorator_list:
            given = decorator.keywords if isinstance(decorator, ast.Call) else []
            of = next((ast.unparse(k.value) for k in given if k.arg == "partitions_def"), "None")
            if module.name(decorator) in DLT_ASSETS and of != "None":
                for file, line in replacing(project, module, function):
                    what = f"replace empties the table, but {function.name} loads one partition of {of} at a time"
                    instead = 'write_disposition="merge" and a primary_key'
                    yield Finding(file, line, what, instead)


def replacing(project: Project, module: Module, assets: Function) -> Iterator[tuple[Path, int]]:
    """Where the run of a `@dlt_assets`, or a resource that it may load, says `write_disposition="replace"`."""
    todo: list[Place] = [(module, assets)]
    seen = set[ast.AST]()
    chosen = set[str]()  # by `with_resources`
    found: list[tuple[Module, int, str]] = []
    for owner, root in todo:  # which grows
        named: dict[ast.AST, str] = {}
        for node in ast.walk(root):
            given: dict[str, ast.expr] = {}
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    named |= dict.fromkeys(node.decorator_list, node.name)
                case ast.Dict():  # of a rest_api_source
                    given = {
                        str(key.value): value
                        for key, value in zip(node.keys, node.values, strict=True)
                        if isinstance(key, ast.Constant)
                    }
                case ast.Call():
                    given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
                    if isinstance(node.func, ast.Attribute) and node.func.attr == "with_resources":
                        chosen |= {str(name.value) for name in node.args if isinstance(name, ast.Constant)}
                case ast.Name() | ast.Attribute():
                    name = owner.name(node)
                    place = project.definition(owner, name) or (owner, owner.variables.get(name))
                    if place[1] and place[1] not in seen:
                        seen.add(place[1])
                        todo.append((place[0], place[1]))
            if is_replace(given.get("write_disposition")):
                match given.get("name"):
                    case ast.Constant(value=str(name)):
                        named[node] = name
                found.append((owner, given["write_disposition"].lineno, named.get(node, "")))
    for owner, line, name in found:
        if not (chosen and name) or name in chosen:
            yield owner.file, line


def is_replace(disposition: ast.AST | None) -> bool:
    match disposition:
        case ast.Constant(value="replace"):
            return True
        case ast.Dict(values=values):
            return any(map(is_replace, values))
    return False


def project_files(path: Path, *endings: str) -> Iterator[Path]:
    """The files of a project whose names end so, without its environments, and without a copy of this folder."""
    if path.is_file() and path.name.endswith(endings):
        yield path
    for folder, folders, files in os.walk(path):
        folders[:] = [
            name
            for name in sorted(folders)
            if name not in SKIPPED and not name.startswith(".") and not is_ours(name, folder)
        ]
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(endings))


def is_ours(name: str, folder: str) -> bool:
    return Path(folder, name, Path(__file__).name).exists()


def check(paths: Iterable[Path]) -> list[Finding]:
    """What to change in these files and folders."""
    modules, found = [], set[Finding]()
    for file in dict.fromkeys(file for path in paths for file in project_files(path, ".py")):
        try:
            modules.append(Module(file, file.read_text(encoding="utf-8")))
        except (SyntaxError, ValueError) as error:
            line, reason = getattr(error, "lineno", None) or 1, getattr(error, "msg", None) or str(error)
            what = f"Python {sys.version_info.major}.{sys.version_info.minor} cannot read this file: {reason}"
            found.add(Finding(file, line, what, "what it can read, or run the check with the project's Python,"))
    for file in dict.fromkeys(file for path in paths for file in project_files(path, "defs.yaml")):
        found |= {*components(file)}
    project = Project(modules)
    for module in modules:
        found |= {*resources(project, module), *imports(project, module), *partitions(project, module)}
    lines = {module.file: module.lines for module in modules}
    return sorted(f for f in found if not IGNORE.search(lines[f.file][f.line - 1] if f.file in lines else ""))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m runtime.check_project", description=str(__doc__))
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file or folder of the project")
    paths = parser.parse_args().paths
    for path in paths:
        if not any(project_files(path, ".py", "defs.yaml")):
            parser.error(f"{path} is no Python file and no folder with one. Name the folder with the project's code.")
    found = check(paths)
    sys.stdout.writelines(f"{finding}\n" for finding in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
