"""What the webserver, the daemon and the locations' servers need. The host image copies nothing else; no dlt."""
