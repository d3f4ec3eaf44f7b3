"""Hairpins whose legs lie close to each other.

Where two stretches of road lie side by side in the picture, a car may change over to the wrong one and drive it
backwards. One track of 150 has such a place: too few for a training to meet it often. So training tracks that have
one are listed.
"""

import numpy as np

from car_racing.track import Track

# The legs are tiles at least LEG_TILES apart along the road (of 3.5 units each), so a plain bend has none. They are
# close where their middles are less than CLOSE_LEGS units apart; the road is 13 wide. Some are the ends of a narrow
# U-turn, others stay side by side for 20 tiles and more.
LEG_TILES = 25
CLOSE_LEGS = 26.0


def closest_legs(track: Track) -> tuple[float, int, int]:
    """Where a road comes closest to itself: the distance in units, and the two tiles, the earlier one first."""
    centres = np.array([point[2:4] for point in track])
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    apart = np.abs(np.subtract.outer(np.arange(len(centres)), np.arange(len(centres))))
    distances[np.minimum(apart, len(centres) - apart) < LEG_TILES] = np.inf
    first, second = divmod(int(distances.argmin()), len(centres))
    return float(distances[first, second]), first, second


# The seeds below 1,020,000 of the training tracks with close legs. The tests find those of the first 1,000 again.
# fmt: off
HAIRPIN_TRACKS = (
    1_000_086, 1_000_241, 1_000_277, 1_000_581, 1_000_719, 1_000_801, 1_000_852, 1_001_026, 1_001_148,
    1_001_330, 1_001_564, 1_001_619, 1_001_686, 1_001_749, 1_001_760, 1_002_031, 1_002_248, 1_002_437,
    1_002_636, 1_002_639, 1_002_826, 1_003_198, 1_003_236, 1_003_461, 1_003_510, 1_003_841, 1_003_937,
    1_004_073, 1_004_329, 1_004_350, 1_004_484, 1_004_724, 1_004_876, 1_005_123, 1_005_128, 1_005_160,
    1_005_585, 1_005_595, 1_005_713, 1_005_889, 1_006_154, 1_006_251, 1_006_358, 1_006_506, 1_007_121,
    1_007_181, 1_007_514, 1_007_623, 1_007_633, 1_007_925, 1_007_955, 1_008_044, 1_008_046, 1_008_088,
    1_008_112, 1_008_147, 1_008_184, 1_008_187, 1_008_397, 1_008_568, 1_008_580, 1_008_601, 1_008_749,
    1_008_888, 1_009_182, 1_009_254, 1_009_269, 1_009_451, 1_009_525, 1_009_768, 1_009_874, 1_009_880,
    1_009_938, 1_009_996, 1_010_114, 1_010_172, 1_010_666, 1_010_824, 1_010_915, 1_011_482, 1_011_581,
    1_011_629, 1_011_746, 1_011_789, 1_011_907, 1_011_971, 1_012_114, 1_012_271, 1_012_339, 1_012_652,
    1_012_732, 1_012_948, 1_013_201, 1_013_457, 1_013_715, 1_013_917, 1_014_113, 1_014_150, 1_014_306,
    1_014_573, 1_014_577, 1_014_727, 1_014_867, 1_014_931, 1_015_390, 1_015_464, 1_015_536, 1_015_689,
    1_015_723, 1_015_889, 1_016_295, 1_016_461, 1_016_656, 1_016_749, 1_016_759, 1_017_056, 1_017_817,
    1_017_957, 1_018_051, 1_018_270, 1_018_271, 1_018_321, 1_018_714, 1_018_737, 1_018_744, 1_018_860,
    1_018_981, 1_019_093, 1_019_306, 1_019_490, 1_019_500, 1_019_561, 1_019_690, 1_019_904, 1_019_949, 1_019_956,
)
# fmt: on
