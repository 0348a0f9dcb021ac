"""The game itself: questions, attempts, verdicts, feedback and prices. Standard library only."""
