"""The official weights: where their authors published them, and `get`, which converts them to our names.

Every address below was read in the repository file that is named as its `source`. We published none of them. A name is
`variant/data`: first the variant of the zoo, then the data sets of its training, the last one first (`k400_in22k` means
Kinetics-400 after ImageNet-22K), and then what else distinguishes two files. Below `own_data()/weights`, `get(name)`
writes

    NAME.safetensors   the weights under our names; its header has address, licence and checksum of the original
    NAME.sha256        the checksums of both files, in the format of `sha256sum`

Of the publishers, only torchvision states checksums. So the checksum of the first download is stored, and
a later download with another one is refused. Without a network: put the original at NAME.pth and call `get`. With a
mirror: set the environment variable VT_COURSE_WEIGHTS_URL. It replaces `https://host` in every
address; the path after it stays, and the part after `?` is dropped.
"""

import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import torch

from vt_course import CourseError, data_roots, own_data
from vt_course.fetch.download import fetch
from vt_course.files import alone, atomic_write, read_utf8, sha256_of
from vt_course.models import ZOO, create, mini_weights
from vt_course.models.cost import count_parameters
from vt_course.models.official import from_official
from vt_course.training.checkpoint import not_finite, read_checkpoint, save_weights

# Classes of the head. 21,841: microsoft/Swin-Transformer data/build.py; 19,168: huggingface/pytorch-image-models
# timm/models/mvitv2.py; 1,059: TimeSformer section 4.6.
CLASSES = {
    "in1k": 1000,
    "in22k": 21841,
    "in21k": 19168,
    "k400": 400,
    "k600": 600,
    "ssv1": 174,
    "ssv2": 174,
    "ucf101": 101,
    "hmdb51": 51,
    "howto100m": 1059,
}


@dataclass(frozen=True)
class Release:
    """One published file."""

    name: str
    variant: str  # name of a variant of the zoo
    settings: dict  # further arguments: `create(variant, **settings)`
    url: str  # as published; `address` turns it into the address of the file itself
    licence: str
    source: str  # repository and file in which the address was read
    sha256: str | None = None  # all digits, or the first ones if the publisher states no more
    size: int | None = None  # bytes, if the publisher states them
    note: str = ""


def _files(
    licence: str, source: str, root: str, files: dict[str, str], tail: str = "", note: str = "", **settings
) -> list[Release]:
    rows = []
    for name, file in files.items():
        variant, data = name.split("/")
        head = {"num_classes": CLASSES[data.split("_")[0]]}
        rows.append(Release(name, variant, head | settings, root + file + tail, licence, source, note=note))
    return rows


STORAGE = "https://github.com/SwinTransformer/storage/releases/download/"
FAIR = "https://dl.fbaipublicfiles.com/"
DROPBOX, TIMESFORMER = "https://www.dropbox.com/s/", "facebookresearch/TimeSformer README.md"
DRIVE, VIEW = "https://drive.google.com/file/d/", "/view?usp=sharing"
APACHE, CC = "Apache-2.0", "CC BY-NC 4.0: no commercial use"
MIT_OR_APACHE = "MIT (README.md), Apache-2.0 (LICENSE)"
MODEL_ZOO = "facebookresearch/SlowFast MODEL_ZOO.md"
MVITV2 = "facebookresearch/SlowFast projects/mvitv2/README.md"
UNIFORMER_IMAGE = "Sense-X/UniFormer image_classification/README.md"
LABELS = "trained with token labelling"
HUB = "facebookresearch/pytorchvideo pytorchvideo/models/hub/vision_transformers.py"

OFFICIAL: list[Release] = [
    *_files(
        "MIT",
        "microsoft/Swin-Transformer MODELHUB.md",
        STORAGE,
        {
            "swin_tiny/in1k": "v1.0.0/swin_tiny_patch4_window7_224.pth",
            "swin_small/in1k": "v1.0.0/swin_small_patch4_window7_224.pth",
            "swin_base/in1k": "v1.0.0/swin_base_patch4_window7_224.pth",
            "swin_base_384/in1k": "v1.0.0/swin_base_patch4_window12_384.pth",
            "swin_tiny/in22k": "v1.0.8/swin_tiny_patch4_window7_224_22k.pth",
            "swin_tiny/in1k_in22k": "v1.0.8/swin_tiny_patch4_window7_224_22kto1k_finetune.pth",
            "swin_small/in22k": "v1.0.8/swin_small_patch4_window7_224_22k.pth",
            "swin_small/in1k_in22k": "v1.0.8/swin_small_patch4_window7_224_22kto1k_finetune.pth",
            "swin_base/in22k": "v1.0.0/swin_base_patch4_window7_224_22k.pth",
            "swin_base/in1k_in22k": "v1.0.0/swin_base_patch4_window7_224_22kto1k.pth",
            "swin_base_384/in22k": "v1.0.0/swin_base_patch4_window12_384_22k.pth",
            "swin_base_384/in1k_in22k": "v1.0.0/swin_base_patch4_window12_384_22kto1k.pth",
            "swin_large/in22k": "v1.0.0/swin_large_patch4_window7_224_22k.pth",
            "swin_large/in1k_in22k": "v1.0.0/swin_large_patch4_window7_224_22kto1k.pth",
            "swin_large_384/in22k": "v1.0.0/swin_large_patch4_window12_384_22k.pth",
            "swin_large_384/in1k_in22k": "v1.0.0/swin_large_patch4_window12_384_22kto1k.pth",
        },
    ),
    *_files(
        APACHE,
        "SwinTransformer/Video-Swin-Transformer README.md",
        STORAGE + "v1.0.4/",
        {
            "video_swin_tiny/k400": "swin_tiny_patch244_window877_kinetics400_1k.pth",
            "video_swin_small/k400": "swin_small_patch244_window877_kinetics400_1k.pth",
            "video_swin_base/k400": "swin_base_patch244_window877_kinetics400_1k.pth",
            "video_swin_base/k400_in22k": "swin_base_patch244_window877_kinetics400_22k.pth",
            "video_swin_base_k600/k600": "swin_base_patch244_window877_kinetics600_22k.pth",
            "video_swin_base_ssv2/ssv2": "swin_base_patch244_window1677_sthv2.pth",
            "video_swin_base_ssv2/k400_in22k": "swin_base_patch244_window1677_kinetics400_22k.pth",
        },
    ),
    *_files(
        APACHE,
        MODEL_ZOO,
        DRIVE,
        {
            "mvit_base_16x4/k400": "194gJinVejq6A1FmySNKQ8vAN5-FOY-QL",
            "mvit_image_base_16/in1k": "1dYYqUB-3DSgBVc9d6o-rW8ojtVsrFLgp",
        },
        VIEW,
    ),
    *_files(
        APACHE,
        MODEL_ZOO,
        FAIR + "pyslowfast/model_zoo/mvit/",
        {"mvit_base_24_32x3/k400": "k400.pyth", "mvit_base_24_32x3/k600": "k600.pyth"},
        note="the 24-layer model, although the file calls it B 32x3",
    ),
    *_files(
        APACHE,
        HUB,
        FAIR + "pytorchvideo/model_zoo/",
        {
            "mvit_base_16x4/k400_pytorchvideo": "kinetics/MVIT_B_16x4.pyth",
            "mvit_base_32x3/k400_pytorchvideo": "kinetics/MVIT_B_32x3_f294077834.pyth",
            "mvit_image_base_16/in1k_pytorchvideo": "imagenet/MVIT_B_16_f292487636.pyth",
        },
        note="trained by PyTorchVideo",
    ),
    *_files(
        APACHE,
        MVITV2,
        FAIR + "pyslowfast/model_zoo/mvitv2/pysf_video_models/",
        {
            "mvit_v2_small_16x4/k400": "MViTv2_S_16x4_k400_f302660347.pyth",
            "mvit_v2_base_32x3/k400": "MViTv2_B_32x3_k400_f304025456.pyth",
            "mvit_v2_large_40x3/k400": "MViTv2_L_40x3_k400_f306903192.pyth",
            "mvit_v2_small_16x4/ssv2": "MViTv2_S_16x4_ssv2_f308341823.pyth",
            "mvit_v2_base_32x3/ssv2": "MViTv2_B_32x3_ssv2_f305803282.pyth",
            "mvit_v2_large_40x3/ssv2": "MViTv2_L_40x3_ssv2_f309603968.pyth",
        },
    ),
    *_files(
        APACHE,
        "facebookresearch/mvit README.md",
        FAIR + "mvit/mvitv2_models/",
        {
            "mvit_v2_image_tiny/in1k": "MViTv2_T_in1k.pyth",
            "mvit_v2_image_small/in1k": "MViTv2_S_in1k.pyth",
            "mvit_v2_image_base/in1k": "MViTv2_B_in1k.pyth",
            "mvit_v2_image_large/in1k": "MViTv2_L_in1k.pyth",
        },
    ),
    *_files(
        APACHE,
        "facebookresearch/mvit README.md",
        FAIR + "mvit/mvitv2_models/",
        {
            "mvit_v2_image_base/in21k": "MViTv2_B_in21k.pyth",
            "mvit_v2_image_large/in21k": "MViTv2_L_in21k.pyth",
            "mvit_v2_image_huge/in21k": "MViTv2_H_in21k.pyth",
        },
        class_token=True,
    ),
    *_files(
        CC,
        TIMESFORMER,
        DROPBOX,
        {
            "timesformer_divided_8x224/k400": "g5t24we9gl5yk88/TimeSformer_divST_8x32_224_K400.pyth",
            "timesformer_hr_16x448/k400": "6f0x172lpqy3oxt/TimeSformer_divST_16x16_448_K400.pyth",
            "timesformer_l_96x224/k400": "r1iuxahif3sgimo/TimeSformer_divST_96x4_224_K400.pyth",
            "timesformer_divided_8x224/k600": "4h2qt41m2z3aqrb/TimeSformer_divST_8x32_224_K600.pyth",
            "timesformer_hr_16x448/k600": "ft1e92g2vhvxecv/TimeSformer_divST_16x16_448_K600.pyth",
            "timesformer_l_96x224/k600": "857rx6xeclxfhdg/TimeSformer_divST_96x4_224_K600.pyth",
            "timesformer_divided_8x224/ssv2": "tybhuml57y24wpm/TimeSformer_divST_8_224_SSv2.pyth",
            "timesformer_hr_16x448/ssv2": "9t68uzk8w2fpfnv/TimeSformer_divST_16_448_SSv2.pyth",
            "timesformer_l_64x224_ssv2/ssv2": "3f1rm2al8mhprwa/TimeSformer_divST_64_224_SSv2.pyth",
            "timesformer_divided_8x224/howto100m": "9v8hcm88b9tc6ff/TimeSformer_divST_8x32_224_HowTo100M.pyth",
            "timesformer_l_96x224/howto100m": "t2mzgahnfhgakma/TimeSformer_divST_96x32_224_HowTo100M.pyth",
        },
        "?dl=0",
    ),
    *_files(
        CC,
        TIMESFORMER,
        DROPBOX,
        {"timesformer_l_96x224/howto100m_32": "4roflx4q1gscu85/TimeSformer_divST_32x32_224_HowTo100M.pyth"},
        "?dl=0",
        num_frames=32,
    ),
    *_files(
        CC,
        TIMESFORMER,
        DROPBOX,
        {"timesformer_l_96x224/howto100m_64": "15bvqltl1j5vyp3/TimeSformer_divST_64x32_224_HowTo100M.pyth"},
        "?dl=0",
        "README.md says 448 pixels, the name of the file 224",
        num_frames=64,
    ),
    *_files(
        MIT_OR_APACHE,
        "Sense-X/UniFormer video_classification/README.md",
        DRIVE,
        {
            "uniformer_small_8/k400_8x8": "1-kitVTkWErHXI_x-sLItvK9-sOmb53j6",
            "uniformer_small_16/k400_16x4": "1-jGZIIuTM5IYIpqkNTojhGhfMc7Gu9Kt",
            "uniformer_small_16/k400_16x8": "174muWZJcZHieABDZMKiJ0tNeFLoEkJLx",
            "uniformer_base_8/k400_8x8": "1hBxGU-QE8hGRBjSNCymJ7Au06LhluvTv",
            "uniformer_base_16/k400_16x4": "15ipzFaZdTt-aHv7jcr_h_vgYD2X7D6AD",
            "uniformer_base_16/k400_16x8": "1VoZcpFZbk9lEyRQ7gqRgT4CsnVt9g7uk",
            "uniformer_base_32/k400_32x4": "1gHxx8cr1H0CNvngj1kB9ArgcPfJtqjCV",
            "uniformer_small_16_k600/k600_16x4": "1-dqzjm5RZVspWHQLRD4S1vo4_6jyVltb",
            "uniformer_small_16_k600/k600_16x8": "1-c835NJjg_015WxLBQF-1cPdQsyWMWfY",
            "uniformer_base_16_k600/k600_16x4": "1nBQCBCsCflhZ4OGUoGB3pAkc_GDau7vd",
            "uniformer_base_16_k600/k600_16x8": "1aidHdSd-h65-_EUkfNOdMMw0ZB8G5maY",
            "uniformer_base_32_k600/k600_32x4": "1-DwdVf8w8lYj-iFpU40pfEpog9VE5PQB",
            "uniformer_small_16_ssv2/ssv1_k400": "1-bdFsmXt2Ztf43lrVgmqS8_VYJ8tub6J",
            "uniformer_small_16_ssv2/ssv1_k600": "1-YbYGjM15MDtQnrmCeZ9H2ybNdYTFkgO",
            "uniformer_small_32_ssv2/ssv1_k400": "1-Y5ADssqM2C8o_1jix48fQM788mVGWQ3",
            "uniformer_small_32_ssv2/ssv1_k600": "1-XEgaGqXGp1EGzFl63ctApnvU54X27WP",
            "uniformer_base_16_ssv2/ssv1_k400": "1uMq4W5lf17vOHUmccNjYLeTMqaWHSh6v",
            "uniformer_base_16_ssv2/ssv1_k600": "1xpiL8zEDWYHFR55gOsbQiI41YEjTD89J",
            "uniformer_base_32_ssv2/ssv1_k400": "18A3FuUUbdQ8ehMQ0D78qTTtm6YmIVWaO",
            "uniformer_base_32_ssv2/ssv1_k600": "1xE1aJYAYFOlXOkpiIbJFHu_jSrr8reKm",
            "uniformer_small_16_ssv2/ssv2_k400": "1-Wq22024HB7tT8kPX6eSMn2GUNMI-_gY",
            "uniformer_small_16_ssv2/ssv2_k600": "1-V1mQp4fIIYhaXUWCgZXkJ0H6ne0Z8rz",
            "uniformer_small_32_ssv2/ssv2_k400": "1-5Q5S-NRmHFkIBygaRYpJLT7aI9cpmky",
            "uniformer_small_32_ssv2/ssv2_k600": "1-1K5R3Ed4t8d_DZnJ62xysIt1dBNmx96",
            "uniformer_base_16_ssv2/ssv2_k400": "1s78JBpnykyJ7pYEGRDK8BZL9seIRIUlC",
            "uniformer_base_16_ssv2/ssv2_k600": "16nCBGWzMM8n8Vr_EY0UmvgzLG0S_QYef",
            "uniformer_base_32_ssv2/ssv2_k400": "1-rpMARXnyvyj6YUJkIvVqtna86egpjoS",
            "uniformer_base_32_ssv2/ssv2_k600": "1-lkRB3546l_ECuObN_IrHws1C9a-qKPr",
            "uniformer_small_16/ucf101_k400": "1Ey8JIGcP8G2H0bKxyNnD61lvHV1eerVt",
            "uniformer_small_16/hmdb51_k400": "1Es4xtcEvQSomnbp6Eo7TC3JejIwHf5yS",
        },
        VIEW,
    ),
    *_files(
        MIT_OR_APACHE,
        UNIFORMER_IMAGE,
        DRIVE,
        {
            "uniformer_image_small/in1k": "1-uepH3Q3BhTmWU6HK-sGAGQC_MpfIiPD",
            "uniformer_image_small_plus/in1k": "10IN5ULcjz0Ld_lDokkTGOSmRFXLzUkEs",
            "uniformer_image_base/in1k": "1-wT39QazTGELxgrQIu6J12D3qcla3hui",
            "uniformer_image_base_ls/in1k": "10FnwzMVgGL8bPO3EMZ7oG4vDvqnPoBK5",
            "uniformer_image_large_ls/in1k_tl": "173e2qaJhOwbuC_DbNQSH47Oo_04mSfDj",
            "uniformer_image_small_384/in1k_tl": "16p4CXzuXC5J4_SJK67dsvnc8gTKmtKN1",
            "uniformer_image_small_plus_384/in1k_tl": "16wJT87vTc43Dt1q2sXrxZRUuEdrNdFdk",
            "uniformer_image_base_384/in1k_tl": "16kZlIarIwf9ldkCdHVKTQfFmDgfkucQ7",
            "uniformer_image_large_ls_384/in1k_tl": "174rcA6rNzYVG9Ya9ik-NwTGoxW1M79ez",
        },
        VIEW,
    ),
    *_files(
        MIT_OR_APACHE,
        UNIFORMER_IMAGE,
        DRIVE,
        {"uniformer_image_small_plus/in1k_dim64": "178ipRvMBKeAP_Fzy6fEr2HQkIQWdgEY6"},
        VIEW,
        head_dim=64,
    ),
    *_files(
        MIT_OR_APACHE,
        UNIFORMER_IMAGE,
        DRIVE,
        {
            "uniformer_image_small/in1k_tl": "16wjfeyqQFZ2x9W91EXf0Py1bfv4Fydfr",
            "uniformer_image_small_plus/in1k_tl": "16rgtEVEeX3jVTQaiLsojBQP5sRaj_2aZ",
            "uniformer_image_base/in1k_tl": "16nsTjawiYZuoCHBRarr58zA7vCFcmQmL",
        },
        VIEW,
        LABELS,
        head_dim=32,
        aux_head=True,
    ),
    *_files(
        MIT_OR_APACHE,
        UNIFORMER_IMAGE,
        DRIVE,
        {
            "uniformer_image_small/in1k_tl_dim64": "17NC5qqAWCT2gI_jY_cJnFTOqRQTSwsoz",
            "uniformer_image_small_plus/in1k_tl_dim64": "17OfoDWt2_nA0BYN0OuLPpG8mHJDTluQQ",
            "uniformer_image_base/in1k_tl_dim64": "17MneG9CnZG6zBvXYUr4WUXoTYc4rjJj5",
        },
        VIEW,
        LABELS,
        head_dim=64,
        aux_head=True,
    ),
]


TORCHVISION = {
    "swin_t": "swin_tiny",
    "swin_s": "swin_small",
    "swin_b": "swin_base",
    "swin3d_t": "video_swin_tiny",
    "swin3d_s": "video_swin_small",
    "swin3d_b": "video_swin_base",
    "mvit_v1_b": "mvit_base_16x4",
    "mvit_v2_s": "mvit_v2_small_16x4",
}


@cache
def releases() -> dict[str, Release]:
    """name -> published file: `OFFICIAL`, and torchvision's files for the same networks, as torchvision lists them."""
    from torchvision.models import get_model_weights

    theirs = []
    for network, variant in TORCHVISION.items():
        for weights in get_model_weights(network):
            theirs.append(
                Release(
                    f"torchvision/{network}" + "_22k" * ("IMAGENET22K" in weights.name),
                    variant,
                    {"num_classes": len(weights.meta["categories"])},
                    weights.url,
                    "BSD-3-Clause",
                    f"torchvision.models.get_model_weights({network!r}).{weights.name}",
                    # By a convention that torch.hub documents, the file's name ends in the first digits of its sha256.
                    sha256=re.search(r"-([0-9a-f]{8,})\.pth$", weights.url)[1],
                    note=f"recipe: {weights.meta['recipe']}",
                )
            )
    return {release.name: release for release in [*OFFICIAL, *theirs]}


def release_table() -> list[dict]:
    """One row for each published file, with the fields of `Release`. `sha256` and `size` are None if not stated.

    `weights_mb` is the size of the weights in float32, in MB, counted on our model. This is what `get` leaves on disk.
    The published file is about as large, or three times as large if it also holds the optimiser's state.
    """
    return [row(name) for name in releases()]


@cache
def weights_mb(variant: str) -> float:
    with torch.device("meta"):
        return 4e-6 * count_parameters(create(variant))


def most_bytes(variant: str) -> int:
    """The bytes that a published file can have at most: the weights, their average, and AdamW's two moments of each."""
    return int(6e6 * weights_mb(variant)) + (64 << 20)


def row(name: str) -> dict:
    """The row of one published file. Raises CourseError for an unknown name; the message names similar ones."""
    release = find(name)
    return asdict(release) | {"weights_mb": weights_mb(release.variant)}


def find(name: str) -> Release:
    if name not in releases():
        close = get_close_matches(name, releases(), n=3, cutoff=0.4)
        raise CourseError(
            f"there are no published weights called {name!r}"
            + (f", did you mean {' or '.join(close)}" if close else "")
            + "; see `vt-course weights list`"
        )
    return releases()[name]


def address(url: str) -> str:
    """The address of the file itself: on the mirror, or the address for direct download of Google Drive and Dropbox."""
    parts = urlsplit(url)
    if mirror := os.environ.get("VT_COURSE_WEIGHTS_URL"):
        return mirror.rstrip("/") + parts.path
    if parts.netloc == "drive.google.com":  # /file/d/ID/view is a page; `confirm` skips one on virus scans
        return f"https://drive.usercontent.google.com/download?id={parts.path.split('/')[3]}&export=download&confirm=t"
    if parts.netloc == "www.dropbox.com":
        return url.replace("dl=0", "dl=1")
    return url


def get(name: str, out: Path | None = None, *, progress: bool = True, keep_original: bool = False) -> Path:
    """Download the weights `name` into the folder `out`, convert them, and return the path of the safetensors file.

    If the weights are there already, they are only checked. The original is deleted after the conversion, unless
    `keep_original`. Raises `CourseError` for an unknown name, a failed download (see `fetch`), a file that holds more
    than weights, a file that does not fit the variant, and a file that differs from the first download.
    """
    release = find(name)
    for root in data_roots()[1:] if out is None else ():  # what an installation for many has is only read
        there = root / "weights" / f"{name}.safetensors"
        if there.is_file() and read_record(there.with_suffix(".sha256")).get(there.name) == sha256_of(there):
            return there
    final = Path(out or own_data() / "weights") / f"{name}.safetensors"
    original, record = final.with_suffix(".pth"), final.with_suffix(".sha256")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with alone(final.with_suffix(".lock"), progress):
            known = read_record(record)
            if final.is_file() and known.get(final.name) == sha256_of(final):
                return final
            fetch(
                address(release.url),
                original,
                sha256=release.sha256,
                size=release.size,
                most=most_bytes(release.variant),
                progress=progress,
            )
            checksum = sha256_of(original)
            if known.get(original.name, checksum) != checksum:
                raise CourseError(
                    f"{original} has the sha256 {checksum}, the first download of {name} had "
                    f"{known[original.name]}: its publisher replaced the file, or somebody else did; delete "
                    f"{record} to accept this one"
                )
            convert(release, original, final, checksum)
            atomic_write(record, f"{checksum}  {original.name}\n{sha256_of(final)}  {final.name}\n".encode())
            if not keep_original:
                original.unlink()
    except OSError as error:
        raise CourseError(
            f"cannot write below {final.parent} ({error.strerror or error}); mend that or choose another "
            "folder with --out"
        ) from error
    return final


def located(name: str, *, progress: bool = True) -> Path | str:
    """What `training.trained.open_model` opens, for what a user names: a run folder or a file of weights that exists; a
    mini, whose weights the package contains; or published weights, which `get` downloads unless they are there.

    The name of a variant is enough if only one file is published for it. Raises `CourseError` for anything else.
    """
    if os.path.exists(name) or name.endswith(".safetensors"):
        return Path(name)
    if name in ZOO:
        with suppress(ValueError):
            mini_weights(name)
            return name
        published = [release.name for release in releases().values() if release.variant == name]
        if len(published) != 1:
            raise CourseError(
                f"{name} has the published weights {', '.join(published)}: name one of them"
                if published
                else f"no weights of {name} are published; train it, or see `vt-course weights list`"
            )
        name = published[0]
    if name not in releases():
        close = get_close_matches(name, [*releases(), *ZOO], n=2, cutoff=0.6)
        raise CourseError(
            f"{name} does not exist: name a run folder, one of its .safetensors files, or a model that has weights"
            + (f"; did you mean {' or '.join(close)}?" if close else " (see `vt-course weights list`)")
        )
    return get(name, progress=progress)


def read_record(record: Path) -> dict[str, str]:
    """file name -> checksum, from a file in the format of `sha256sum`; {} if there is none."""
    lines = read_utf8(record, "delete it and run the same command again").splitlines() if record.is_file() else []
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}


def convert(release: Release, original: Path, final: Path, checksum: str) -> None:
    """Write the weights of the published file `original` to `final`, under our names; CourseError unless all fit."""
    try:
        model = create(release.variant, **release.settings)
        model.load_state_dict(from_official(model, read_checkpoint(original)), strict=True)
    except ValueError as error:
        if isinstance(error, CourseError):
            raise
        raise CourseError(
            f"the published {release.name}, kept at {original}, is not the {release.variant} of this "
            f"version of vt_course ({error}); report that with the output of `vt-course doctor`"
        ) from error
    if name := not_finite(model.state_dict()):
        raise CourseError(
            f"the published {release.name}, kept at {original}, has numbers in {name} that are not finite (NaN or "
            "infinity), so no model can use it; delete it and run the same command again, or tell its publisher"
        )
    save_weights(
        final,
        model,
        {
            "model": release.variant,
            "settings": release.settings,
            "release": release.name,
            "url": release.url,
            "source": release.source,
            "licence": release.licence,
            "sha256 of original": checksum,
        },
    )
