"""The way from pixels to a chunk, with everything that can be computed before an observation comes done.

Per checkpoint: the expert's modulations at its fixed flow times. Per instruction and view sizes: token
embeddings, rotary tables, masks and slots. Per observation only tensor operations are left, none of which
reads from the device, so that on CUDA they run as graphs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from twinbrain_ros.brain.asymot import LeftMemory
from twinbrain_ros.brain.config import CameraInput
from twinbrain_ros.brain.decoder import Side
from twinbrain_ros.brain.devices import settle
from twinbrain_ros.brain.expert import Context, FlowTime
from twinbrain_ros.brain.graphs import CapturedCall, GraphPool
from twinbrain_ros.brain.preprocess import PatchLayout, fitting_size, resize
from twinbrain_ros.brain.prompt import PromptBatch
from twinbrain_ros.brain.realtime import Target, guided, prefixed
from twinbrain_ros.brain.twin import Prepared, TwinBrain

KEPT_PROMPTS = 16  # prepared prompts that are kept; each holds embeddings of a few hundred tokens
KEPT_GRAPHS = 32
LENGTH_BUCKET = 16  # on CUDA prompts are padded to multiples of this, so that most instructions share a graph

Size = tuple[int, int]  # height and width, pixels


@dataclass(frozen=True)
class View:
    """What happens to one camera's image: cut to `crop` (left, top, right, bottom), then brought to `steps`
    [height, width] one after the other. All in pixels."""

    name: str
    steps: tuple[Size, ...]
    crop: tuple[int, int, int, int] | None = None


def view_of(
    camera: CameraInput, height: int, width: int, layout: PatchLayout, limits: tuple[int, int] | None
) -> View:
    """How an image of this size gets to where the brains see it; limits: `TwinBrainConfig.pixel_limits`.

    Raises ValueError if it does not fit the vision tower.
    """
    crop = None
    if camera.crop is not None:
        left, top, right, bottom = camera.crop
        crop = (round(left * width), round(top * height), round(right * width), round(bottom * height))
        width, height = crop[2] - crop[0], crop[3] - crop[1]
    first = (camera.height or height, camera.width or width)
    if limits is None:
        layout.grid(*first)
        return View(camera.name, (first,), crop)
    return View(camera.name, (first, fitting_size(*first, layout.factor, limits)), crop)


def scale(images: Tensor, view: View) -> Tensor:
    """uint8 [N, H, W, 3] as the brains see it."""
    if view.crop is not None:
        left, top, right, bottom = view.crop
        images = images[:, top:bottom, left:right]
    for height, width in view.steps:
        images = resize(images, height, width)
    return images


class TwinEngine:
    """Runs a twin that is not being trained. Not thread-safe: one caller at a time.

    graphs: record and replay CUDA graphs; default where the device can. tell: called with a line when a graph
    has to be recorded while somebody may wait for the result (`warm` is set, by `TwinBrainPolicy.warm_up`).
    """

    def __init__(self, model: TwinBrain, graphs: bool | None = None) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        settle(self.device)
        self.graphs = self.device.type == "cuda" if graphs is None else graphs
        self.warm = False
        self.tell: Callable[[str], None] = lambda line: None
        self._pool: GraphPool | None = None
        self._prepared: OrderedDict[Any, Prepared] = OrderedDict()
        self._calls: OrderedDict[Any, Callable[..., Sequence[Tensor]]] = OrderedDict()
        self._schedule: list[tuple[Tensor, FlowTime]] = []
        # What constants are made of; walking the modules for it in every chunk would cost more than the look.
        tables = [brain.get_input_embeddings().weight for brain in model.brains()]
        self._watched = [*tables, *model.expert.parameters()]
        self._weights: tuple[int, ...] = ()

    @property
    def bucket(self) -> int:
        """What prompt lengths are padded to a multiple of."""
        return LENGTH_BUCKET if self.graphs else 1

    @torch.inference_mode()
    def prepare(self, key: Any, make: Callable[[], tuple[PromptBatch, PromptBatch]]) -> Prepared:
        """Left and right prompts ready for use; `make` is asked for them when `key` is not known yet."""
        self._follow_weights()
        if key not in self._prepared:
            self._prepared[key] = self.model.prepare(*make())
            if len(self._prepared) > KEPT_PROMPTS:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    def forget_prompts(self) -> None:
        """What was prepared is prepared anew: the same instruction has another prompt from now on."""
        self._prepared.clear()

    def _follow_weights(self) -> None:
        """Forgets what was computed from other weights: a policy may act between steps of its training."""
        found = (self._watched[0].data_ptr(), sum(p._version for p in self._watched))
        if found != self._weights:
            self._weights = found
            self._prepared.clear()
            self._calls.clear()
            expert = self.model.expert
            # Gradients pass it where a chunk is guided, which tensors of inference mode do not allow.
            with torch.inference_mode(False), torch.no_grad():
                self._schedule = expert.schedule(ends=expert.ends())

    # -- the hot path

    @torch.inference_mode()
    def see(self, images: Mapping[str, Tensor], views: Sequence[View]) -> dict[str, Tensor]:
        """Raw camera images, uint8 [B, H, W, 3] each, at the size in which both brains see them."""

        def fit(*raw: Tensor) -> list[Tensor]:
            return [scale(image, view) for image, view in zip(raw, views, strict=True)]

        pixels = self._call("see", tuple(views), fit, [images[v.name] for v in views])
        return {v.name: t for v, t in zip(views, pixels, strict=True)}

    @torch.inference_mode()
    def remember(self, pixels: Mapping[str, Tensor], prepared: Prepared) -> LeftMemory:
        """The left brain's keys and values for images as of `see`; none where there is no left brain."""
        if self.model.left is None:
            return LeftMemory()
        names = self.model.config.left_cameras

        def left(*tensors: Tensor) -> list[Tensor]:
            side = _rebuilt(prepared.left, tensors[len(names) :])
            memory = self.model.remember_left(dict(zip(names, tensors, strict=False)), side)
            return [t for i in sorted(memory.pairs) for t in memory.pairs[i]]

        words = _tensors(prepared.left)
        inputs = [pixels[n] for n in names] + words
        fixed = range(len(names), len(inputs))
        flat = self._call("left", names, left, inputs, range(len(names)), fixed)
        memory = LeftMemory()
        memory.pairs = {i: (flat[2 * i], flat[2 * i + 1]) for i in range(len(flat) // 2)}
        return memory

    def _context(
        self, pixels: Mapping[str, Tensor], prepared: Prepared, memory: LeftMemory, state: Tensor | None
    ) -> Context:
        """What the expert is told, from images as of `see` and state [B, S] in model units."""
        side, names = prepared.right, tuple(c.name for c in self.model.config.cameras)
        count, own, joint = len(names), len(_tensors(prepared.right)), sorted(memory.pairs)

        def right(*tensors: Tensor) -> list[Tensor]:
            words = replace(prepared, right=_rebuilt(side, tensors[count : count + own]))
            rest = list(tensors[count + own :])
            past = LeftMemory()
            past.pairs = {i: (rest[2 * n], rest[2 * n + 1]) for n, i in enumerate(joint)}
            given = rest[-1] if state is not None else None
            return _tensors(self.model.context(dict(zip(names, tensors, strict=False)), given, words, past))

        inputs = [*(pixels[n] for n in names), *_tensors(side)]
        inputs += [t for i in joint for t in memory.pairs[i]]
        fixed = range(count, count + own)
        lent = (*range(count), *range(count + own, len(inputs)))
        if state is not None:
            inputs.append(state)
        flat = self._call("right", (names, state is None), right, inputs, lent, fixed)
        return _context_of(flat, self.model.expert.config.cross_blocks, side.valid is not None)

    @torch.inference_mode()
    def chunk(
        self,
        pixels: Mapping[str, Tensor],
        prepared: Prepared,
        memory: LeftMemory,
        state: Tensor | None,
        noise: Tensor,
    ) -> Tensor:
        """Actions [B, T, A] in model units from images as of `see`, state [B, S] in model units and noise."""
        context = self._context(pixels, prepared, memory, state)
        told = _tensors(context)

        def head(noise: Tensor, *tensors: Tensor) -> list[Tensor]:
            return [self.model.expert.integrate(_like(context, tensors), noise, schedule=self._schedule)]

        return self._call("head", _kind(context), head, [noise, *told], range(1, 1 + len(told)))[0]

    @torch.inference_mode(False)
    @torch.no_grad()
    def chunk_towards(
        self,
        pixels: Mapping[str, Tensor],
        prepared: Prepared,
        memory: LeftMemory,
        state: Tensor | None,
        noise: Tensor,
        target: Target,
    ) -> Tensor:
        """As `chunk`, but agreeing with a target. The gradient that this takes is part of the recording.

        Outside inference mode, whose tensors no gradient may pass; the brains are run without gradients.
        """
        expert = self.model.expert
        way = prefixed if expert.config.prefix_trained else guided
        context = self._context(pixels, prepared, memory, state)
        told = _tensors(context)

        def head(*tensors: Tensor) -> list[Tensor]:
            noise, actions, weights, frozen, *rest = tensors
            wanted = replace(target, actions=actions, weights=weights, frozen=frozen)
            return [way(expert, _like(context, rest), noise, wanted, self._schedule)]

        given = [noise, target.actions, target.weights, torch.as_tensor(target.frozen, device=self.device)]
        inputs = [*(t.clone() for t in given), *told]
        lent = range(len(given), len(inputs))
        return self._call("guided head", (_kind(context), target.guidance), head, inputs, lent)[0]

    def _call(
        self,
        name: str,
        key: Any,
        function: Callable[..., Sequence[Tensor]],
        inputs: list[Tensor],
        lent: Collection[int] = (),
        fixed: Collection[int] = (),
    ) -> Sequence[Tensor]:
        """Runs a function of tensors, on CUDA as a graph that is recorded once per set of shapes."""
        if not self.graphs:
            return function(*inputs)
        key = (name, key, tuple((t.shape, t.dtype) for t in inputs))
        if key not in self._calls:
            if self.warm:
                self.tell(
                    f"{self.device}: other lengths or sizes than were warmed up: the CUDA graph of {name!r} "
                    "is recorded, this chunk comes late"
                )
            self._pool = self._pool or GraphPool(self.device)
            self._calls[key] = CapturedCall(function, inputs, self._pool, lent, fixed)
            if len(self._calls) > KEPT_GRAPHS:
                self._calls.popitem(last=False)
        self._calls.move_to_end(key)
        return self._calls[key](*inputs)


def _context_of(tensors: Sequence[Tensor], cross_blocks: int, masked: bool) -> Context:
    """A context from its tensors; inverts `_tensors`."""
    keys, values = tensors[:cross_blocks], tensors[cross_blocks : 2 * cross_blocks]
    rest = list(tensors[2 * cross_blocks :])
    mask = rest.pop(0) if masked else None
    return Context(list(keys), list(values), mask, rest[0] if rest else None)


def _like(context: Context, tensors: Sequence[Tensor]) -> Context:
    """A context of the same parts with other tensors."""
    return _context_of(tensors, len(context.keys), context.mask is not None)


def _kind(context: Context) -> tuple[bool, bool]:
    """What of a context is there that need not be."""
    return context.mask is not None, context.state is not None


def _tensors(holder: Side | Context) -> list[Tensor]:
    """The tensors of a side or a context, in the order of its fields."""
    found: list[Tensor] = []
    for field in fields(holder):
        value = getattr(holder, field.name)
        found += [] if value is None else list(value) if isinstance(value, tuple | list) else [value]
    return found


def _rebuilt(side: Side, tensors: Sequence[Tensor]) -> Side:
    """The side with other tensors in the places of its own; inverts `_tensors`."""
    rest = iter(tensors)
    values: dict[str, Any] = {}
    for field in fields(side):
        value = getattr(side, field.name)
        if value is not None:
            values[field.name] = tuple(next(rest) for _ in value) if isinstance(value, tuple) else next(rest)
    return replace(side, **values)
