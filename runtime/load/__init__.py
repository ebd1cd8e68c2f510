"""What makes a load right: isolated from other runs, safe to retry, complete in what it records."""
