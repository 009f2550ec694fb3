"""What the code of a module's forward does with the modules it has, as far as its bytecode says."""

import dis
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from torch import nn

READ, SET = ("LOAD_ATTR", "LOAD_METHOD"), ("STORE_ATTR",)


@dataclass
class Use:
    """What becomes of an attribute of a module: what is read from or set on it, and whether it is used itself."""

    attributes: set[str] = field(default_factory=set)
    itself: bool = False


@cache
def uses_of_children(kind: type[nn.Module]) -> dict[str, Use]:
    """How the forward of a module of this type uses the module's attributes, by name; `self.conv.weight` and the like.

    The methods and properties that it names are looked into as well. What reaches a layer by other ways, as through a
    list or a local variable, is not seen.

    >>> uses_of_children(nn.MultiheadAttention)["out_proj"].attributes >= {"weight", "bias"}
    True
    """
    uses: dict[str, Use] = {}
    todo, done = ["forward"], {"forward"}
    while todo:
        for code in _codes(kind, todo.pop()):
            for attribute, then in _attributes_of_self(code):
                use = uses.setdefault(attribute, Use())
                if then is None:
                    use.itself = True
                else:
                    use.attributes.add(then)
                if attribute not in done:
                    done.add(attribute)
                    todo.append(attribute)
    return uses


def _attributes_of_self(code: types.CodeType) -> Iterator[tuple[str, str | None]]:
    """Attributes of `self` in the order of the code, and what attribute is then read from or set on each, if any."""
    me = code.co_varnames[0] if code.co_argcount else "self"
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("EXTENDED_ARG", "CACHE")]
    for before, step, after in zip(steps, steps[1:], steps[2:], strict=False):
        loads = before.opname.startswith(("LOAD_FAST", "LOAD_DEREF"))
        if loads and step.opname in READ and (before.argval == me or before.argval[-1:] == (me,)):
            yield step.argval, after.argval if after.opname in (*READ, *SET) else None


def _codes(kind: type, name: str) -> Iterator[types.CodeType]:
    """The code of a method or property of a type, with that of the functions in it; nothing of `nn.Module` itself."""
    for base in kind.__mro__:
        member = None if base in (nn.Module, object) else vars(base).get(name)
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        yield from codes_of(function)


def codes_of(function: object) -> Iterator[types.CodeType]:
    """The code of a function of Python, and of the functions in it; none of anything else."""
    if isinstance(function, types.FunctionType):
        yield from _nested(function.__code__)


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)
