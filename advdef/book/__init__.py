"""What makes the book: records, runs, pages, the site. Nothing outside this folder imports it but the command line."""
