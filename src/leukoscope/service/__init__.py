"""One process that answers over HTTP and shows a web page; no torch."""
