"""What people read of an evaluation: pages, Markdown, figures, a table in the terminal."""
