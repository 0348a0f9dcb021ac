"""Playing dialogues: one scheduler over backends that turn prompts into completions."""
