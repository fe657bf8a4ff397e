"""Resolve a name to an entry of a table, or to a part of the user's own package.

`package.module:Name` names a part of another package. Importing it runs that package's code, so
the user must have named it in this process: typed it, or its package as in `plugins=[package]`. A
name that only a run folder or a checkpoint brings is refused.
"""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from gptlab.utils.errors import UserError, did_you_mean, invalid_choice

T = TypeVar("T")
PLUGIN_FORM = "package.module:Name"  # how help and errors describe a reference
MODULE = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
REFERENCE = re.compile(rf"{MODULE}:[^\W\d]\w*")
TRUSTABLE = re.compile(rf"{MODULE}(?::[^\W\d]\w*)?")
trusted: set[str] = set()  # packages, modules and references that the user has named


class PluginError(UserError):
    """Raised for a part of another package that is not trusted, missing or of the wrong kind."""


def is_reference(name: Any) -> bool:
    """Whether this names a part of another package."""
    return isinstance(name, str) and REFERENCE.fullmatch(name) is not None


def trust(names: str | Iterable[str]) -> None:
    """Allow imports of these packages, modules or references until the process ends.

    Pass only names that the user has typed. Raises UserError for a text that is no such name.
    """
    for name in [names] if isinstance(names, str) else names:
        if not TRUSTABLE.fullmatch(name):
            raise UserError(f"plugins={name}: must be the name of a package, as in plugins=[mypkg]")
        trusted.add(name)


def trust_arguments(arguments: list[str]) -> list[str]:
    """Trust the packages of each `plugins=[…]`; return the other arguments."""
    values = (a.removeprefix("plugins=") for a in arguments if a.startswith("plugins="))
    trust(name.strip("'") for value in values for name in value.strip("[]").split(","))
    return [argument for argument in arguments if not argument.startswith("plugins=")]


def require_trust(names: Iterable[Any]) -> None:
    """Raise PluginError if any of these names is a reference that is not trusted."""
    foreign = [name for name in dict.fromkeys(names) if is_reference(name) and not is_trusted(name)]
    if foreign:
        packages = plugin_packages(foreign)
        which = "that package" if len(packages) == 1 else "these packages"
        raise PluginError(
            f"uses {', '.join(foreign)}; if you trust {which}, add plugins=[{','.join(packages)}]"
        )


@contextlib.contextmanager
def plugin_errors_in(place: object) -> Iterator[None]:
    """Begin the message of a PluginError with the file or key that names the part."""
    try:
        yield
    except PluginError as error:
        raise PluginError(f"{place}: {error}") from None


def is_trusted(reference: str) -> bool:
    module = reference.partition(":")[0]
    return reference in trusted or any(f"{module}.".startswith(f"{name}.") for name in trusted)


def plugin_packages(names: Iterable[Any]) -> list[str]:
    """Return the top-level packages of the references among these names."""
    return list(dict.fromkeys(re.split("[.:]", name)[0] for name in filter(is_reference, names)))


def plugins_argument(names: Iterable[Any]) -> list[str]:
    """Return the argument that trusts these names' packages; an empty list if there are none."""
    packages = ",".join(plugin_packages(names))
    return [f'"plugins=[{packages}]"'] if packages else []  # quotes that suit every shell


def resolve_choice(
    key: str, name: str, table: Mapping[str, T], base: type | tuple[type, ...] = object
) -> T:
    """Return the table's entry of this name, or the part of another package that it names.

    `base`: class that a class of another package must inherit from. Raises UserError for an unknown
    name, PluginError for a part that is not trusted, missing or of the wrong kind.
    """
    if name in table:
        return table[name]
    if not is_reference(name):
        raise UserError(invalid_choice(key, name, table))
    part = import_part(key, name)
    if base is not object and not (isinstance(part, type) and issubclass(part, base)):
        bases = " or ".join(b.__name__ for b in (base if isinstance(base, tuple) else (base,)))
        raise PluginError(f"{key}={name}: must be a subclass of {bases}")
    if callable(example := next(iter(table.values()))):
        check_signature(key, name, part, example)
    return part


def import_part(key: str, name: str) -> Any:
    """Import a trusted part, from the current folder if its package is not installed."""
    with plugin_errors_in(key):
        require_trust([name])
    module_name, _, attribute = name.partition(":")
    package = module_name.partition(".")[0]
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        with contextlib.suppress(OSError):  # the folder was deleted
            # The last place to look: a file here must not replace a module that others import.
            sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # it may raise anything
        reason = describe_import_error(error, module_name)
        raise PluginError(f"{key}={name}: cannot import {module_name} ({reason})") from None
    if not hasattr(module, attribute):
        where = getattr(module, "__file__", None) or module_name
        raise PluginError(
            f"{key}={name}: {where} has no {attribute}" + did_you_mean(attribute, vars(module))
        )
    return getattr(module, attribute)


def describe_import_error(error: BaseException, module: str) -> str:
    """Describe the exception in one line, with its file and line in the user's package."""
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        parent = sys.modules.get(str(error.name).rpartition(".")[0])
        places = list(parent.__path__) if parent else [os.getcwd(), "the installed packages"]
        return f"there is no {error.name} in {' and '.join(places)}"
    frames = [
        (frame.filename, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    if isinstance(error, SyntaxError):
        frames.append((str(error.filename), error.lineno))
    place = "{}, line {}: ".format(*frames[-1]) if frames else ""
    reason = str(error).strip().split("\n")[0]
    return f"{place}{type(error).__name__}" + (f": {reason}" if reason else "")


@functools.cache
def check_signature(key: str, name: str, part: Any, example: Any) -> None:
    """Raise PluginError unless the part takes as many arguments as gptlab's own example."""
    if not callable(part):
        raise PluginError(f"{key}={name}: must be a function or class, not {type(part).__name__}")
    try:
        arguments = list(inspect.signature(example).parameters)
        signature = inspect.signature(part)
    except ValueError:  # a builtin without a signature
        return
    try:
        if arguments:
            signature.bind(*arguments)
    except TypeError:
        raise PluginError(
            f"{key}={name}: must take the arguments ({', '.join(arguments)}), but takes {signature}"
        ) from None
