"""The code location of those who operate the deployment. It loads nothing: it watches what the others do."""
