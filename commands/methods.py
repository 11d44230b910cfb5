"""Load methods: a network with its weights, or a method that needs none."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from lemamba.commands.adapting import STEPS, Adapting
from lemamba.engine.weights.files import load_weights, open_weights, weights_meta
from lemamba.model import build_model, model_class, model_entry
from lemamba.model.classical.coupled import Coupled
from lemamba.model.convert import convert_state_dict
from lemamba.operators.observation import start
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts

GENERIC = "generic"  # weights that serve any sensor, used where no method is named


def load_method(name: str | None, weights: str | None, facts: DataFacts, adapt_steps: int | None = None) -> nn.Module:
    """Build a method for some data; return it in evaluation mode. Its registered name is its `model_name`.

    Args:
        name: registered name; None = the one that the weights name.
        weights: run, file or ``dlpan:FILE``; None for methods that need none.
        facts: bands, guide bands, ratio and sensor of the data.
        adapt_steps: of a method that trains on the images that it fuses, see `Adapting`; None = as in its paper.

    Raises:
        UserError: neither a name nor weights, a network without weights, weights that fit neither the name nor the
            data, or steps for a method that does not adapt.
    """
    method = _load_method(name, weights, facts)
    if str(method.model_name) in STEPS:
        return Adapting(method, facts, pretrained=weights is not None, steps=adapt_steps).eval()
    if adapt_steps is not None:
        raise UserError(
            f"{method.model_name} takes no --adapt_steps, only {', '.join(STEPS)} do; drop it or choose one of these"
        )
    return method


def _load_method(name: str | None, weights: str | None, facts: DataFacts) -> nn.Module:
    known = {**sizes_of(facts), "sensor": facts.sensor, "geometry": facts.geometry}
    if weights is not None:
        return load_network(name, weights, known)
    if name is None:
        raise UserError(
            "expected --weights (a trained network) or --arch (a method that needs none), given neither; name one"
        )
    entry = model_entry(name)
    if entry.traits.needs_weights:
        raise UserError(f"{entry.name} is a learned network and needs --weights; train it or give a weight file")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a method that starts from drawn weights gives the same image every time
        method = build_model(name, **_taken(name, known)).eval()
    if isinstance(method, Coupled) and facts.response is not None and facts.psf is not None:
        seen = start(facts.geometry, torch.tensor(facts.response, dtype=torch.float64), 1.0)
        method.observed = replace(seen, psf=torch.tensor(facts.psf, dtype=torch.float64))
    return method


def load_network(name: str | None, weights: str, wanted: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a network with its weights; return it in evaluation mode.

    Args:
        name: registered name; None = the one that the weights name.
        weights: see `load_method`.
        wanted: constructor arguments that follow from the data: those of `sizes_of`, sensor and geometry. None = those
            of the weights.

    Raises:
        UserError: see `load_method`; or the constructor arguments are unknown.
    """
    file = open_weights(weights)
    described = file.meta.get("model", {})
    name_there = described.get("name") or name
    if name_there is None:
        raise UserError(f"{file.path} does not name its network; add --arch")
    if name is not None and not issubclass(model_class(name), model_class(name_there)):
        raise UserError(
            f"{file.path} holds weights of {name_there}, given the name {name}; drop the name or use other weights"
        )
    name_there = name or name_there  # Z-PNN adapts weights of A-PNN: their networks are the same
    arguments = described.get("args") or (None if wanted is None else _taken(name_there, wanted))
    if arguments is None:
        raise UserError(f"{file.path} does not name its number of bands; give bands, guide_bands and ratio")
    if any_size(name_there):
        arguments = {**arguments, **_taken(name_there, wanted or {})}
    check_sizes(str(file.path), arguments, wanted or {})
    network = build_model(name_there, **arguments)
    return load_weights(network, file, partial(convert_state_dict, name_there)).eval()


def any_size(name: str) -> bool:
    """Return whether the weights of a network serve data of any number of bands, ratio and sensor."""
    return model_entry(name).traits.any_size


def _taken(name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the known arguments that a method's constructor has."""
    taken = inspect.signature(model_class(name)).parameters
    return {key: value for key, value in known.items() if key in taken}


def sizes_of(facts: DataFacts) -> dict[str, int]:
    """Return the constructor arguments of a network that follow from the data."""
    bands = {"img_channel": facts.bands, "condition_channel": facts.guide_bands, "out_channel": facts.bands}
    return {**bands, "ratio": facts.ratio}


def check_sizes(source: str, arguments: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise a `UserError` if a network was built with `arguments` that are not those that the data need."""
    for key in ("img_channel", "condition_channel", "out_channel", "ratio"):
        given = wanted.get(key)
        if given is not None and arguments.get(key, given) != given:
            raise UserError(
                f"{source} was trained with {key} {arguments[key]}, the data have {given}; use matching data"
            )


def trained_on(weights: str | None) -> dict[str, Any]:
    """Return the facts about the training data (dataset, sensor, divisor) that are stored with weights, or {}.

    Weights that serve any sensor say nothing of the data that they are used for: {}.
    """
    meta = weights_meta(weights) if weights else {}
    return {} if _any_size_meta(meta) else meta.get("data", {})


def serve_any_size(weights: str) -> bool:
    """Return whether weights name a network that serves data of any number of bands, ratio and sensor."""
    return _any_size_meta(weights_meta(weights))


def _any_size_meta(meta: Mapping[str, Any]) -> bool:
    name = meta.get("model", {}).get("name")
    return bool(name) and any_size(name)
