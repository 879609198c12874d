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
    "criteria": ("rankadaptor.commands.pruning", "criteria_by_pruner"),
    "reductions": ("rankadaptor.pruning.spec", "GROUP_REDUCTIONS"),
    "scalings": ("rankadaptor.recovery.recipe", "SCALINGS"),
    "executors": ("rankadaptor.pipeline.execution", "EXECUTORS"),
    "ablations": ("rankadaptor.experiments.ablations", "ABLATIONS"),
}


def not_blank(name: str, default: str) -> Callable[[str], str]:
    """A callback of an option: empty is its default, as of a variable of make; nothing but spaces is refused."""
    def checked(value: str) -> str:
        from rankadaptor.experiments.parameters import text

        return text(name, value, default)

    return checked


Ledger = Annotated[str, typer.Option(
    envvar="RANKADAPTOR_LEDGER", help="Folder of finished results.", callback=not_blank("ledger", "ledger"))]
Profile = Annotated[str, typer.Option(
    envvar="RANKADAPTOR_PROFILE", help="{profiles}, or a YAML file.", callback=not_blank("profile", "tiny"))]
Reports = Annotated[str, typer.Option(
    envvar="RANKADAPTOR_REPORTS", help="Folder of reports.", callback=not_blank("reports", "reports"))]
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
        """The text of --help."""
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
