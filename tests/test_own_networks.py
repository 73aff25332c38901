"""The network that a reader builds in a notebook is made of the notebook's own cells: nothing of `vt_course` is in it.

From each notebook the definitions are taken that its network needs, as in the solved edition. They run in a process in
which `vt_course` cannot be imported, and must accept the mini weights strictly and give the package's logits.
"""

import ast
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from vt_course import repo_root
from vt_course.models import ZOO, create
from vt_course.publish.source import from_source
from vt_course.publish.tags import parts

from weights import shake

pytestmark = pytest.mark.slow

# Notebook -> the call that builds the network, and the mini whose weights it accepts. `config` is the mini's.
NETWORKS = [
    (
        "03_swin",
        "Swin(**{k: config[k] for k in ('img_size', 'embed_dim', 'depths', 'num_heads', 'window', 'num_classes')})",
        "swin_mini",
    ),
    (
        "04_video_swin",
        "VideoSwin(*(config[k] for k in ('embed_dim', 'depths', 'num_heads', 'window', 'num_classes')))",
        "video_swin_mini",
    ),
    (
        "05_mvit",
        "MViT(frames=config['frames'], side=config['img_size'], classes=config['num_classes'], "
        "dim=config['embed_dim'], depth=config['depth'], starts=tuple(config['dim_mul']), kv=config['kv_stride'][1])",
        "mvit_mini",
    ),
    (
        "05_mvit",
        "MViTv2(frames=config['frames'], side=config['img_size'], classes=config['num_classes'], "
        "dim=config['embed_dim'], depth=config['depth'], starts=tuple(config['dim_mul']), kv=config['kv_stride'][1])",
        "mvit_v2_mini",
    ),
    (
        "06_timesformer",
        "TimeSformer(*(config[k] for k in ('img_size', 'patch_size', 'num_frames', 'embed_dim', 'depth', 'num_heads', "
        "'num_classes')))",
        "timesformer_mini",
    ),
    (
        "07_uniformer",
        "UniFormer(config['depths'], config['embed_dims'], config['head_dim'], config['num_classes'])",
        "uniformer_mini",
    ),
]

RUN = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vt_course":
            raise ImportError("vt_course is blocked")

sys.meta_path.insert(0, Blocked())
{code}
from safetensors.torch import load_file

stored = load_file(sys.argv[1])
clip, wanted = stored.pop("test.clip"), stored.pop("test.logits")
config = {config!r}
reader_s = {call}.eval()
reader_s.load_state_dict(stored, strict=True)
with torch.no_grad():
    torch.testing.assert_close(reader_s(clip), wanted, rtol=1e-5, atol=1e-5)
assert not any(name.partition(".")[0] == "vt_course" for name in sys.modules)
print("equal")
"""


def definitions(stem: str, call: str) -> str:
    """The imports of a notebook's solved edition, and the functions, classes and CONSTANTS that `call` needs."""
    cells = from_source(repo_root() / "notebooks" / "src" / f"{stem}.py").cells
    code = [c.source for c in cells if c.cell_type == "code" and "exercise" not in parts(c)]
    body = [node for source in code for node in ast.parse(source).body]
    defined = {node.name: node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assigned = [n for n in body if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)]
    defined |= {n.targets[0].id: n for n in assigned if n.targets[0].id.isupper()}
    imports = [n for n in body if isinstance(n, (ast.Import, ast.ImportFrom)) and "vt_course" not in ast.unparse(n)]
    needed, todo = [], [ast.parse(call)]
    while todo:
        for node in ast.walk(todo.pop()):
            found = defined.get(node.id) if isinstance(node, ast.Name) else None
            if found is not None and found not in needed:
                needed.append(found)
                todo.append(found)
    return "\n\n".join(ast.unparse(node) for node in [*imports, *sorted(needed, key=body.index)])


@pytest.mark.parametrize("stem, call, mini", NETWORKS, ids=[mini for *_, mini in NETWORKS])
def test_the_readers_network_stands_alone(stem, call, mini, tmp_path):
    model = shake(create(mini))
    clip = torch.randn(2, *ZOO[mini].input, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(clip)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state | {"test.clip": clip, "test.logits": logits}, tmp_path / "stored.safetensors")
    code = definitions(stem, call)
    assert "vt_course" not in code
    script = tmp_path / "network.py"
    script.write_text(RUN.format(code=code, config=dict(ZOO[mini].config), call=call), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "stored.safetensors")],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert done.returncode == 0 and done.stdout == "equal\n", done.stderr[-2000:]
