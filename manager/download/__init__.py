"""Getting files whole: a queue of downloads that pause, resume, and survive being killed."""
