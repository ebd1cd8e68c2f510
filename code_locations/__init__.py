"""When and where each source is loaded. One folder is one container is one team."""
