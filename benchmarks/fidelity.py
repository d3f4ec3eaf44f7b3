"""How close the fast environment's picture is to the stock one's; also as a side-by-side picture.

python -m benchmarks.fidelity [--picture fidelity.png]
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.findings import FRACTION, Figure, Table, benchmark_parser, tell
from output_file import replacing
from references.stock_picture import POLICIES, compare, frame_pairs


def side_by_side(magnify: int = 8, scale: int = 3) -> NDArray[np.uint8]:
    """Some frames in a row each: fast, stock and `magnify` times their difference, enlarged; uint8 (height, width)."""
    shown = [  # track seed, policy, frame number
        (0, "road", 0),
        (0, "road", 25),
        (1, "road", 140),
        (2, "road", 200),
        (3, "spinning", 120),
        (11, "straight", 170),
    ]
    rows = []
    for seed, name, number in shown:
        *_, (fast, stock, _) = frame_pairs(seed, POLICIES[name](seed), number + 1)
        difference = np.clip(np.abs(fast.astype(np.int16) - stock) * magnify, 0, 255).astype(np.uint8)
        gap = np.full((fast.shape[0], 4), 255, np.uint8)
        rows.append(np.hstack([fast, gap, stock, gap, difference]))
    columns = [np.vstack(rows[:3]), np.full((3 * rows[0].shape[0], 12), 255, np.uint8), np.vstack(rows[3:])]
    return np.hstack(columns).repeat(scale, axis=0).repeat(scale, axis=1)


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--picture", type=Path, help="a file for frames of both and eight times their difference")
    options = parser.parse_args()
    if options.picture is not None:
        with replacing(options.picture) as new_path:
            cv2.imwrite(str(new_path), side_by_side())
    found = compare(range(6), 160)
    figures = [
        Figure("mean absolute difference", [found.mean_difference], "levels of 255"),
        Figure("pixels that differ by more than 16 levels", [found.fraction_off_by_16], FRACTION),
        Figure("mean absolute difference of the worst frame", [found.worst_frame], "levels of 255"),
    ]
    tell([Table(f"The fast game's picture against the stock one's, {found.n_frames:,} frames", figures)], options.json)


if __name__ == "__main__":
    main()
