"""The trainers: thin TRL subclasses over pure tensor functions. The only room that subclasses TRL."""
