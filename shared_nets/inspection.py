"""
What a bundle would run: its configs are programs, and this lists what they do without doing it.

MONAI evaluates every string that begins with ``$`` and calls every ``_target_`` of a config. A bundle may
also bring Python files, a ``logging.conf`` (whose arguments Python evaluates) and weights that are pickles.
"""

from __future__ import annotations

import ast
import builtins
import configparser
import importlib
import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ComponentLocator

from shared_nets.errors import UsageError

# Packages whose classes and functions a bundle is made of; those that start programs, download, or write what
# they are given wherever they are told to are not.
KNOWN_PACKAGES = (
    "monai.data",
    "monai.engines",
    "monai.handlers",
    "monai.inferers",
    "monai.losses",
    "monai.metrics",
    "monai.networks",
    "monai.optimizers",
    "monai.transforms",
    "ignite.engine",
    "ignite.handlers",
    "ignite.metrics",
    "torch.cuda",
    "torch.distributed.distributed_c10d",
    "torch.nn",
    "torch.optim",
    "shared_nets.data.cases",
    "shared_nets.data.loading",
    "shared_nets.data.pooled",
    "shared_nets.data.preprocessing",
    "shared_nets.data.spacing",
    "shared_nets.devices",
    "shared_nets.evaluation",
    "shared_nets.inference.backends",
    "shared_nets.inference.check",
    "shared_nets.inference.cohort",
    "shared_nets.inference.masks",
    "shared_nets.inference.slices",
    "shared_nets.networks",
    "shared_nets.precision",
    "shared_nets.switches",
    "shared_nets.training.augmentation",
    "shared_nets.training.caching",
    "shared_nets.training.handlers",
    "shared_nets.training.processes",
    "shared_nets.training.record",
    "shared_nets.training.speed",
    "shared_nets.training.start",
)
KNOWN_NAMES = (
    "shared_nets.inference.LesionWriter",
    "shared_nets.inference.Records",
    "shared_nets.inference.ranges_beside",
    "shared_nets.versions.check_version",
    "shared_nets.weights.load_into",
    "shared_nets.weights.sha256",
    "contextlib.ExitStack",
    "torch.device",
    "torch.distributed.is_initialized",
    "torch.utils.data.ConcatDataset",
    "monai.utils.set_determinism",
)
KNOWN_ROOTS = ("torch", "monai", "ignite", "shared_nets")
KNOWN_BUILTINS = {
    *("abs", "all", "any", "bool", "dict", "enumerate", "float", "int", "isinstance", "len", "list", "max"),
    *("min", "range", "round", "set", "sorted", "str", "sum", "tuple", "zip"),
}
CONFIG_SUFFIXES = (".json", ".yaml", ".yml")
CODE_SUFFIXES = (
    ".py",
    ".pyc",
    ".ipynb",
    ".sh",
    ".bat",
    ".ps1",
    ".so",
    ".dll",
    ".pyd",
    ".dylib",
    ".exe",
    ".pth",
)
WEIGHT_SUFFIXES = (".pt", ".ckpt", ".pkl", ".pickle", ".bin", ".ts", ".npy")
# References to what stands under "imports": MONAI makes modules of it.
TO_IMPORTS = re.compile(r"[@%][#:]*imports(?!\w)")
PLAIN_LOGGING = re.compile(
    r"\(\s*(sys\.std(out|err)\s*,?|'[^']*'(\s*,\s*'[aw]')?\s*,?|\"[^\"]*\"\s*,?)?\s*\)"
)


@dataclass(frozen=True)
class Finding:
    """
    One thing that a bundle would run.

    Args:
        file: where it stands, relative to the bundle.
        place: the id inside a config, a line, or nothing.
        code: the expression, component or file.
        known: whether it is on the list of what bundles are made of.
    """

    file: str
    place: str
    code: str
    known: bool


def inspect_bundle(folder: str | Path) -> list[Finding]:
    """
    List what a bundle would run, without running any of it.

    Args:
        folder: the bundle's folder. All files in it are looked at, wherever they lie.

    Returns:
        Every ``$`` expression, known or not, and every component, line of a logging.conf, weight file and
        code file that is not known; in the order of the files.

    Raises:
        UsageError: if it is not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"{folder} is not a folder: name a bundle's folder.")
    findings: list[Finding] = []
    for path in sorted(p for p in root.rglob("*") if p.is_symlink() or p.is_file()):
        name, ending = path.relative_to(root).as_posix(), path.suffix.lower()
        if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
            findings.append(Finding(name, "", f"link to {path.resolve()}, outside the bundle", False))
        elif ending in CONFIG_SUFFIXES:
            findings += _in_config(path, name)
        elif ending == ".conf":
            findings += _in_logging(path, name)
        elif ending in CODE_SUFFIXES:
            findings.append(Finding(name, "", "a file of code", False))
        elif ending in WEIGHT_SUFFIXES:
            findings += _in_weights(path, name)
    return findings


def visible(text: str) -> str:
    """The text on one line, control characters escaped: a terminal would let them hide what stands there."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# ---- configs ----


def _in_config(path: Path, name: str) -> Iterator[Finding]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        yield Finding(name, "", f"cannot be read as a config ({type(error).__name__})", False)
        return
    for place, key, value in _strings(content):
        where = "#".join([*place, key])
        if value.startswith("$"):
            known = is_known_expression(value[1:], may_import=[*place, key][0] == "imports")
            yield Finding(name, where, value, known)
        elif key == "_target_" and not is_known_component(value):
            yield Finding(name, where, value, False)
        elif key == "_mode_" and value == "debug":
            yield Finding(name, where, "opens a debugger", False)
        elif value.startswith("%") and ("::" in value or value.lower().endswith(CONFIG_SUFFIXES)):
            yield Finding(name, where, f"{value}: takes over another file", False)
        elif TO_IMPORTS.match(value):
            yield Finding(name, where, f"{value}: refers to a module", False)


def _strings(content: Any) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Every string of a config: the keys above it, its own key, and the string."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen: set[int] = set()
    while waiting:
        place, part = waiting.pop()
        # YAML may repeat a part a million times, or put it into itself.
        if id(part) in seen:
            continue
        seen.add(id(part))
        items: list[Any] = []
        if isinstance(part, dict):
            items = list(part.items())
        elif isinstance(part, list):
            items = list(enumerate(part))
        for key, value in items:
            if isinstance(value, str):
                yield place, str(key), value
        waiting += [
            ((*place, str(key)), value) for key, value in reversed(items) if not isinstance(value, str)
        ]


def is_known_expression(code: str, may_import: bool = False) -> bool:
    """
    Whether an expression only uses references, literals, arithmetic and known components.

    Args:
        code: the expression without its ``$``.
        may_import: whether it may be an import, as under ``imports``. Elsewhere the module would be a value
            whose attributes another expression can reach.
    """
    if TO_IMPORTS.search(code):
        return False
    # References (@a#b, %a::b) are values that stand elsewhere in the config.
    plain = re.sub(r"[@%][\w#]+(::[\w#]+)*", "REFERENCE", code.strip())
    try:
        tree = ast.parse(plain)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not may_import and any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree)):
        return False
    own = {
        node.arg if isinstance(node, ast.arg) else node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    }
    # A name of its own in one place of an expression may be Python's in another.
    own = {"REFERENCE"} | (own - set(vars(builtins)) - set(KNOWN_ROOTS))
    return all(_is_known_node(node, own) for node in _outermost(tree))


def _outermost(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, a dotted name as one."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not _dotted(node):
            yield from _outermost(node)


def _dotted(node: ast.AST) -> str:
    """``a.b.c`` of a chain of attributes on a name, else nothing."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _is_known_node(node: ast.AST, own: set[str]) -> bool:
    if isinstance(node, ast.Import):
        return all(alias.name.split(".")[0] in KNOWN_ROOTS for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return all(is_known_component(f"{node.module}.{alias.name}") for alias in node.names)
    name = _dotted(node)
    if not name:
        # An attribute of a value: private ones lead out of it.
        return not (isinstance(node, ast.Attribute) and node.attr.startswith("_"))
    root, *attributes = name.split(".")
    if any(attribute.startswith("_") for attribute in attributes):
        return False
    if root in own or (root in KNOWN_BUILTINS and not attributes):
        return True
    return bool(attributes) and root not in vars(builtins) and is_known_component(name)


def is_known_component(name: str) -> bool:
    """
    Whether a name stands for a class, function or constant of the packages that bundles are made of.

    Where it is defined counts, not the way to it: ``monai.transforms.io.array.os.system`` is not known.

    Args:
        name: dotted, or as MONAI's ``_target_`` a bare name of one of its own components.
    """
    if "." not in name:
        found = _components().get_component_module_name(name)
        modules = found if isinstance(found, list) else [found]
        return bool(found) and all(_is_in_known_package(str(module)) for module in modules)
    if name in KNOWN_NAMES:
        return True
    root, *parts = name.split(".")
    if root not in KNOWN_ROOTS or any(part.startswith("_") for part in parts):
        return False
    found = _resolve(name)
    if isinstance(found, torch.dtype):
        return True
    # A method is known where its class is.
    return _is_in_known_package(getattr(found, "__module__", None) or "")


@cache
def _components() -> ComponentLocator:
    return ComponentLocator()


def _resolve(name: str) -> Any:
    """The object of a dotted name in an installed package that is known; None if there is none."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
            for part in parts[length:]:
                found = getattr(found, part)
            return found
        except (ImportError, AttributeError):
            continue
    return None


def _is_in_known_package(module: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in KNOWN_PACKAGES)


# ---- other files ----


def _in_logging(path: Path, name: str) -> Iterator[Finding]:
    """Python evaluates ``class`` and ``args`` of a logging.conf."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, configparser.Error) as error:
        yield Finding(name, "", f"cannot be read ({type(error).__name__})", False)
        return
    for section in parser.sections():
        for key, value in parser.items(section):
            plain = {
                "class": value in ("StreamHandler", "FileHandler", "logging.Formatter", "Formatter"),
                "args": PLAIN_LOGGING.fullmatch(value) is not None,
                "kwargs": False,
            }
            if not plain.get(key, True):
                yield Finding(name, f"{section}#{key}", value, False)


def _in_weights(path: Path, name: str) -> Iterator[Finding]:
    """What a weight file names besides tensors, from its opcodes: nothing is loaded, whatever its size."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if any(re.search(r"(^|/)code/", entry) for entry in names):
                    yield Finding(name, "", "a TorchScript program", False)
                    return
                programs = [io.BytesIO(archive.read(entry)) for entry in names if entry.endswith(".pkl")]
                unsafe = sorted({one for program in programs for one in _globals(program)} - SAFE_GLOBALS)
        else:
            with path.open("rb") as stream:
                unsafe = sorted(_globals(stream) - SAFE_GLOBALS)
    except Exception as error:  # whatever a hostile file makes the readers stumble over
        yield Finding(name, "", f"cannot be read as weights ({type(error).__name__})", False)
        return
    if unsafe:
        yield Finding(name, "", f"a pickle that calls {', '.join(unsafe)}", False)


# torch.save before 1.6 wrote five pickles, then the values.
PICKLES_IN_OLD_FILES = 5
SAFE_GLOBALS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.serialization._get_layout",
    *(f"torch.{kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16")),
    *(f"torch.{kind}Storage" for kind in ("Long", "Int", "Short", "Char", "Byte", "Bool")),
    "torch.storage.UntypedStorage",
}


def _globals(stream: Any) -> set[str]:
    """The names that the pickles of a stream would import."""
    found: set[str] = set()
    for _ in range(PICKLES_IN_OLD_FILES):
        strings: list[str] = []
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("GLOBAL", "INST"):
                found.add(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                # torch.save writes none; what is on the stack cannot be told for sure.
                found.add(f"{'.'.join(strings[-2:])} (by name on the stack)")
            elif isinstance(argument, str):
                strings.append(argument)
        start = stream.tell()
        if not stream.read(1):
            break
        stream.seek(start)
    return found
