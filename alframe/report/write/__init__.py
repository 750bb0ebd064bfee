"""How it is written: HTML, Markdown, LaTeX, CSV, figures, console, TensorBoard."""
