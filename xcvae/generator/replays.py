"""Draws on a GPU replayed as CUDA graphs: all kernels of a pass, launched by one call.

A pass down the ladder takes some hundred kernels, each so short that launching them one by one
takes as long as running them. A CUDA graph records the launches once, with the places of inputs and
outputs in memory, and repeats them for new inputs. The kernels, and with them the bits of the
members, are those of a draw without graphs, unless they are compiled first.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from xcvae.errors import warn_user
from xcvae.generator.device import Placement, autocast, compiled, compiles, precision
from xcvae.generator.network.ladder import Encoded, Ladder
from xcvae.generator.noise import Window, maps_of

#: A pass of the network: `Ladder.encode` or `Ladder.descend`.
Pass = Callable[..., Any]
#: Graphs that are kept: each owns the memory of its maps.
MOST = 4
#: Passes before the recording, in which kernels are chosen and loaded.
WARM_UP = 2


@dataclass(frozen=True)
class _Recording:
    """A recorded call: its graph, the tensors that it reads, and its result."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    result: Any

    def __call__(self, inputs: Sequence[Tensor]) -> Any:
        torch._foreach_copy_(self.inputs, list(inputs))
        self.graph.replay()
        # The next replay writes to the same place.
        return mapped(torch.clone, self.result)


class Replays:
    """Passes through a ladder on a GPU, recorded once for each shape and set of options.

    Parameters
    ----------
    network
        The ladder, on a GPU. Its weights must not change afterwards.
    compile
        Compile the passes, each recording for itself.
    """

    def __init__(self, network: Ladder, *, compile: bool = False) -> None:
        self.source = network
        self.device = next(network.parameters()).device
        self._network, self._compile = self._cast(network), compile
        self._compiled: dict[Hashable, Callable[..., Any]] = {}
        self._recordings: OrderedDict[Hashable, _Recording | None] = OrderedDict()
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Drop all recordings: their memory is their own, and no other draw gets it."""
        with self._lock:
            self._recordings.clear()

    def encode(self, c: Tensor, pooled: Tensor | None, x: Tensor | None, *, side: int) -> Encoded:
        """Return the result of `Ladder.encode`."""

        def encode(run: Pass, c: Tensor, pooled: Tensor | None, x: Tensor | None) -> Encoded:
            found: Encoded = run(c, pooled, x, side=side)
            return found

        method = self._network.encode
        encoded: Encoded = self._replayed(("encode", side), method, encode, [c, pooled, x])
        return encoded

    def descend(
        self,
        encoded: Encoded,
        rows: Tensor,
        words: Tensor,
        windows: Sequence[Window],
        order: Tensor | None,
        **options: Any,
    ) -> Tensor:
        """Return the output of `Ladder.descend`.

        Parameters
        ----------
        encoded
            Features of some samples.
        rows
            Row of ``encoded`` for each member, (members,).
        words
            Of the members' addresses, see `words_on`.
        windows
            All levels of the domain.
        order
            Words of the addresses of the deviates that decide which latents are released first,
            or None.
        options
            Of `Ladder.descend`: ``ceilings``, a tensor, and others.
        """
        ceilings, released = options.pop("ceilings"), options["released"]

        def descend(
            run: Pass, encoded: Encoded, addresses: list[Tensor], *others: Tensor | None
        ) -> Tensor:
            (rows, words), (order, ceilings), own = addresses, others, dict(options)
            if order is not None:
                partly = [w for w in windows if 0 < released[w.level] < 1]
                ranks = dict(zip(partly, maps_of(order, partly), strict=True))
                own["order"] = [ranks.get(window) for window in windows]
            known = encoded.take(rows)
            found: Tensor = run(known, maps_of(words, windows), ceilings=ceilings, **own).output
            return found

        name = "descend", tuple(windows), repr(options)
        inputs = [encoded, [rows, words], order, ceilings]
        output: Tensor = self._replayed(name, self._network.descend, descend, inputs)
        return output

    def _replayed(
        self, name: Hashable, method: Pass, call: Callable[..., Any], arguments: list[Any]
    ) -> Any:
        """Replay a call, recorded first if it is new; without a graph where CUDA refuses one.

        The call is given the pass of the network, a method that may be compiled first.
        """
        inputs = tensors_of(arguments)
        layouts = tuple((tuple(one.shape), one.stride(), one.dtype) for one in inputs)
        key = (name, layouts, self.source.sigma_factors)
        with self._lock, torch.inference_mode():
            self._network.sigma_factors = self.source.sigma_factors
            function = functools.partial(call, self._pass(key, method))
            if key not in self._recordings:
                self._recordings[key] = self._recorded(function, arguments)
                while len(self._recordings) > MOST:
                    self._recordings.popitem(last=False)
            self._recordings.move_to_end(key)
            recording = self._recordings[key]
            if recording is None:
                return self._called(function, arguments)
            return recording(inputs)

    def _pass(self, key: Hashable, method: Pass) -> Pass:
        """Return a pass of the network; compiled ones stay when their recordings are dropped."""
        if not self._compile:
            return method
        if key not in self._compiled:
            self._compiled[key] = compiled(method, wanted=True)
        return self._compiled[key]

    def _recorded(self, function: Callable[..., Any], arguments: list[Any]) -> _Recording | None:
        """Record a call; None if CUDA refuses or the result differs, with a warning that says why.

        It is recorded for zeros and compared for the arguments: a recording that kept something of
        the call that it was made in would give other results.
        """
        blank = mapped(torch.zeros_like, arguments)
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._called(function, blank)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads go on copying and allocating.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                result = self._called(function, blank)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _warn(str(error).splitlines()[0])
            return None
        recording = _Recording(graph, tensors_of(blank), result)
        pairs = zip(
            tensors_of(recording(tensors_of(arguments))),
            tensors_of(self._called(function, arguments)),
            strict=True,
        )
        if not all(torch.equal(one, other) for one, other in pairs):
            _warn("it gives other values")
            return None
        return recording

    def _called(self, function: Callable[..., Any], arguments: list[Any]) -> Any:
        with autocast(self.device):
            return function(*arguments)

    def _cast(self, network: Ladder) -> Ladder:
        """Return a copy with the weights in the precision of its convolutions.

        Autocast would convert them anew in every pass.
        """
        own = copy.deepcopy(network)
        if precision(self.device) == "bfloat16":
            for module in own.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(torch.bfloat16)
        return own


class ModelReplays:
    """Replays of the networks of a model, which its models of other names share."""

    def __init__(self) -> None:
        self._how: Hashable = None
        self._made: list[Replays] = []
        self._compile = True

    def of(self, networks: Sequence[Ladder], placement: Placement) -> list[Replays]:
        """Return a replay per network on a GPU, none on a CPU.

        They are made again if the networks were moved, or a setting of the environment changed.
        """
        device = placement.device
        if device.type != "cuda":
            return []
        compile = self._compile and compiles(device)
        how = placement.moves, precision(device), compile
        if how != self._how or not self._made:
            self.drop()
            self._made = [Replays(one, compile=compile) for one in networks]
            self._how = how
        return self._made

    def drop(self) -> None:
        """Drop all replays: they have memory of their device."""
        self._how, self._made = None, []

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Compile nothing in a context: for draws of many kinds, each of few fields."""
        self._compile = False
        try:
            yield
        finally:
            self._compile = True


def _warn(reason: str) -> None:
    warn_user(f"draws without a CUDA graph: {reason}")


def mapped(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply a function to all tensors of lists and encoded features."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list):
        return [mapped(function, one) for one in value]
    if isinstance(value, Encoded):
        maps = {name: mapped(function, one) for name, one in vars(value).items()}
        return replace(value, **maps)
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Return all tensors of lists and encoded features, in the order of `mapped`."""
    found: list[Tensor] = []
    mapped(found.append, value)
    return found
