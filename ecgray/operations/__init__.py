"""Around the runs: is this machine or cluster fit for them, which are there, and what a large one would take."""
