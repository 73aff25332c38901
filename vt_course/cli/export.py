"""The verb that makes a file of a model for other programs."""

from pathlib import Path

from vt_course.cli.common import need_data, option, print_json, print_table, verb
from vt_course.cli.evaluate import CLASSES, MODEL, opened


@verb(
    "export",
    "Write a model as one file for other programs (ONNX, torch.export), and check that it answers alike.",
    "vt-course export video_swin_mini --to onnx --out video_swin_mini.onnx",
    MODEL,
    option(
        "--to", choices=["onnx", "torch"], required=True, help="onnx: needs the extra `export`; torch: torch.export"
    ),
    option("--out", type=Path, required=True, metavar="FILE", help="ends in .onnx or .pt2"),
    option("--int8", action="store_true", help="ONNX with linear layers in int8; says what that costs on 64 clips"),
    CLASSES,
)
def export(args) -> int:
    from vt_course.training.export import export

    trained = opened(args)
    if args.int8:
        need_data()
    found = export(trained, args.to, args.out, int8=args.int8)
    if args.json:
        print_json(found)
        return 0
    print_table(
        [row | {k: f"{row[k]:.2g}" for k in ("difference", "largest")} for row in found["checks"]],
        {"input": "input", "batch": "batch", "difference": "largest difference", "largest": "largest logit"},
    )
    if found["reversed"] is not None:
        print(f"The clip played backwards changes the model's own logits by {found['reversed']:.2g}.")
    if args.int8:
        print(loss(found["int8"]))
    print(f"{found['file']}: {found['model']}, {found['mb']:.1f} MB, input {' x '.join(map(str, found['input']))}")
    return 0


def loss(found: dict) -> str:
    """One line on what int8 costs."""
    text = (
        f"int8 against the model, on {found['clips']} clips: {100 * found['same']:.1f} % the same answer, a "
        f"probability differs by up to {found['probability']:.3f}"
    )
    if "top1" in found:
        text += f"; right are {100 * found['top1_int8']:.1f} % (the model: {100 * found['top1']:.1f} %)"
    return text + "."
