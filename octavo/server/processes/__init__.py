"""Several API processes in front of one engine process, and the parent that starts them all."""
