"""From episodes to numbers with intervals, and what they come to in words: pure functions."""
