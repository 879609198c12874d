"""How results are drawn: tables as Markdown, CSV and LaTeX, figures as SVG and PNG, executed notebooks."""
