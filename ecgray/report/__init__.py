"""What stored runs scored, as a page, Markdown, CSV and PNG."""
