"""Studies: a baseline and arms one change apart, run, compared and reported."""
