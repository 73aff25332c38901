"""What an error of the reader's code means, said with the names of the exercise."""

import builtins
import inspect
import math
import re
from collections.abc import Callable
from difflib import get_close_matches

from torch import Tensor, nn

WHOLE = (
    "a size or index must be a whole number: divide with `//`, or write `int(...)` around it (`/` and `np.ceil` always "
    "give a floating-point number)"
)
IMPORTS = {
    "torch": "import torch",
    "F": "import torch.nn.functional as F",
    "nn": "from torch import nn",
    "np": "import numpy as np",
    "numpy": "import numpy as np",
    "math": "import math",
    "einops": "from einops import rearrange",
    "rearrange": "from einops import rearrange",
    "repeat": "from einops import repeat",
    "reduce": "from einops import reduce",
    "product": "from itertools import product",
    "permutations": "from itertools import permutations",
    "pi": "from math import pi",
    "sqrt": "from math import sqrt",
    "ceil": "from math import ceil",
    "prod": "from math import prod",
}


def explain_error(
    error: BaseException, function: Callable, names: list[str], args: tuple, sizes: dict[str, int]
) -> str | None:
    """One sentence on what an error means and what to do, or None.

    `names` are those of the exercise's arguments. `sizes` has the lengths that may have been forgotten, by name.
    """
    text = str(error)
    if isinstance(error, SystemExit):
        return "`exit()` ends the whole program: leave a function with `return`"
    if isinstance(error, UnboundLocalError):
        name = re.search(r"local variable '(\w+)'", text)
        return (
            f"`{name[1]}`" if name else "a name"
        ) + " is used before it has a value: it gets one in a branch or loop that did not run, or below this line"
    if isinstance(error, NameError):
        return unknown_name(getattr(error, "name", None), function, names)
    if isinstance(error, AttributeError):
        return unknown_attribute(error)
    if type(error).__name__ == "EinopsError":
        return einops_error(text, names, args, sizes)
    if isinstance(error, ZeroDivisionError):
        zeros = [f"`{n}`" for n, a in zip(names, args) if isinstance(a, (int, float)) and a == 0]
        return "something is divided by 0" + (
            f": here {' and '.join(zeros)} {'is' if len(zeros) == 1 else 'are'} 0" if zeros else ""
        )
    if isinstance(error, RecursionError):
        return "your function calls itself without an end"
    if isinstance(error, TypeError):
        return wrong_type(text, function, names)
    if isinstance(error, ValueError) and "to unpack" in text:
        return unpacking(text, names, args)
    return in_module(error, text, names, args) or shapes(error, text, names, args, sizes)


def unknown_name(name: str | None, function: Callable, names: list[str]) -> str | None:
    if not name:
        return None
    known = [*names, *getattr(function, "__globals__", {}), *dir(builtins), *local_names(function)]
    close = get_close_matches(name, [n for n in dict.fromkeys(known) if not n.startswith("_")], n=1, cutoff=0.75)
    if name in IMPORTS:
        start = f"`{name}` is not imported here: run the first cells of the notebook, or write `{IMPORTS[name]}`"
        return start + (f"; or did you mean `{close[0]}`?" if close else "")
    if close:
        return f"there is no `{name}`; did you mean `{close[0]}`?"
    return (
        f"there is no `{name}`: if a cell above defines it, run the cells above (Run > Run All Above Selected Cell); "
        f"your function is given {listed(names)}"
    )


def local_names(function: Callable) -> tuple[str, ...]:
    return getattr(getattr(function, "__code__", None), "co_varnames", ())


def listed(names: list[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def unknown_attribute(error: AttributeError) -> str | None:
    name, thing = getattr(error, "name", None), getattr(error, "obj", None)
    if name is None or thing is None:
        return None
    if isinstance(thing, nn.Module) and hasattr(thing, "words"):  # the parts of an exercise: what they are, they say
        return f"{thing.words} has no `{name}`; it has {listed([n for n, _ in thing.named_children()])}"
    kind = thing.__name__ if inspect.ismodule(thing) else f"a value of type {type(thing).__name__}"
    close = get_close_matches(name, dir(thing), n=1, cutoff=0.7)
    more = f"; did you mean `{close[0]}`?" if close else ""
    if thing is None:
        return f"`None` has no `{name}`"
    return f"{kind} has no `{name}`{more}"


def einops_error(text: str, names: list[str], args: tuple, sizes: dict[str, int]) -> str | None:
    found = re.search(r"Identifiers only on one side of expression \(should be on both\): \{(.*?)\}", text)
    if found:
        return (
            f"in the einops pattern {found[1]} stands on one side only: each axis must stand on both, `rearrange` "
            "neither drops nor makes axes"
        )
    found = re.search(r"can't divide axis of length (\d+) in chunks of (\d+)", text)
    if found:
        length, chunk = int(found[1]), int(found[2])
        return (
            f"an axis of length {length} is to be cut into pieces of {chunk}, which do not fit"
            + where_from(length, chunk, names, args)
            + ": is a size given to the wrong letter of the pattern, or used for another side?"
        )
    found = re.search(r"expected (\d+) dims\. Received (\d+)-dim", text)
    if found:
        return (
            f"the left side of the einops pattern names {found[1]} axes, the tensor has {found[2]}: "
            f"{tensors(names, args)}"
        )
    if "Could not infer sizes for" in text:
        found = re.search(r"Could not infer sizes for \{(.*?)\}", text)
        return (
            f"the length of {found[1] if found else 'some axes'} is not known: of the letters in a bracket on the "
            "left, all but one need a size, as in `rearrange(x, pattern, p=4)`"
        )
    found = re.search(r"Shape mismatch, (\d+) != (\d+)", text)
    if found:
        forgotten = missing_axis(int(found[1]), int(found[2]), sizes)
        if forgotten:
            return (
                f"an axis of length {found[1]} should be {found[2]} by the sizes that you give: {forgotten} is its "
                "letter missing in a bracket of the pattern, or a 1 in its place? Otherwise, are two sizes exchanged?"
            )
        return (
            f"an axis of length {found[1]} should be {found[2]} by the sizes that you give: are two of them exchanged, "
            f"or is a letter used for another axis? ({tensors(names, args)})"
        )
    if "duplicate" in text:
        return "a letter stands twice on one side of the einops pattern: each axis needs a letter of its own"
    return f"the einops pattern does not fit the tensor: {tensors(names, args)}"


def missing_axis(length: int, asked: int, sizes: dict[str, int]) -> str:
    """Which size may have been forgotten if an axis, or all axes together, are longer than a reader asks for, or ""."""
    if asked < 1 or length % asked or length == asked:
        return ""
    fit = [name for name, n in sizes.items() if n == length // asked]
    fit = fit[:1] if fit and fit[0].startswith("the batch") else fit
    if not fit or len(fit) > 2:
        return ""
    return f"{length} is {length // asked} · {asked}, and {length // asked} is {' or '.join(fit)};"


def tensors(names: list[str], args: tuple) -> str:
    """The shapes of the tensors among the arguments, in words."""
    return ", ".join(f"{n} is {tuple(a.shape)}" for n, a in zip(names, args) if isinstance(a, Tensor))


def where_from(length: int, chunk: int, names: list[str], args: tuple) -> str:
    """Which axis has this length, and which argument this size, where that is plain."""
    axes = [
        f"axis {i} of {n}"
        for n, a in zip(names, args)
        if isinstance(a, Tensor)
        for i, m in enumerate(a.shape)
        if m == length
    ]
    sizes = [f"{n}" for n, a in zip(names, args) if isinstance(a, int) and a == chunk]
    sizes += [f"{n}[{i}]" for n, a in zip(names, args) if isinstance(a, tuple) for i, m in enumerate(a) if m == chunk]
    said = [axes[0]] if len(axes) == 1 else []
    said += [f"{sizes[0]} = {chunk}"] if len(sizes) == 1 else []
    return f" ({', '.join(said)})" if said else ""


# What a TypeError says -> what that means; {0} is the first group of the pattern. The first that fits counts.
WRONG_TYPES = (
    (
        r"'(\w+)' object is not iterable",
        "a value of type {0} is taken apart as if it held several: is it the name that you mean?",
    ),
    (
        r"'(\w+)' object does not support item assignment",
        "nothing can be stored in a value of type {0} with [ ] =: is it the name that you mean?",
    ),
    (r"can't assign a (\w+) to a", "a value of type {0} cannot be stored in a tensor: is it the name that you mean?"),
    (
        r"bad operand type for unary (.): '(\w+)'",
        "a value of type {1} has no {0} in front: is it the name that you mean?",
    ),
    (
        r"unsupported operand type\(s\) for (.*?): '(\w+)' and '(\w+)'",
        "{0} cannot join values of the types {1} and {2}: is one of the names another thing?",
    ),
    (r"'float' object cannot be|type float|must be .*\bints?\b.*not float|got float\b", WHOLE),
    (
        r"tuple of ints, ?(?:but found element of type|but got|not) (\w+)",
        "a size must be a whole number, and you give a value of type {0}",
    ),
    (
        r"(\w+)\(\): argument '(\w+)'.* must be (.*?), not (.*)",
        "`{0}` wants {2} for its `{1}`, and you give a value of type {3}",
    ),
    (
        r"expected Tensor as element (\d+) in argument 0, but got (\w+)",
        "all pieces that you join must be tensors; that of number {0}, from 0, is of type {1}",
    ),
)


def wrong_type(text: str, function: Callable, names: list[str]) -> str | None:
    if re.search(r"takes .*positional argument|missing \d+ required|unexpected keyword", text):
        takes = list(local_names(function)[: getattr(getattr(function, "__code__", None), "co_argcount", 0)])
        if getattr(function, "__name__", "?") in text and takes != names:
            return f"your function is called with {listed(names)}; it takes {listed(takes) or 'nothing'}"
        return "a function is called with arguments that it does not have"
    for pattern, sentence in WRONG_TYPES:
        if found := re.search(pattern, text):
            return sentence.format(*found.groups())
    found = re.search(r"(\w+)\(\) received an invalid combination of arguments - got (\(.*?\))", text)
    if found and found[1] in ("min", "max", "minimum", "maximum"):
        return (
            f"`torch.{found[1]}` compares two tensors, and you give {found[2]}: for a number there is "
            "`.clamp(max=...)` or `.clamp(min=...)`"
        )
    if found and "float" in found[2] and "tuple of ints" in text:
        return f"`{found[1]}` gets a floating-point number; {WHOLE}"
    if found:
        return f"`{found[1]}` cannot take values of the types {found[2]}: is one of the names another thing?"
    if "only integer tensors" in text or "cannot be interpreted as an integer" in text or "must be integers" in text:
        return WHOLE
    if "not subscriptable" in text:
        return "something that is a single number, or a function, is indexed with [ ]"
    if "not callable" in text:
        return "something that is no function is called with ( ): is an operator missing between two brackets?"
    if "NoneType" in text:
        return "one of the values is None: does a function that you use return nothing?"
    return None


# What PyTorch's layers say of a wrong number of channels: how many they want, and how many they get.
CHANNELS = (
    r"expected input.* to have (?P<want>\d+) channels, but got (?P<got>\d+)",
    r"running_mean should contain (?P<got>\d+) elements not (?P<want>\d+)",
    r"expected input with shape \[\*, (?P<want>\d+)\], but got input of size\[(?:\d+, )*(?P<got>\d+)\]",
    r"mat1 and mat2 shapes cannot be multiplied \(\d+x(?P<got>\d+) and (?P<want>\d+)x\d+\)",
)


def in_module(error: BaseException, text: str, names: list[str], args: tuple) -> str | None:
    """A module of an argument got another number of channels than it has: which one, and what may have happened."""
    found = next((f for f in (re.search(p, text) for p in CHANNELS) if f), None)
    where = module_that_raised(error, names, args)
    if not found or not where:
        return None
    return (
        f"`{where}` has {found['want']} channels, and what it is given has {found['got']} there: is a step before it "
        "left out, or is it given the result of another one? Or are the channels at another place than it wants "
        "(axis 1 of a map, the last axis of tokens)?"
    )


def module_that_raised(error: BaseException, names: list[str], args: tuple) -> str | None:
    """The name of the innermost module of an argument in which an error was raised, as in `net.blocks1.0`."""
    known = {
        id(module): f"{name}.{path}" if path else name
        for name, value in zip(names, args)
        for path, module in submodules(value)
    }
    trace, where = error.__traceback__, None
    while trace is not None:
        where = known.get(id(trace.tb_frame.f_locals.get("self")), where)
        trace = trace.tb_next
    return where


def submodules(value):
    """Pairs of a path and a module: those of a module, or of the attributes of another object."""
    if isinstance(value, nn.Module):
        yield from value.named_modules()
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        for name, part in vars(value).items():
            if isinstance(part, nn.Module):
                yield from ((f"{name}.{path}" if path else name, module) for path, module in part.named_modules())


def unpacking(text: str, names: list[str], args: tuple) -> str:
    return f"the number of names on the left does not fit: {tensors(names, args) or 'count what is unpacked'}"


def shapes(error: BaseException, text: str, names: list[str], args: tuple, sizes: dict[str, int]) -> str | None:
    if "ZeroDivisionError" in text:
        return "a whole number is divided by 0"
    if "view size is not compatible" in text:
        return "`view` cannot follow `permute`, whose result is not contiguous: use `reshape`"
    if re.search(r"shape '\[(.*, )?0[,\]]", text):
        return (
            "one of the sizes you reshape to is 0: if it comes from a division with `//`, you divide by more than "
            "there is" + (f" ({known})" if (known := tensors(names, args)) else "")
        )
    if "invalid for input of size" in text or "shape '" in text:
        forgotten = forgotten_in_reshape(text, sizes)
        if forgotten:
            return (
                f"the sizes you reshape to do not multiply to the number of elements: {forgotten} is it "
                "left out? Otherwise, are two sides exchanged, or taken as equal?"
            )
        return (
            "the sizes you reshape to do not multiply to the number of elements (are two sides exchanged or taken as "
            "equal? is the batch taken to be 1?)" + product_of(text, names, args)
        )
    if "Expected size for first two dimensions" in text or "shapes cannot be multiplied" in text:
        return (
            "the inner sizes of a matrix product differ; `.T` turns all axes around, `.mT` exchanges the last two, and "
            "the weight of a linear layer is (out, in): `F.linear(x, w)` or `x @ w.T`"
        )
    if "same dtype" in text or "expected scalar type" in text:
        return "a matrix product wants one dtype on both sides: make the integers floating-point first, `n.to(g.dtype)`"
    if "shifts and dimensions must align" in text:
        return (
            "`torch.roll` with several shifts wants as many `dims`, one axis for each shift; without `dims` it rolls "
            "the flattened tensor"
        )
    if "Sizes of tensors must match" in text:
        return (
            "the pieces you join have different sizes: are all cut in the same way? An odd axis must be padded, an "
            "even one must not. (The pairs of `F.pad` begin with the last axis.)"
        )
    if "must match the size of tensor" in text or "must match the existing size" in text:
        return (
            "two shapes do not broadcast: sizes are compared from the last axis on. Is an axis missing, to be added as "
            "one of size 1? Or did one of the two pass a step (a pooling, a merging, a crop) that the other did not?"
        ) + repeated(text, sizes)
    if re.search("(Index tensor must|indices should) have the same number of dimensions", text):
        return (
            "the index must have as many axes as the tensor it picks from: add the missing one, as in `label[:, None]`"
        )
    if "does not match the length of the desired ordering" in text:
        found = re.search(r"input\.dim\(\) = (\d+) is not equal to len\(dims\) = (\d+)", text)
        if found:
            return f"`permute` must name all axes: the tensor has {found[1]}, you name {found[2]}"
    if "duplicate dims" in text or "repeated dim" in text.lower() or "Repeated dim" in text:
        return "an axis is named twice: each one must come exactly once"
    if "Dimension out of range" in text:
        found = re.search(r"range of \[-?\d+, (\d+)\], but got (-?\d+)", text)
        if found:
            return f"there is no axis {found[2]}: the axes of this tensor are numbered from 0 to {found[1]}"
        return "there is no axis of this number: axes are counted from 0"
    if "used as indices must be" in text or "only integer tensors" in text:
        return "indices must be whole numbers: make them with `//`, or `.long()` at the end"
    if "mean(): could not infer output dtype" in text or "Can only calculate the mean of floating" in text:
        return "a mean needs floating-point numbers: `.float()` first"
    if isinstance(error, IndexError) and "out of" in text:
        return (
            "an index lies outside its axis, which has the places 0 to length - 1: is something off by one, or a bound "
            "not tested?"
        )
    return None


def repeated(text: str, sizes: dict[str, int]) -> str:
    """What else may mend sizes of which one is a multiple of the other, or ""."""
    found = re.search(r"tensor a \((\d+)\) must match the size of tensor b \((\d+)\)", text)
    small, large = sorted(map(int, found.groups())) if found else (1, 1)
    if small < 2 or large % small:
        return ""
    batch = any(name.startswith("the batch") and n == large // small for name, n in sizes.items())
    why = ", once for each sample of the batch" if batch else ""
    return (
        f" Or, as {large} is {large // small} · {small}, the shorter one must be repeated {large // small} times{why}"
    )


def forgotten_in_reshape(text: str, sizes: dict[str, int]) -> str:
    """Which size may be missing among those of a reshape, or ""."""
    found = re.search(r"shape '\[([\d, ]+)\]' is invalid for input of size (\d+)", text)
    return missing_axis(int(found[2]), math.prod(map(int, found[1].split(","))), sizes) if found else ""


def product_of(text: str, names: list[str], args: tuple) -> str:
    """ ": 3 · 7 = 21 of 64 numbers"."""
    found = re.search(r"shape '\[([-\d, ]+)\]' is invalid for input of size (\d+)", text)
    if not found:
        return ""
    sizes = [int(n) for n in found[1].split(",")]
    asked = math.prod(n for n in sizes if n > 0)
    written = " · ".join(str(n) for n in sizes if n > 0)
    known = tensors(names, args)
    return f": {written} = {asked} {'does not divide' if -1 in sizes else 'is not'} {found[2]}" + (
        f"; {known}" if known else ""
    )
