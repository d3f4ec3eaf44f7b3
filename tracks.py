"""The tracks that policies are scored on, by purpose. Training meets none of them."""

from car_racing import TRAINING_TRACK_SEEDS

# Seeds: the published score, choosing the best checkpoint, and comparing policies and settings while
# developing. They share no seed with each other or with training, so no choice is made on the tracks that judge it.
SCORING_TRACKS = range(100)
VALIDATION_TRACKS = range(1_000, 1_100)
DEVELOPMENT_TRACKS = range(5_000, 6_000)
assert max(*SCORING_TRACKS, *VALIDATION_TRACKS, *DEVELOPMENT_TRACKS) < TRAINING_TRACK_SEEDS.start
