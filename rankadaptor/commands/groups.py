"""What the commands of this command line have in common: how they are declared, and options that several take."""

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

# Where the names stand that help and errors list: module, attribute.
REGISTRIES = {
    "profiles": ("rankadaptor.profiles", "names"),
    "pruners": ("rankadaptor.pruning.spec", "PRUNERS"),
    "width_criteria": ("rankadaptor.pruning.spec", "UNIT_CRITERIA"),
    "depth_criteria": ("rankadaptor.pruning.spec", "BLOCK_CRITERIA"),
    "reductions": ("rankadaptor.pruning.spec", "GROUP_REDUCTIONS"),
    "scalings": ("rankadaptor.recovery.spec", "SCALINGS"),
    "executors": ("rankadaptor.pipeline.execution", "EXECUTORS"),
    "ablations": ("rankadaptor.experiments.ablations", "ABLATIONS"),
}

Ledger = Annotated[str, typer.Option(envvar="RANKADAPTOR_LEDGER", help="Folder of finished results.")]
Profile = Annotated[str, typer.Option(envvar="RANKADAPTOR_PROFILE", help="{profiles}, or a YAML file.")]
Reports = Annotated[str, typer.Option(envvar="RANKADAPTOR_REPORTS", help="Folder of reports.")]
Model = Annotated[str, typer.Argument(
    metavar="MODEL", help="Folder with config.json, safetensors and tokenizer, or ORGANISATION/NAME@COMMIT of the hub.",
)]
Out = Annotated[Path, typer.Option(help="Folder to be made.")]


def registered(registry: str) -> list[str]:
    """The names of one of `REGISTRIES`."""
    module, attribute = REGISTRIES[registry]
    names: Any = getattr(importlib.import_module(module), attribute)
    listed: Iterable[str] = names() if callable(names) else names
    return list(listed)


class Command(TyperCommand):
    """A command whose help may name registries in braces, which are read only where that help is shown."""

    def get_help(self, ctx: Any) -> str:
        """The help of the command, with the names of registries filled in."""
        for parameter in self.params:
            text = getattr(parameter, "help", None) or ""
            for registry in REGISTRIES:
                if (name := f"{{{registry}}}") in text:
                    text = text.replace(name, ", ".join(registered(registry)))
            parameter.help = text  # type: ignore[attr-defined]
        return super().get_help(ctx)


def group(help_text: str) -> typer.Typer:
    """An empty group of commands."""
    return typer.Typer(help=help_text, rich_markup_mode=None, add_completion=False, no_args_is_help=False)


def takes(options: type, command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the fields of a dataclass as its options, and an instance of it as its first argument.

    Args:
        options: A dataclass; annotations of its fields are typer's.
        command: Its other parameters are options and arguments as well.
    """
    names = [field.name for field in fields(options)]
    shared = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, annotation=field.type,
                          default=inspect.Parameter.empty if field.default is MISSING else field.default)
        for field in fields(options)
    ]
    others = list(inspect.signature(command).parameters.values())[1:]

    def run(**values: Any) -> None:
        given = options(**{name: values.pop(name) for name in names})
        command(given, **values)

    parameters = [*(other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others), *shared]
    run.__doc__ = command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
