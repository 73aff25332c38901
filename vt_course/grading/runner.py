"""The process in which the code of a submission runs. It knows no right answer, only what it is asked for.

Requests come on stdin: a length of 8 bytes, and a pickle of the judge, which it may trust. Answers leave on what was
stdout: two lengths, a header of JSON, and tensors as safetensors. The judge does not trust them, and reads nothing
else.
This file imports nothing of the course, because the course is not there. Of `vt_course.models` there is what the
arguments of some exercises are made of; the code of the submission cannot import it.
"""

import json
import os
import pickle
import sys

LIMITS = json.loads(sys.argv[1])
sys.path[:] = LIMITS["path"]
REQUESTS, ANSWERS = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
nowhere = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):  # what a submission prints is lost, and it has nothing to read
    os.dup2(nowhere, number)


def limit() -> None:
    """What the system can forbid. The judge watches all of it besides."""
    try:
        import resource
    except ImportError:
        return  # Windows
    for name, most in LIMITS["rlimits"].items():
        kind = getattr(resource, name, None)
        if kind is not None:
            try:
                hard = resource.getrlimit(kind)[1]
                most = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.setrlimit(kind, (most, most))
            except (ValueError, OSError):
                pass


limit()
import torch  # noqa: E402
from safetensors.torch import save  # noqa: E402
from torch import Tensor, nn  # noqa: E402

torch.set_num_threads(1)
MODELS = {}  # the modules of the course that arguments need, hidden while code of a submission runs


class Closed:
    """An entry of `sys.meta_path`: there is no course."""

    open = False

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] == "vt_course" and not cls.open:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, Closed)


def read(count: int) -> bytes:
    data = REQUESTS.read(count)
    if len(data) < count:
        os._exit(0)  # the judge has ended
    return data


def request() -> dict:
    data = read(int.from_bytes(read(8), "little"))
    Closed.open = True
    sys.modules.update(MODELS)
    sys.path.append(LIMITS["models"])
    try:
        return pickle.loads(data)
    finally:
        sys.path.remove(LIMITS["models"])
        for name in [name for name in sys.modules if name.split(".")[0] == "vt_course"]:
            MODELS[name] = sys.modules.pop(name)
        Closed.open = False


def send(header: dict, tensors: dict) -> None:
    head, body = json.dumps(header).encode(), save(tensors)
    ANSWERS.write(len(head).to_bytes(8, "little") + len(body).to_bytes(8, "little") + head + body)
    ANSWERS.flush()


def data_of(tensor) -> Tensor:
    """The numbers of a tensor, whatever its class."""
    return Tensor.detach(tensor).as_subclass(Tensor).clone(memory_format=torch.contiguous_format)


def describe(value) -> tuple[dict, dict]:
    """(header, tensors) of what the function returned. A tensor is one whose class is exactly that of torch."""
    kind = type(value)
    if kind in (int, float):
        return {"value": "number", "float": kind is float, "number": repr(value)[:400]}, {}
    if kind in (Tensor, nn.Parameter):
        try:
            if value.numel() * value.element_size() > LIMITS["answer"]:
                return {"value": "large"}, {}
            data = data_of(value)
            save({"out": data})
            return {"value": "tensor", "grad": value.requires_grad}, {"out": data}
        except Exception:  # not one that a file can hold: sparse, complex, on another device
            return {"value": "other", "type": f"tensor of {value.dtype}, {value.layout}, on {value.device}"}, {}
    name = kind.__name__ + " (a subclass of Tensor)" * issubclass(kind, Tensor)
    return {"value": "none" if value is None else "other", "type": text_of(name)}, {}


def error_of(error: BaseException) -> dict:
    name = getattr(error, "name", None)
    return {
        "value": "error",
        "type": text_of(type(error).__name__),
        "text": text_of(error),
        "name": text_of(name) if isinstance(name, str) else None,
    }


def text_of(value) -> str:
    """A text that every file can hold: no halves of characters, no NUL."""
    return str(value)[:2000].encode("utf-8", "replace").decode().replace("\0", "?")


def serve() -> None:
    function = drive = None
    kept = {}  # number of a call -> (result, arguments), for the gradients
    while True:
        asked = request()
        try:
            if asked["do"] == "load":
                function, drive, namespace = None, asked["drive"], {"__name__": "submission"}
                kept.clear()
                exec(compile(asked["code"], "submission", "exec"), namespace)
                function = namespace[asked["name"]]
                header, tensors = {"value": "none"}, {}
            elif asked["do"] == "call":
                args = asked["args"]
                wanted = [a.requires_grad_() for i, a in enumerate(args) if i in asked["gradients"]]
                before = [a.clone() if isinstance(a, Tensor) else None for a in args]
                out = (drive(function) if drive else function)(*args)
                header, tensors = describe(out)
                kept = {asked["number"]: (out, wanted)} if wanted else {}
                for i, (a, old) in enumerate(zip(args, before)):
                    if old is not None and not torch.equal(a.detach(), old.detach()):
                        tensors[f"arg{i}"] = data_of(a)
            else:
                out, wanted = kept[asked["number"]]
                found = torch.autograd.grad(out, wanted, asked["gradient"], allow_unused=True)
                header = {"value": "none"}
                tensors = {f"arg{i}": data_of(g) for i, g in enumerate(found) if g is not None}
        except BaseException as error:  # also SystemExit and KeyboardInterrupt: the judge says what they mean
            header, tensors = error_of(error), {}
        send(header, tensors)


if __name__ == "__main__":
    send({"value": "ready"}, {})
    serve()
