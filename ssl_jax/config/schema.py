"""The declaration of a whole config: the shared keys, and those that names in the config decide.

`method.name` decides the keys of `method`, `model.name` those of `model`, `nets.ROLE.name` those of
that net, `adapt.name` those of `adapt`, `data.name` those of `data.options`, `data.sampler.name`
those of `data.sampler`, and `views.ops` which ops have all their parameters. The declarations stand
beside the code that reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_jax.config import fields
from ssl_jax.config.base import shared_keys
from ssl_jax.config.fields import Key, Section

# Of a net: that of the run or folder that this run starts from; see `from_pretrained`.
INIT_FROM = "init_from"
# A section whose other keys are not known yet.
_ANY_NAME = Section({"name": Key(str | None, None, "Of the method or net.")}, others=Any)


def schema(config: Mapping[str, Any]) -> Section:
    """Declares every key of a config.

    A section that names no method or net takes any keys, and so does a net of `init_from`.

    Args:
      config: a ConfigDict or mapping.

    Raises:
      UserError: there is no method or net of a name, or a key that all configs share is unknown or
        has a bad value.
    """
    from ssl_jax import adapt
    from ssl_jax.core import named_methods
    from ssl_jax.data import catalog
    from ssl_jax.data.samplers import registry as samplers
    from ssl_jax.models import registry as models
    from ssl_jax.views import recipe

    shared = shared_keys(config).replace(
        method=_ANY_NAME, model=_ANY_NAME, nets=Section({}, others=_ANY_NAME)
    )
    config = fields.check(shared, config, "")

    def net(where: str, name: str | None, known: Mapping[str, Any]) -> Section:
        return _ANY_NAME if name in (None, INIT_FROM) else models.declaration(name, where, known)

    nets = {
        role: Key(net(f"nets.{role}", options["name"], models.NETS))
        for role, options in config["nets"].items()
    }
    name = config["method"]["name"]
    data = shared.keys["data"].type
    # What the options that are not set default to may depend on the data. That a name is not one of
    # a data set is found where it is opened.
    kind = catalog.kinds().get(config["data"]["name"].partition(":")[0])
    options = kind.options(config["data"]["options"]).partial() if kind else Mapping[str, Any]
    sampler = samplers.declaration(config["data"]["sampler"]["name"])
    return shared.replace(
        method=_ANY_NAME if name is None else named_methods.declaration(name),
        model=net("model", config["model"]["name"], models.ENCODERS),
        adapt=adapt.declaration(config["adapt"]["name"]),
        nets=Section(nets, others=_ANY_NAME),
        views=recipe.declaration(config["views"]),
        data=fields.section(data).replace(sampler=sampler, options=options),
    )
