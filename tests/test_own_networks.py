"""The network that a reader owns at the end of a notebook is made of that notebook's cells alone.

The classes and functions of the cells, with the solutions of the exercises, run in a process in which `vt_course`
cannot be imported. The network loads the weights of the package's model strictly and gives the same scores.
"""

import ast
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from vt_course import repo_root
from vt_course.models import ZOO, create
from vt_course.publish.build import from_source
from vt_course.publish.student import parts

SWIN = ("embed_dim", "depths", "num_heads", "window", "num_classes")


def settings_of(*names):
    """The settings of a variant that have the same names in the notebook's class."""
    return lambda variant: {name: variant.config[name] for name in names}


def mvit(variant):
    c, (_, frames, side, _) = variant.config, variant.input
    return dict(
        frames=frames,
        side=side,
        classes=c["num_classes"],
        dim=c["embed_dim"],
        depth=c["depth"],
        starts=tuple(c["dim_mul"]),
        kv=c["kv_stride"][1],
    )


# (notebook, class of the reader's network, model of the package, from the model's variant to the class's arguments)
OWN = [
    ("04_video_swin", "VideoSwin", "video_swin_mini", settings_of(*SWIN)),
    ("05_mvit", "MViT", "mvit_mini", mvit),
    ("05_mvit", "MViTv2", "mvit_v2_mini", mvit),
]

READER = """
import json, sys, torch
from safetensors.torch import load_file

sys.modules["vt_course"] = None  # whoever imports it gets an ImportError
folder, name = sys.argv[1:]
scope = {"__name__": "reader"}
exec(compile(open(folder + "/cells.py", encoding="utf-8").read(), "cells.py", "exec"), scope)
model = scope[name](**json.load(open(folder + "/settings.json"))).eval()
kept = load_file(folder + "/weights.safetensors")
case = load_file(folder + "/case.safetensors")
model.load_state_dict(kept, strict=True)
with torch.no_grad():
    torch.testing.assert_close(model(case["x"]), case["want"], rtol=1e-5, atol=1e-5)
assert not [m for m in sys.modules if m.startswith("vt_course.")]
print("agrees")
"""


def own_code(stem: str) -> str:
    """Imports, classes and functions of a notebook's cells, without the package and without the stubs."""
    kept = []
    for cell in from_source(repo_root() / "notebooks" / "src" / f"{stem}.py").cells:
        if cell.cell_type != "code" or "exercise" in parts(cell):
            continue
        for node in ast.parse(cell.source).body:
            imported = isinstance(node, (ast.Import, ast.ImportFrom)) and "vt_course" not in ast.unparse(node)
            if imported or isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                kept.append(ast.unparse(node))
    return "\n\n".join(kept)


def lively(model):
    """Weights so large that a mistake in any of them shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            std = p[0].numel() ** -0.5 if p.ndim > 1 else 0.2
            p += std * torch.randn(p.shape, generator=generator)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("stem, name, model, arguments", OWN, ids=lambda value: value if isinstance(value, str) else "")
def test_the_readers_network_is_the_model_without_the_package(stem, name, model, arguments, tmp_path):
    variant, package = ZOO[model], lively(create(model))
    x = torch.randn(2, *variant.input, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        save_file({"x": x, "want": package(x)}, tmp_path / "case.safetensors")
    save_file(package.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "settings.json").write_text(json.dumps(arguments(variant)), encoding="utf-8")
    (tmp_path / "cells.py").write_text(own_code(stem), encoding="utf-8")
    (tmp_path / "reader.py").write_text(READER, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "reader.py", tmp_path, name],
        capture_output=True,
        encoding="utf-8",
        cwd=tmp_path,
    )
    assert done.stdout.endswith("agrees\n"), done.stderr
