"""Draw the README's picture again: python -m vt_course.lab.show"""

from io import BytesIO

from PIL import Image

from vt_course import repo_root
from vt_course.lab.show.windows import window_numbers, windows_3d


def main() -> None:
    """Draw the README's picture; a palette of 128 colours keeps it small."""
    path = repo_root() / "notebooks" / "img" / "windows_27.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    size, window = (8, 8, 8), (4, 4, 4)
    fig = windows_3d(
        [window_numbers(size, window), window_numbers(size, window, (2, 2, 2))],
        [
            "One block: 8 × 8 × 8 tokens attend in 8 windows of 4 × 4 × 4",
            "The next: windows shifted by 2 along T, H and W, so 27 windows",
        ],
        gap=0.9,
    )
    buffer = BytesIO()
    fig.savefig(buffer, dpi=160)
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
