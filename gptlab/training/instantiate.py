"""Instantiate the callbacks and loggers that a configuration names, and explain their errors."""

import contextlib
import functools
import traceback
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gptlab.config.schema import TrainConfig
from gptlab.utils.errors import UserError, failure_line


def import_target(name: str, settings: Any, kind: type) -> functools.partial[Any]:
    """Import the class in `_target_` and bind its settings; raise UserError if it is no `kind`."""
    from hydra.errors import HydraException
    from hydra.utils import instantiate

    if not isinstance(settings, dict) or "_target_" not in settings:
        raise UserError(f"{kind.__name__.lower()} {name}: needs a class: {name}._target_=CLASS")
    try:
        target = instantiate(settings, _partial_=True)
    except HydraException as error:
        raise cannot_instantiate(name, settings, error.__cause__ or error) from None
    if isinstance(target.func, type) and not issubclass(target.func, kind):
        raise wrong_kind(name, settings, kind)
    return target


def instantiate_target(name: str, settings: Any, kind: type, arguments: dict[str, Any]) -> Any:
    """Instantiate the class in `_target_`; its settings override these arguments.

    Raises UserError if that fails, or if the result is not a `kind`.
    """
    target = import_target(name, settings, kind)
    try:
        part = target.func(*target.args, **(arguments | target.keywords))
    except Exception as error:
        raise cannot_instantiate(name, settings, error) from None
    if not isinstance(part, kind):
        raise wrong_kind(name, settings, kind)
    return part


def cannot_instantiate(name: str, settings: dict[str, Any], error: BaseException) -> UserError:
    return UserError(f"{name}: {settings['_target_']} cannot be instantiated: {first_line(error)}")


def wrong_kind(name: str, settings: dict[str, Any], kind: type) -> UserError:
    target = settings["_target_"]
    return UserError(f"{name}: {target} is not a subclass of Lightning's {kind.__name__}")


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def instantiate_callbacks(config: TrainConfig) -> list[Callback]:
    """Instantiate the user's own callbacks."""
    return [instantiate_target(name, part, Callback, {}) for name, part in config.callbacks.items()]


@contextlib.contextmanager
def explain_callback_errors(config: TrainConfig) -> Iterator[None]:
    """Turn an error about settings, by Lightning or one of its callbacks, into a UserError.

    Other errors in the user's own callbacks are bugs, and keep their traceback.
    """
    try:
        yield
    except Exception as error:
        name, by_lightning = raising_callback(error, config)
        known = isinstance(error, RuntimeError | ValueError | ImportError) and by_lightning
        if failure_line(error) or not (known or isinstance(error, MisconfigurationException)):
            raise
        source = f"callbacks.{name}" if name else "Lightning cannot train with these settings"
        raise UserError(f"{source}: {' '.join(str(error).split())}") from None


def raising_callback(error: Exception, config: TrainConfig) -> tuple[str | None, bool]:
    """Return the name of the configured callback that raised, and whether it is Lightning's own."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        kind = type(frame.f_locals.get("self"))
        for name, settings in config.callbacks.items():
            if settings["_target_"].rpartition(".")[2] == kind.__name__:
                return name, kind.__module__.startswith("lightning.")
    return None, False
