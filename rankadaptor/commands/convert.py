"""convert: a checkpoint that ships pickled weights alone, written as safetensors once."""

from typing import Annotated

import typer

from rankadaptor.commands.groups import Profile


def convert(
    model: Annotated[str, typer.Argument(
        envvar="RANKADAPTOR_MODEL", metavar="[MODEL]",
        help="ORGANISATION/NAME@COMMIT of the hub, or a folder; the profile's model by default.")] = "",
    profile: Profile = "tiny",
) -> None:
    """Write pickled weights as safetensors, once. Into the cache; no other command opens pickles (minutes)."""
    from rankadaptor.errors import BadInput
    from rankadaptor.models.conversion import convert as convert_checkpoint
    from rankadaptor.profiles import load_profile

    if not model:
        base = load_profile(profile).base_model
        if base.source.kind != "hub":
            raise BadInput(f"profile {profile} needs no conversion: name a MODEL of the hub, or a folder")
        model = base.source.location
    print(f"converting {model}: a file of 10 GB takes some minutes", flush=True)
    print(convert_checkpoint(model))
