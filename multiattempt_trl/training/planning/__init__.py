"""What a run will need, counted before it is begun: dialogues, steps, and memory on each GPU. No trainer is made."""
