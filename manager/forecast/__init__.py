"""What a run takes, before anything is loaded: decided purely from frozen facts."""
