"""Right and wrong solutions of the exercises of notebook 02."""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat

from .common import likely, overwrite

# ---------------------------------------------------------------- right solutions


def weights(q, k):
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)


def weights_from_sdpa(q, k):
    """The weights are what attention does to an identity matrix of values."""
    one = torch.eye(k.shape[-2]).expand(*k.shape[:-2], -1, -1)
    return F.scaled_dot_product_attention(q[None], k[None], one[None])[0]


def weights_by_hand(q, k):
    powers = einsum(q, k, "... i d, ... j d -> ... i j").div(k.shape[-1] ** 0.5).exp()
    return powers / powers.sum(-1, keepdim=True)


def weights_in_loops(q, k):
    columns = [(q * k[..., j : j + 1, :]).sum(-1) / math.sqrt(k.shape[-1]) for j in range(k.shape[-2])]
    return torch.stack(columns, -1).softmax(-1)


def heads(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    q, k, v = rearrange(F.linear(x, w_qkv, b_qkv), "b n (three h d) -> three b h n d", three=3, h=num_heads)
    return F.linear(rearrange(weights(q, k) @ v, "b h n d -> b n (h d)"), w_out, b_out)


def heads_by_view(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    B, N, C = x.shape
    qkv = (x @ w_qkv.T + b_qkv).view(B, N, 3, num_heads, C // num_heads)
    q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
    out = weights(q, k) @ v
    return out.transpose(1, 2).contiguous().view(B, N, C) @ w_out.T + b_out


def heads_one_by_one(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    """As in equations: a sum over heads, each with its own columns of the output projection."""
    q, k, v = F.linear(x, w_qkv, b_qkv).chunk(3, -1)
    d = x.shape[-1] // num_heads
    out = b_out
    for head in torch.arange(x.shape[-1]).split(d):
        out = out + weights(q[..., head], k[..., head]) @ v[..., head] @ w_out[:, head].T
    return out


def heads_of_pytorch(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    return F.multi_head_attention_forward(
        x.transpose(0, 1),
        x.transpose(0, 1),
        x.transpose(0, 1),
        x.shape[-1],
        num_heads,
        w_qkv,
        b_qkv,
        None,
        None,
        False,
        0.0,
        w_out,
        b_out,
        need_weights=False,
    )[0].transpose(0, 1)


def heads_fused(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    q, k, v = rearrange(F.linear(x, w_qkv, b_qkv), "b n (t h d) -> t b h n d", t=3, h=num_heads)
    return F.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), w_out, b_out)


def bias(table, n):
    i = torch.arange(n)
    return table[i[:, None] - i + n - 1].permute(2, 0, 1)


def bias_by_unfold(table, n):
    """Row i is n numbers of the table, read backwards, ending one later for each i."""
    return table.T.unfold(1, n, 1).flip(-1).contiguous()


def bias_by_embedding(table, n):
    i = torch.arange(n)
    rows = F.embedding((i.view(-1, 1) - i.view(1, -1) + (n - 1)).flatten(), table)
    return rearrange(rows, "(i j) h -> h i j", i=n)


def bias_pair_by_pair(table, n):
    rows = [[table[i - j + n - 1] for j in range(n)] for i in range(n)]
    return torch.stack([torch.stack(row) for row in rows]).movedim(-1, 0)


def tokens_of(T, H, W, patch):
    return (H // patch) * (W // patch) * T + 1


RIGHT = {
    "2.1": {
        "softmax": weights,
        "fused attention": weights_from_sdpa,
        "by hand": weights_by_hand,
        "loops": weights_in_loops,
        "q scaled": lambda q, k: (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1),
        "both scaled": lambda q, k: (q / q.shape[-1] ** 0.25 @ (k / k.shape[-1] ** 0.25).mT).softmax(-1),
        "float64": lambda q, k: weights(q.double(), k.double()),
        "not contiguous": lambda q, k: weights(q, k).mT.contiguous().mT,
    },
    "2.2": {
        "einops": heads,
        "view": heads_by_view,
        "sum over heads": heads_one_by_one,
        "PyTorch": heads_of_pytorch,
        "fused": heads_fused,
        "float64": lambda *args: heads(*[a.double() for a in args[:5]], args[5]),
    },
    "2.3": {
        "index": bias,
        "unfold": bias_by_unfold,
        "embedding": bias_by_embedding,
        "pairs": bias_pair_by_pair,
        "float64": lambda table, n: bias(table.double(), n),
    },
    "2.4": {
        "formula": lambda h, w, C: 4 * h * w * C**2 + 2 * (h * w) ** 2 * C,
        "factored": lambda h, w, C: 2 * h * w * C * (2 * C + h * w),
        "float": lambda h, w, C: float(4 * h * w * C * C + 2 * h * h * w * w * C),
        "tensor": lambda h, w, C: torch.tensor(4 * h * w * C**2 + 2 * (h * w) ** 2 * C),
    },
    "2.5": {
        "padded": lambda h, w, C, M: (4 * C**2 + 2 * M * M * C) * (h + -h % M) * (w + -w % M),
        "windows": lambda h, w, C, M: math.ceil(h / M) * math.ceil(w / M) * (4 * M**2 * C**2 + 2 * M**4 * C),
        "floor of minus": lambda h, w, C, M: (-h // M) * (-w // M) * 2 * M**2 * C * (2 * C + M**2),
    },
    "2.6": {
        "formula": lambda T, H, W, p, h, b, e: tokens_of(T, H, W, p) ** 2 * h * b * e,
        "element size": lambda T, H, W, p, h, b, e: b * h * (T * (H // p) * (W // p) + 1) ** 2 * e,
        "of a tensor": lambda T, H, W, p, h, b, e: (
            torch.empty(b, h, tokens_of(T, H, W, p), tokens_of(T, H, W, p), device="meta").numel() * e
        ),
    },
}


# ---------------------------------------------------------------- wrong solutions


def heads_with(
    x,
    w_qkv,
    b_qkv,
    w_out,
    b_out,
    num_heads,
    cut="b n (three h d) -> three b h n d",
    glue="b h n d -> b n (h d)",
    attend=None,
    names="qkv",
    root=None,
):
    parts = rearrange(F.linear(x, w_qkv, b_qkv), cut, three=3, h=num_heads)
    q, k, v = (parts[names.index(name)] for name in "qkv")
    root = root or math.sqrt(q.shape[-1])
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / root
    out = attend(scores, v) if attend else scores.softmax(-1) @ v
    return rearrange(out, glue) @ w_out.T + b_out


def heads_viewed_wrongly(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    B, N, C = x.shape
    q, k, v = (t.reshape(B, num_heads, N, C // num_heads) for t in F.linear(x, w_qkv, b_qkv).chunk(3, -1))
    return F.linear((weights(q, k) @ v).transpose(1, 2).reshape(B, N, C), w_out, b_out)


def heads_glued_wrongly(x, w_qkv, b_qkv, w_out, b_out, num_heads):
    q, k, v = rearrange(F.linear(x, w_qkv, b_qkv), "b n (t h d) -> t b h n d", t=3, h=num_heads)
    return F.linear(F.scaled_dot_product_attention(q, k, v).reshape(x.shape), w_out, b_out)


def wrong_heads(**how):
    return lambda *args: heads_with(*args, **how)


def windows_of(h, w, M):
    return math.ceil(h / M) * math.ceil(w / M)


WRONG = {
    "2.1": {
        "no root": (lambda q, k: F.softmax(torch.einsum("...id,...jd->...ij", q, k), -1), likely("2.1", "not scaled")),
        "d": (lambda q, k: F.softmax(q @ k.mT / k.shape[-1], -1), likely("2.1", "divided by d, not by √d")),
        "scaled twice": (lambda q, k: weights(q / math.sqrt(q.shape[-1]), k), likely("2.1", "once more")),
        "multiplied": (lambda q, k: F.softmax((q @ k.mT).mul(math.sqrt(q.shape[-1])), -1), likely("2.1", "multiplied")),
        "√M": (lambda q, k: F.softmax(q @ k.mT / math.sqrt(k.size(-2)), -1), likely("2.1", "number of keys")),
        "after the softmax": (
            lambda q, k: F.softmax(q @ k.mT, -1) / math.sqrt(q.size(-1)),
            likely("2.1", "after the softmax"),
        ),
        "over queries": (
            lambda q, k: F.softmax(q @ k.mT / math.sqrt(q.size(-1)), -2),
            likely("2.1", "over the queries"),
        ),
        "logits": (lambda q, k: q @ k.mT * q.size(-1) ** -0.5, likely("2.1", "no softmax")),
        "k q": (lambda q, k: weights(k, q), likely("2.1", "rows are keys")),
        "transposed": (
            lambda q, k: weights(q, k).mT,
            "  Likely: your axes are in another order: finish with `.permute(0, 1, 3, 2)`\n",
        ),
        "detached": (lambda q, k: weights(q, k.detach()), "the gradient of `k` is not"),
        "in place": (overwrite(weights), "changes its input"),
        "list": (lambda q, k: weights(q, k).tolist(), "returned a list, not a tensor"),
    },
    "2.2": {
        "no projection": (
            lambda *a: heads_with(*a[:3], torch.eye(a[0].shape[-1]), 0.0, a[5]),
            likely("2.2", "output projection is missing"),
        ),
        "no b_out": (lambda x, wq, bq, wo, bo, h: heads(x, wq, bq, wo, None, h), likely("2.2", "`b_out` is not")),
        "no b_qkv": (lambda x, wq, bq, wo, bo, h: heads(x, wq, None, wo, bo, h), likely("2.2", "`b_qkv` is not")),
        "(d h)": (wrong_heads(cut="b n (three d h) -> three b h n d"), likely("2.2", "every h-th channel")),
        "(h 3 d)": (wrong_heads(cut="b n (h three d) -> three b h n d"), likely("2.2", "(h 3 d)")),
        "no transpose": (heads_viewed_wrongly, likely("2.2", "without a transpose")),
        "k q v": (wrong_heads(names="kqv"), likely("2.2", "queries and keys are exchanged")),
        "q v k": (wrong_heads(names="qvk"), likely("2.2", "keys and values are exchanged")),
        "v k q": (wrong_heads(names="vkq"), likely("2.2", "queries and values are exchanged")),
        "not scaled": (wrong_heads(root=1.0), likely("2.2", "not scaled")),
        "√C": (lambda x, *rest: heads_with(x, *rest, root=math.sqrt(x.shape[-1])), likely("2.2", "by √C")),
        "d": (lambda x, *rest: heads_with(x, *rest, root=x.shape[-1] // rest[-1]), likely("2.2", "divided by d")),
        "over queries": (
            wrong_heads(attend=lambda s, v: s.softmax(2) @ v),
            likely("2.2", "softmax runs over the queries"),
        ),
        "over heads": (wrong_heads(attend=lambda s, v: s.softmax(1) @ v), likely("2.2", "softmax runs over the heads")),
        "Aᵀ v": (
            wrong_heads(attend=lambda s, v: torch.einsum("bhij,bhid->bhjd", s.softmax(-1), v)),
            likely("2.2", "are transposed before"),
        ),
        "no softmax": (wrong_heads(attend=lambda s, v: s @ v), likely("2.2", "there is no softmax")),
        "glued": (heads_glued_wrongly, likely("2.2", "without transposing back")),
        "one head": (lambda *a: heads(*a[:5], 1), likely("2.2", "`num_heads` is not used")),
        "glued (d h)": (wrong_heads(glue="b h n d -> b n (d h)"), "numbers differ"),
        "view": (
            lambda x, wq, bq, wo, bo, h: (x @ wq.T + bq).view(*x.shape[:2], 3, h, -1).permute(2, 0, 3, 1, 4).view(-1),
            "`view` cannot follow `permute`",
        ),
        "heads apart": (
            lambda *a: heads(*a).unflatten(-1, (a[5], -1)),
            "shape (1, 7, 2, 4), wanted (B, N, C) = (1, 7, 8)",
        ),
        "no gradient": (lambda *a: heads(*[t.detach() for t in a[:5]], a[5]), "no gradient reaches the input"),
    },
    "2.3": {
        "key minus query": (lambda t, n: bias(t.flip(0), n), likely("2.3", "key minus query")),
        "not moved": (
            lambda t, n: t[torch.arange(n)[:, None] - torch.arange(n)].movedim(-1, 0),
            likely("2.3", "not moved"),
        ),
        "absolute value": (
            lambda t, n: t[(torch.arange(n)[:, None] - torch.arange(n)).abs()].movedim(-1, 0),
            likely("2.3", "sign of the offset"),
        ),
        "key alone": (lambda t, n: repeat(t[:n], "j h -> h i j", i=n), likely("2.3", "on the key alone")),
        "query alone": (lambda t, n: repeat(t[:n], "i h -> h i j", j=n), likely("2.3", "on the query alone")),
        "sum": (
            lambda t, n: torch.stack([t[i : i + n] for i in range(n)]).permute(2, 0, 1),
            likely("2.3", "are added"),
        ),
        "heads last": (lambda t, n: bias(t, n).permute(1, 2, 0), likely("2.3", "heads are the last axis")),
        "reshaped": (lambda t, n: bias(t.reshape(-1, len(t)).T, n), likely("2.3", "must be transposed")),
        "off by one": (
            lambda t, n: t[torch.arange(n)[:, None] - torch.arange(n) + n].movedim(-1, 0),
            "raised IndexError",
        ),
        "data": (lambda t, n: bias(t.data, n), "no gradient reaches the input"),
        "float": (lambda t, n: bias(t, n).long(), "dtype torch.int64, wanted torch.float32"),
    },
    "2.4": {
        "FLOPs": (lambda h, w, C: 8 * h * w * C**2 + 4 * (h * w) ** 2 * C, likely("2.4", "counted twice")),
        "3C²": (lambda h, w, C: 3 * h * w * C**2 + 2 * (h * w) ** 2 * C, likely("2.4", "not three")),
        "one product": (lambda h, w, C: h * w * C * (4 * C + h * w), likely("2.4", "factor 2")),
        "hw": (lambda h, w, C: 4 * h * w * C**2 + 2 * h * w * C, likely("2.4", "number of pairs")),
        "pairs without C": (lambda h, w, C: 4 * h * w * C**2 + 2 * (h * w) ** 2, likely("2.4", "lacks C:")),
        "4hwC": (lambda h, w, C: 4 * h * w * C + 2 * (h * w) ** 2 * C, likely("2.4", "lacks a C")),
        "MLP": (lambda h, w, C: 12 * h * w * C**2 + 2 * (h * w) ** 2 * C, likely("2.4", "MLP")),
        "no projections": (lambda h, w, C: 2 * C * h * h * w * w, likely("2.4", "projections are missing")),
        "square map": (lambda h, w, C: 4 * h**2 * C**2 + 2 * h**4 * C, likely("2.4", "h²")),
        "GMACs": (lambda h, w, C: (4 * h * w * C**2 + 2 * (h * w) ** 2 * C) / 1e9, "wanted "),
        "text": (lambda h, w, C: "4hwC²", "returned a str, not a tensor"),
    },
    "2.5": {
        "not padded": (lambda h, w, C, M: 4 * h * w * C**2 + 2 * M**2 * h * w * C, likely("2.5", "padding is missing")),
        "late padding": (
            lambda h, w, C, M: 4 * h * w * C**2 + 2 * M**4 * windows_of(h, w, M) * C,
            likely("2.5", "before the projections"),
        ),
        "floor": (
            lambda h, w, C, M: (h // M) * (w // M) * (4 * M**2 * C**2 + 2 * M**4 * C),
            likely("2.5", "rounded down"),
        ),
        "+ 1": (
            lambda h, w, C, M: (h // M + 1) * (w // M + 1) * (4 * M**2 * C**2 + 2 * M**4 * C),
            likely("2.5", "do not add 1"),
        ),
        "total": (
            lambda h, w, C, M: math.ceil(h * w / M**2) * (4 * M**2 * C**2 + 2 * M**4 * C),
            likely("2.5", "on its own"),
        ),
        "M": (lambda h, w, C, M: windows_of(h, w, M) * M**2 * (4 * C**2 + 2 * M * C), likely("2.5", "not M")),
        "one window": (lambda h, w, C, M: 4 * M**2 * C**2 + 2 * M**4 * C, likely("2.5", "that is one window")),
        "global": (
            lambda h, w, C, M: windows_of(h, w, M) * M**2 * (4 * C**2 + 2 * windows_of(h, w, M) * M**2 * C),
            likely("2.5", "global attention"),
        ),
        "FLOPs": (
            lambda h, w, C, M: 2 * windows_of(h, w, M) * M**2 * (4 * C**2 + 2 * M**2 * C),
            likely("2.5", "counted twice"),
        ),
        "3C²": (lambda h, w, C, M: windows_of(h, w, M) * M**2 * (3 * C**2 + 2 * M**2 * C), likely("2.5", "not three")),
        "one product": (
            lambda h, w, C, M: windows_of(h, w, M) * M**2 * (4 * C**2 + M**2 * C),
            likely("2.5", "factor 2"),
        ),
        "boolean": (lambda h, w, C, M: True, "returned a bool"),
    },
    "2.6": {
        "no class token": (
            lambda T, H, W, p, h, b, e: (T * (H // p) * (W // p)) ** 2 * h * b * e,
            likely("2.6", "class token is missing"),
        ),
        "class token a frame": (
            lambda T, H, W, p, h, b, e: (T * (H // p * (W // p) + 1)) ** 2 * h * b * e,
            likely("2.6", "in every frame"),
        ),
        "tokens": (lambda T, H, W, p, h, b, e: tokens_of(T, H, W, p) * h * b * e, likely("2.6", "count tokens")),
        "frames apart": (
            lambda T, H, W, p, h, b, e: T * tokens_of(1, H, W, p) ** 2 * h * b * e,
            likely("2.6", "in space only"),
        ),
        "no heads": (
            lambda T, H, W, p, h, b, e: tokens_of(T, H, W, p) ** 2 * b * e,
            likely("2.6", "heads are missing"),
        ),
        "no batch": (lambda T, H, W, p, h, b, e: tokens_of(T, H, W, p) ** 2 * h * e, likely("2.6", "batch is missing")),
        "bits": (lambda T, H, W, p, h, b, e: tokens_of(T, H, W, p) ** 2 * h * b * e * 8, likely("2.6", "bits")),
        "numbers": (lambda T, H, W, p, h, b, e: tokens_of(T, H, W, p) ** 2 * h * b, likely("2.6", "not bytes")),
        "patch once": (lambda T, H, W, p, h, b, e: (T * H * W // p + 1) ** 2 * h * b * e, likely("2.6", "both")),
        "tubes": (
            lambda T, H, W, p, h, b, e: tokens_of(-(-T // 2), H, W, p) ** 2 * h * b * e,
            likely("2.6", "two frames share"),
        ),
        "gigabytes": (lambda T, H, W, p, h, b, e: tokens_of(T, H, W, p) ** 2 * h * b * e / 1e9, "wanted "),
    },
}
